"""Statistics of the training data, by which trainers normalise what their models see."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np


class Moments:
  """Mean and variance of every dimension of data that come in pieces, in float64.

  Pieces are merged by their count, mean and sum of squared deviations (Chan, Golub and LeVeque,
  "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979), which loses
  nothing where a mean is large beside its deviation, as sums of squares do.

  Attributes:
    n: rows so far.
    mean: f64[D].
    m2: f64[D], the sum of squared deviations from the mean.
  """

  def __init__(self, n: int = 0, mean=0.0, m2=0.0):
    self.n = int(n)
    self.mean, self.m2 = (np.asarray(x, np.float64) for x in (mean, m2))

  def add(self, x: np.ndarray, keep: np.ndarray | None = None) -> "Moments":
    """Takes data into account; returns itself.

    Args:
      x: f[...,D]; one number over all dimensions is that of x[..., None].
      keep: bool[...], false for rows that do not count, such as padding.
    """
    x = np.asarray(x, np.float64)
    x = x.reshape(-1, x.shape[-1]) if keep is None else x[np.asarray(keep, bool)]
    if not len(x):
      return self
    mean = x.mean(0)
    return self.merge(Moments(len(x), mean, np.square(x - mean).sum(0)))

  def merge(self, other: "Moments") -> "Moments":
    """Adds what another has seen; returns itself."""
    n = self.n + other.n
    if other.n:
      delta = other.mean - self.mean
      self.mean = self.mean + delta * (other.n / n)
      self.m2 = self.m2 + other.m2 + np.square(delta) * (self.n * other.n / n)
    self.n = n
    return self

  @property
  def std(self) -> np.ndarray:
    """f64[D], of the population (divided by n).

    Raises:
      ValueError: nothing was added.
    """
    if not self.n:
      raise ValueError("Moments: nothing was added, so there is no mean or deviation.")
    return np.sqrt(self.m2 / self.n)


def moments(items: Iterable, parts: Mapping[str, Callable]) -> dict[str, dict[str, np.ndarray]]:
  """Mean and deviation of every dimension of what some functions make of data.

  Args:
    items: batches.
    parts: {name: fn of a batch -> f32[..., D]}.

  Returns:
    {name: {"mean", "std": f32[D]}}; a deviation is at least 5 % of the mean deviation, because
    dimensions that stand still in the training data would be blown up in another recording.
  """
  seen = {k: Moments() for k in parts}
  for item in items:
    for k, fn in parts.items():
      seen[k].add(np.asarray(fn(item)))
  out = {}
  for k, m in seen.items():
    std = np.maximum(m.std, 0.05 * m.std.mean() + 1e-6)
    out[k] = {"mean": m.mean.astype(np.float32), "std": std.astype(np.float32)}
  return out
