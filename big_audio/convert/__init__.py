"""Weights of public models: strict tables of keys, from safetensors to parameters and back."""

from big_audio.convert.files import Loaded, fit, load, save

__all__ = ["Loaded", "fit", "load", "save"]
