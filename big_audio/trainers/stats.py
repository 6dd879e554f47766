"""Statistics of the training data, by which trainers normalise what their models see."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np


def moments(items: Iterable, parts: Mapping[str, Callable]) -> dict[str, dict[str, np.ndarray]]:
  """Mean and deviation of every dimension of what some functions make of data.

  Args:
    items: batches.
    parts: {name: fn of a batch -> f32[..., D]}.

  Returns:
    {name: {"mean", "std": f32[D]}}; a deviation is at least 5 % of the mean deviation, because
    dimensions that stand still in the training data would be blown up in another recording.
  """
  sums = {k: np.zeros(3, object) for k in parts}
  for item in items:
    for k, fn in parts.items():
      x = np.asarray(fn(item), np.float64)
      x = x.reshape(-1, x.shape[-1])
      sums[k] = sums[k] + np.array([len(x), x.sum(0), (x**2).sum(0)], object)
  out = {}
  for k, (n, total, square) in sums.items():
    mean = total / n
    std = np.sqrt(np.maximum(square / n - mean**2, 0.0))
    std = np.maximum(std, 0.05 * std.mean() + 1e-6)
    out[k] = {"mean": mean.astype(np.float32), "std": std.astype(np.float32)}
  return out
