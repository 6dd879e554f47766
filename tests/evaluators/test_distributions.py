"""Distances between sets against closed forms, scipy, plain definitions and public packages."""

import numpy as np
import pytest
from scipy import linalg

from big_audio.evaluators import distributions


def sets(dim=6):
  rng = np.random.RandomState(0)  # a stream that numpy keeps for ever
  return rng.randn(300, dim), rng.randn(250, dim) * 0.8 + 0.5


def by_sqrtm(x, y):
  cx, cy = np.cov(x.T), np.cov(y.T)
  root = linalg.sqrtm(cx @ cy).real
  return np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(cx + cy - 2 * root)


def test_frechet_by_scipy_and_closed_forms():
  x, y = sets()
  x = x @ np.random.RandomState(1).randn(6, 6)  # correlated
  assert distributions.frechet_distance(x, y) == pytest.approx(by_sqrtm(x, y), rel=1e-9)
  assert distributions.frechet_distance(x, y) == pytest.approx(distributions.frechet_distance(y, x))
  assert distributions.frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
  # A shift costs its square, a scale (s - 1)^2 of the variance.
  assert distributions.frechet_distance(x, x + 0.5) == pytest.approx(6 * 0.25, rel=1e-9)
  z = x - x.mean(0)
  want = 4 * np.trace(np.cov(x.T))
  assert distributions.frechet_distance(z, 3 * z) == pytest.approx(want, rel=1e-9)
  # One dimension: (m1 - m2)^2 + (s1 - s2)^2.
  a, b = x[:, :1], y[:, :1]
  want = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
  assert distributions.frechet_distance(a, b) == pytest.approx(want, rel=1e-9)


def test_frechet_of_fewer_rows_than_dimensions():
  rng = np.random.RandomState(2)
  x, y = rng.randn(20, 64).astype(np.float32), rng.randn(30, 64).astype(np.float32)
  # tr (Cx Cy)^(1/2) is the nuclear norm of Xc Yc^T / sqrt((n-1)(m-1)): another way to it.
  xc, yc = (s.astype(np.float64) - s.mean(0, dtype=np.float64) for s in (x, y))
  nuclear = np.linalg.norm(xc @ yc.T, "nuc") / np.sqrt(19 * 29)
  mean = np.sum((x.mean(0, dtype=np.float64) - y.mean(0, dtype=np.float64)) ** 2)
  want = mean + np.sum(xc**2) / 19 + np.sum(yc**2) / 29 - 2 * nuclear
  assert distributions.frechet_distance(x, y) == pytest.approx(want, rel=1e-6)
  assert distributions.frechet_distance(x, x) == pytest.approx(0, abs=1e-4)
  constant = np.ones((10, 3))
  assert distributions.frechet_distance(constant, constant + 2) == pytest.approx(12)


def test_kernel_distance_by_definition_and_golden():
  x, y = sets()
  k = lambda a, b: (a @ b / 6 + 1) ** 3
  n, m = 12, 9
  a, b = x[:n], y[:m]
  want = sum(k(a[i], a[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
  want += sum(k(b[i], b[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
  want -= 2 * np.mean([[k(p, q) for q in b] for p in a])
  assert distributions.kernel_distance(a, b) == (pytest.approx(want), 0.0)
  # torch-fidelity 0.4.0, kid_features_to_metric of one subset of all 250 rows.
  assert distributions.kernel_distance(x[:250], y)[0] == pytest.approx(0.8994397487565231)


def test_kernel_distance_is_unbiased_and_its_subsets_are_seeded():
  rng = np.random.RandomState(3)
  values = [
    distributions.kernel_distance(rng.randn(40, 4), rng.randn(40, 4))[0] for _ in range(300)
  ]
  assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(300) and min(values) < 0
  x, y = sets()
  mean, std = distributions.kernel_distance(x, y, subsets=20, subset_size=100)
  assert std > 0 and mean == pytest.approx(distributions.kernel_distance(x, y)[0], abs=3 * std)
  assert (mean, std) == distributions.kernel_distance(x, y, subsets=20, subset_size=100)


def test_manifold_golden_and_extremes():
  got = distributions.manifold(*sets(), k=5)
  # prdc 0.2, compute_prdc(nearest_k=5).
  want = dict(precision=0.992, recall=0.6633333333333333, density=1.1528, coverage=0.76)
  assert vars(got) == pytest.approx(want)
  x, _ = sets()
  same = distributions.manifold(x, x)
  assert same.precision == same.recall == same.coverage == 1
  far = distributions.manifold(x, x + 100)
  assert vars(far) == dict(precision=0, recall=0, density=0, coverage=0)
  # All samples alike inside the real set: precise, without recall.
  collapsed = distributions.manifold(x, np.zeros((50, 6)) + 1e-3 * x[:50])
  assert collapsed.precision == 1 and collapsed.recall < 0.05 and collapsed.coverage < 0.5


def test_blocks_change_nothing(monkeypatch):
  want = distributions.manifold(*sets())
  monkeypatch.setattr(distributions, "_BLOCK", 64)
  assert distributions.manifold(*sets()) == want


def test_errors():
  x, y = sets()
  with pytest.raises(ValueError, match=r"\(300, 6\) and \(250, 5\)"):
    distributions.frechet_distance(x, y[:, :5])
  with pytest.raises(ValueError, match="at least 6 rows, got 300 and 3"):
    distributions.manifold(x, y[:3])
  with pytest.raises(ValueError, match="not finite"):
    distributions.kernel_distance(x, y * np.nan)
