"""Losses: functions of arrays and callables that know no model."""
