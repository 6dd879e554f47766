"""Distances between two sets of features: Frechet, kernel, precision and recall. float64 numpy.

All take features [N, D], one row a sample, and compute in float64 whatever comes in. Distances are
computed in blocks, so memory grows with N times a block and not with N^2 times D.
"""

from dataclasses import dataclass

import numpy as np

_BLOCK = 1024


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
  """Frechet distance between Gaussians fitted to two sets (Heusel et al. 1706.08500, eq. 6).

  |mx - my|^2 + tr(Cx + Cy - 2 (Cx Cy)^(1/2)), without root, with unbiased covariances. It is
  biased: two finite sets of one distribution give more than 0, about D^2/N for small N, so compare
  only sets of equal sizes, and beside the distance of two real sets.

  Args:
    x: [N, D].
    y: [M, D].

  Returns:
    >= 0.

  Raises:
    ValueError: shapes disagree, fewer than two rows, or values that are not finite.
  """
  x, y = _checked("frechet_distance", x, y, least=2)
  return frechet_of_moments(x.mean(0), _covariance(x), y.mean(0), _covariance(y))


def frechet_of_moments(mean_x, cov_x, mean_y, cov_y) -> float:
  """`frechet_distance` of means f64[D] and covariances f64[D, D], which may be singular.

  tr (Cx Cy)^(1/2) is the sum of the roots of the eigenvalues of Cx^(1/2) Cy Cx^(1/2), which is
  symmetric: no complex root, no jitter on the diagonal.
  """
  values, vectors = np.linalg.eigh(cov_x)
  root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
  cross = np.linalg.eigvalsh(root @ cov_y @ root)
  trace = np.trace(cov_x) + np.trace(cov_y) - 2 * np.sum(np.sqrt(np.maximum(cross, 0)))
  return float(max(np.sum((mean_x - mean_y) ** 2) + trace, 0.0))


def kernel_distance(
  x: np.ndarray, y: np.ndarray, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> tuple[float, float]:
  """Squared MMD under the kernel (x.y / D + 1)^3, unbiased (KID; Binkowski et al. 1801.01401).

  Args:
    x: [N, D].
    y: [M, D].
    subsets: drawn without replacement; the result is their mean.
    subset_size: rows of a subset of each set. Sets of at most that size are taken whole, once.
    seed: of the subsets.

  Returns:
    (mean, standard deviation over subsets; 0 for one subset). May be below 0.

  Raises:
    ValueError: see `frechet_distance`.
  """
  x, y = _checked("kernel_distance", x, y, least=2)
  if max(len(x), len(y)) <= subset_size:
    return _mmd2(x, y), 0.0
  rng = np.random.default_rng(seed)
  n, m = min(len(x), subset_size), min(len(y), subset_size)
  values = [
    _mmd2(x[rng.choice(len(x), n, replace=False)], y[rng.choice(len(y), m, replace=False)])
    for _ in range(subsets)
  ]
  return float(np.mean(values)), float(np.std(values))


def _mmd2(x, y):
  kernel = lambda a, b: (a @ b.T / a.shape[1] + 1) ** 3
  n, m = len(x), len(y)
  xx, yy = kernel(x, x), kernel(y, y)
  within = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
  return float(within - 2 * kernel(x, y).mean())


@dataclass(frozen=True)
class Manifold:
  """How two sets cover each other; all but density are shares in [0, 1]."""

  precision: float
  recall: float
  density: float
  coverage: float


def manifold(real: np.ndarray, fake: np.ndarray, *, k: int = 5) -> Manifold:
  """Precision and recall (Kynkaanniemi et al. 1904.06991), density and coverage (2002.09797).

  A set's manifold is the union of balls around its rows, each as wide as the distance to the row's
  k-th neighbour in the set.

  Args:
    real: [N, D].
    fake: [M, D].
    k: neighbours.

  Raises:
    ValueError: see `frechet_distance`; fewer than k + 1 rows.
  """
  real, fake = _checked("manifold", real, fake, least=k + 1)
  real_radius, fake_radius = _radius(real, k), _radius(fake, k)
  inside = np.zeros(len(fake), np.int64)  # in how many balls of real rows a fake row lies
  recalled, covered = np.zeros(len(real), bool), np.zeros(len(real), bool)
  for i in range(0, len(real), _BLOCK):
    part = slice(i, i + _BLOCK)
    d = _square_distances(real[part], fake)
    inside += np.sum(d < real_radius[part, None], axis=0)
    recalled[part] = np.any(d < fake_radius, axis=1)
    covered[part] = np.min(d, axis=1) < real_radius[part]
  return Manifold(
    precision=float(np.mean(inside > 0)),
    recall=float(np.mean(recalled)),
    density=float(np.mean(inside) / k),
    coverage=float(np.mean(covered)),
  )


def _radius(x, k):
  """f64[N]: squared distance of each row to its k-th neighbour."""
  out = np.empty(len(x))
  for i in range(0, len(x), _BLOCK):
    d = _square_distances(x[i : i + _BLOCK], x)
    out[i : i + _BLOCK] = np.partition(d, k, axis=1)[:, k]  # the nearest is the row itself
  return out


def _square_distances(a, b):
  d = np.sum(a**2, 1)[:, None] + np.sum(b**2, 1) - 2 * a @ b.T
  return np.maximum(d, 0)


def _covariance(x):
  x = x - x.mean(0)
  return x.T @ x / (len(x) - 1)


def _checked(where, x, y, *, least):
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
    raise ValueError(f"{where}: expected features [N, D] and [M, D], got {x.shape} and {y.shape}.")
  if min(len(x), len(y)) < least:
    raise ValueError(
      f"{where}: expected at least {least} rows, got {len(x)} and {len(y)}. Use more items."
    )
  if not (np.all(np.isfinite(x)) and np.all(np.isfinite(y))):
    raise ValueError(f"{where}: the features hold values that are not finite.")
  return x, y
