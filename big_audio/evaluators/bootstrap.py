"""Confidence intervals of means over items, by the percentile bootstrap. numpy only."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

_CHUNK = 2**22  # resampled values held at a time


class Interval(NamedTuple):
  """A mean and the interval around it."""

  mean: float
  lo: float
  hi: float


def mean_interval(values, *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
  """Mean of a sample with a percentile bootstrap interval (Efron and Tibshirani 1993, ch. 13).

  For the difference of two systems on the same items, pass the differences: their interval is
  narrower than what two separate intervals suggest.

  Args:
    values: [N], one number an item; items must be independent (clips, not their frames). NaN
      marks an item without a value, which is left out.
    level: of confidence.
    resamples: draws of N items with replacement.
    seed: of the draws.

  Returns:
    Interval; NaN where no item has a value, and of no width where only one has.

  Raises:
    ValueError: not one dimension, or a level outside (0, 1).
  """
  values = np.asarray(values, np.float64)
  if values.ndim != 1 or not 0 < level < 1 or resamples < 1:
    raise ValueError(
      f"mean_interval: expected values [N], 0 < level < 1 and resamples > 0, got shape "
      f"{values.shape}, {level} and {resamples}."
    )
  values = values[~np.isnan(values)]
  n = len(values)
  if n == 0:
    return Interval(float("nan"), float("nan"), float("nan"))
  rng, means = np.random.default_rng(seed), []
  for start in range(0, resamples, chunk := max(1, _CHUNK // n)):
    draws = rng.integers(n, size=(min(chunk, resamples - start), n))
    means.append(values[draws].mean(axis=1))
  lo, hi = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
  return Interval(float(values.mean()), float(lo), float(hi))


def rows(name: str, values, *, ci: bool) -> Iterator[tuple[str, float]]:
  """(name, mean of the values that are not NaN), with `ci` also <name>_lo and <name>_hi."""
  values = np.asarray(values, np.float64)
  if not ci:
    real = values[~np.isnan(values)]
    yield name, float(real.mean()) if len(real) else float("nan")
    return
  mean, lo, hi = mean_interval(values)
  yield name, mean
  yield f"{name}_lo", lo
  yield f"{name}_hi", hi
