"""Statistics in pieces are those of the whole."""

import numpy as np
import pytest

from big_audio.trainers.stats import Moments, moments


def pieces(seed, shift=0.0, d=5):
  rng = np.random.default_rng(seed)
  sizes = rng.integers(1, 40, 12)
  return [shift + rng.standard_normal((n, d)) * rng.uniform(0.1, 3) for n in sizes]


@pytest.mark.parametrize("shift", [0.0, 1e4])
@pytest.mark.parametrize("seed", range(4))
def test_merged_statistics_are_numpys_on_the_whole_defect_2(seed, shift):
  """The reference took the mean of each batch for its data: the deviation was far too small."""
  parts = pieces(seed, shift)
  whole = np.concatenate(parts)
  one_by_one = Moments()
  for p in parts:
    one_by_one.add(p)
  halves = [Moments() for _ in range(3)]
  for i, p in enumerate(parts):
    halves[i % 3].add(p)
  merged = halves[2].merge(halves[0]).merge(halves[1])
  for m in (one_by_one, merged, Moments().merge(merged), Moments(m2=0).merge(one_by_one)):
    assert m.n == len(whole) and m.mean.dtype == m.m2.dtype == np.float64
    np.testing.assert_allclose(m.mean, whole.mean(0), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(m.std, whole.std(0), rtol=1e-10)


def test_padding_does_not_count_and_one_number_for_all():
  rng = np.random.default_rng(0)
  x, keep = rng.standard_normal((3, 7, 4)), rng.random((3, 7)) < 0.6
  m = Moments().add(np.where(keep[..., None], x, 1e9), keep)
  np.testing.assert_allclose(m.mean, x[keep].mean(0), atol=1e-12)
  one = Moments().add(x[..., None], np.broadcast_to(keep[..., None], x.shape))
  np.testing.assert_allclose([one.mean[0], one.std[0]], [x[keep].mean(), x[keep].std()])
  assert one.n == keep.sum() * 4
  again = Moments(one.n, one.mean.tolist(), one.m2.tolist())
  assert again.std == one.std
  assert Moments().add(x, np.zeros((3, 7), bool)).n == 0
  with pytest.raises(ValueError, match="nothing was added"):
    _ = Moments().std


def test_moments_of_batches_and_their_floor():
  batches = [p.astype(np.float32) for p in pieces(1)]
  batches = [np.concatenate([b, np.full((len(b), 1), 7, np.float32)], 1) for b in batches]
  out = moments(batches, {"a": lambda b: b, "b": lambda b: 2 * b[:, None, :2]})
  whole = np.concatenate(batches).astype(np.float64)
  np.testing.assert_allclose(out["a"]["mean"], whole.mean(0), rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(out["a"]["std"][:5], whole.std(0)[:5], rtol=1e-6)
  np.testing.assert_allclose(out["a"]["std"][5], 0.05 * whole.std(0).mean() + 1e-6, rtol=1e-5)
  np.testing.assert_allclose(out["b"]["std"], 2 * whole.std(0)[:2], rtol=1e-6)
  assert out["a"]["std"].dtype == np.float32
