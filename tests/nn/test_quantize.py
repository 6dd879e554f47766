import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_audio.nn.quantize import FSQ, as_groups, code_usage

GROUPS = [[8, 5, 5, 5], [8, 5, 5]]


def _z(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_every_code_round_trips_and_lies_on_the_grid():
  fsq = FSQ([4, 3, 2])
  codes = jnp.arange(24, dtype=jnp.int32)[:, None]
  lat = np.asarray(fsq.from_codes(codes))
  grid = list(
    itertools.product(np.linspace(-1, 1, 2), np.linspace(-1, 1, 3), np.linspace(-1, 1, 4))
  )
  np.testing.assert_allclose(lat, np.array(grid)[:, ::-1], atol=1e-6)
  z = np.log((1 + lat * 0.999) / (1 - lat * 0.999)) / 1.6  # inverse of the bound
  back, got = fsq(z)
  np.testing.assert_array_equal(got, codes)
  np.testing.assert_array_equal(back, lat)


@pytest.mark.parametrize("levels", [[8, 5, 5, 5], GROUPS, [[8, 8, 8, 6, 5]] * 3])
def test_groups(levels):
  fsq = FSQ(levels)
  z = 3 * _z(2, 50, fsq.dim)
  lat, codes = jax.jit(fsq.__call__)(z)
  assert codes.dtype == jnp.int32 and codes.shape == (2, 50, len(fsq.groups))
  assert lat.shape == z.shape and np.max(np.abs(lat)) <= 1
  for i, size in enumerate(fsq.codebook_sizes):
    assert codes[..., i].min() >= 0 and codes[..., i].max() < size
  np.testing.assert_array_equal(jax.jit(fsq.from_codes)(codes), lat)
  np.testing.assert_array_equal(fsq.from_codes(codes), lat)
  np.testing.assert_array_equal(fsq.codes(z), codes)
  # The nearest level of the bounded latent, dimension by dimension.
  n = np.array([n for g in fsq.groups for n in g])
  want = np.round((np.asarray(fsq.bound(z)) + 1) * (n - 1) / 2) / ((n - 1) / 2) - 1
  np.testing.assert_allclose(lat, want, atol=1e-6)


def test_rates():
  assert FSQ([8, 5, 5, 5]).bits_per_frame == pytest.approx(math.log2(1000))
  assert FSQ([[8, 5, 5, 5]] * 3).bits_per_frame == pytest.approx(29.9, abs=0.01)
  assert FSQ([[8, 5, 5, 5]] * 4 + [[8, 5, 5]]).bits_per_frame == pytest.approx(47.5, abs=0.01)
  assert FSQ(GROUPS).dim == 7 and FSQ(GROUPS).codebook_sizes == (1000, 200)


def test_straight_through_forwards_and_backwards():
  fsq = FSQ(GROUPS)
  z, tangent = _z(4, 7), _z(4, 7, seed=1)
  quantised, smooth = (lambda x: fsq(x)[0]), fsq.bound
  weight = _z(4, 7, seed=2)
  got = jax.jit(jax.grad(lambda x: jnp.sum(quantised(x) * weight)))(z)
  want = jax.grad(lambda x: jnp.sum(smooth(x) * weight))(z)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)
  got = jax.jvp(quantised, (z,), (tangent,))[1]
  np.testing.assert_allclose(got, jax.jvp(smooth, (z,), (tangent,))[1], rtol=1e-4, atol=1e-6)
  nested = jax.grad(lambda x: jnp.sum(jax.jvp(quantised, (x,), (tangent,))[1]))(z)
  assert np.all(np.isfinite(nested))


def test_bfloat16_gives_the_codes_of_float32():
  fsq = FSQ(GROUPS)
  z = jnp.asarray(_z(100, 7), jnp.bfloat16)
  lat, codes = fsq(z)
  assert lat.dtype == jnp.bfloat16
  np.testing.assert_array_equal(codes, fsq.codes(z.astype(jnp.float32)))


def test_usage():
  codes = jnp.array([[0, 1], [1, 1], [0, 1], [1, 1], [3, 0]], jnp.int32)
  mask = jnp.array([1, 1, 1, 1, 0], bool)
  out = code_usage(codes, (4, 2), mask)
  np.testing.assert_allclose(out["usage"], [0.5, 0.5])
  np.testing.assert_allclose(out["perplexity"], [2, 1], rtol=1e-6)
  np.testing.assert_allclose(out["entropy_bits"], [1, 0], atol=1e-6)
  np.testing.assert_allclose(code_usage(codes, (4, 2))["usage"], [0.75, 1])
  empty = code_usage(codes, (4, 2), jnp.zeros(5, bool))
  np.testing.assert_allclose(empty["perplexity"], [1, 1])


def test_errors():
  with pytest.raises(ValueError, match="2 or more, got"):
    FSQ([8, 1]).groups
  with pytest.raises(ValueError, match="expected levels as"):
    as_groups([])
  with pytest.raises(ValueError, match="expected levels as"):
    as_groups([8, [5, 5]])
  with pytest.raises(ValueError, match="int32 cannot hold"):
    as_groups([16] * 8)
  with pytest.raises(ValueError, match="expected 7 latent dimensions in the last axis, got 6"):
    FSQ(GROUPS)(_z(3, 6))
  with pytest.raises(ValueError, match="expected 1 to 2 codes a frame, got 3"):
    FSQ(GROUPS).from_codes(jnp.zeros((3, 3), jnp.int32))
  with pytest.raises(ValueError, match="2 groups of codes but 1 sizes"):
    code_usage(jnp.zeros((3, 2), jnp.int32), (4,))
