import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_audio.nn.quantize import FSQ
from big_audio.nn.rvq import RVQ, Continuous, normalise

LEARN = ["gradient", "ema"]


def _z(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def run(module, variables, *args, method="quantise", **kw):
  """Compiled: operation by operation, each would be compiled for itself."""
  return jax.jit(lambda v, a: module.apply(v, *a, method=method, **kw))(variables, args)


def make(seed=0, **kw):
  rvq = RVQ(**{**dict(dim=6, size=16, stages=3, code_dim=4), **kw})
  key = jax.random.key(seed)
  init = jax.jit(lambda k: rvq.init({"params": k, "codes": k}, _z(2, 5, 6), method="quantise"))
  return rvq, init(key)


def train(rvq, variables, z, **kw):
  rngs = {"codes": jax.random.key(0)}
  return run(rvq, variables, z, mutable=["codebook"], rngs=rngs, **kw)


@pytest.mark.parametrize("learn", LEARN)
def test_codes_are_the_nearest_by_cosine_and_decode_to_the_latents(learn):
  rvq, variables = make(learn=learn)
  z = _z(3, 7, 6, seed=1)
  out = run(rvq, variables, z)
  assert out.codes.shape == (3, 7, 3) and out.loss.shape == (3, 7)
  np.testing.assert_allclose(
    run(rvq, variables, out.codes, method="from_codes"), out.lat, atol=1e-6
  )
  # The first stage by hand.
  p = variables["params"]
  low = z @ p["down_0"]["kernel"] + p["down_0"]["bias"]
  low = low / np.linalg.norm(low, axis=-1, keepdims=True)
  table = (
    p["books_0"]["codes"] if learn == "gradient" else variables["codebook"]["books_0"]["total"]
  )
  table = table / np.linalg.norm(table, axis=-1, keepdims=True)
  np.testing.assert_array_equal(out.codes[..., 0], np.argmax(low @ table.T, -1))


def test_stages_shrink_the_residual_and_keep_drops_them():
  rvq, variables = make(size=256, code_dim=6, stages=4)
  eye = jax.tree.map(jnp.asarray, {"kernel": np.eye(6, dtype=np.float32), "bias": np.zeros(6)})
  for i in range(4):
    variables["params"][f"down_{i}"] = variables["params"][f"up_{i}"] = eye
  z = np.asarray(normalise(_z(2, 50, 6)))
  one = run(rvq, variables, z, jnp.array([1, 4]))
  first = run(rvq, variables, one.codes[..., :1], method="from_codes")
  np.testing.assert_allclose(one.lat[0], first[0], atol=1e-6)
  assert np.abs(one.lat[1] - first[1]).max() > 0.1
  assert np.mean((first - z) ** 2) < 0.3 * np.mean(z**2)


@pytest.mark.parametrize("learn", LEARN)
def test_training_uses_the_codebook_and_replaces_dead_codes(learn):
  """Two clusters far from the codes: without replacement most codes would never be used."""
  rvq, variables = make(learn=learn, stages=1, size=16, code_dim=6, decay=0.8)
  z = _z(8, 40, 6, seed=3) + 3 * np.sign(_z(8, 40, 1, seed=4))
  before = len(np.unique(run(rvq, variables, z).codes))
  kw = dict(method="quantise", mutable=["codebook"])
  step = jax.jit(lambda v, key: {**v, **rvq.apply(v, z, rngs={"codes": key}, **kw)[1]})
  for i in range(40):
    variables = step(variables, jax.random.key(i))
  after = len(np.unique(run(rvq, variables, z).codes))
  assert after > max(before, 12)


def test_ema_is_the_mean_of_what_was_assigned():
  rvq, variables = make(learn="ema", stages=1, decay=0.5, dead=0.0)
  z = _z(4, 50, 6, seed=5)
  old = variables["codebook"]["books_0"]
  out, new = train(rvq, variables, z)
  p = variables["params"]["down_0"]
  low = np.asarray(normalise(z @ p["kernel"] + p["bias"])).reshape(-1, 4)
  index = np.asarray(out.codes).reshape(-1)
  for k in range(16):
    mine = low[index == k]
    np.testing.assert_allclose(
      new["codebook"]["books_0"]["total"][k], 0.5 * old["total"][k] + 0.5 * mine.sum(0), atol=1e-5
    )
    np.testing.assert_allclose(new["codebook"]["books_0"]["count"][k], 0.5 + 0.5 * len(mine))


def test_masked_frames_teach_nothing():
  rvq, variables = make(learn="ema", dead=0.0)
  z = _z(2, 10, 6)
  mask = np.arange(10) < np.array([[10], [4]])
  other = np.where(mask[..., None], z, 9.0)
  a, b = (train(rvq, variables, x, mask=mask)[1] for x in (z, other))
  jax.tree.map(np.testing.assert_array_equal, a, b)
  assert not np.array_equal(
    a["codebook"]["books_0"]["count"], train(rvq, variables, z)[1]["codebook"]["books_0"]["count"]
  )


@pytest.mark.parametrize("learn", LEARN)
def test_gradients_pass_straight_through_and_reach_codebooks(learn):
  rvq, variables = make(learn=learn)
  z = _z(2, 5, 6)

  def loss(params, z):
    out = run(rvq, {**variables, "params": params}, z)
    return jnp.sum(out.lat**2) + jnp.sum(out.loss)

  gp, gz = jax.grad(loss, (0, 1))(variables["params"], z)
  assert np.abs(gz).max() > 0 and np.abs(gp["down_2"]["kernel"]).max() > 0
  if learn == "gradient":
    assert np.abs(gp["books_0"]["codes"]).max() > 0


def test_errors():
  with pytest.raises(ValueError, match='"gradient" or "ema"'):
    make(learn="sgd")
  rvq, variables = make()
  with pytest.raises(ValueError, match="1 to 3 codes a frame, got 4"):
    run(rvq, variables, jnp.zeros((1, 4), jnp.int32), method="from_codes")


def test_continuous_bottleneck():
  kl = Continuous(dim=3, weight=0.5)
  z = jnp.concatenate([jnp.full((2, 4, 3), 2.0), jnp.zeros((2, 4, 3))], -1)
  out = run(kl, {}, z)
  assert kl.in_dim == 6 and out.codes.shape == (2, 4, 0)
  np.testing.assert_allclose(out.loss, 0.5 * 0.5 * 4.0)  # KL(N(2, 1) || N(0, 1)) = 2
  np.testing.assert_array_equal(out.lat, 2.0)
  noisy = run(kl, {}, jnp.tile(z, (500, 1, 1)), rngs={"codes": jax.random.key(0)})
  assert float(noisy.lat.std()) == pytest.approx(1.0, abs=0.02)
  plain = run(Continuous(dim=6), {}, z)
  np.testing.assert_array_equal(plain.lat, z)
  assert not plain.loss.any()


def test_fsq_dropout():
  fsq = FSQ([[4, 4], [4]])
  z = _z(3, 5, 3)
  out = fsq.quantise(z, keep=jnp.array([1, 2, 2]), soft=jnp.array([False, False, True]))
  hard = fsq(z)[0]
  np.testing.assert_array_equal(out.lat[0, :, 2], 0)
  np.testing.assert_array_equal(out.lat[1], hard[1])
  np.testing.assert_array_equal(out.lat[2], fsq.bound(z[2]))
  np.testing.assert_array_equal(
    fsq.from_codes(out.codes[0, :, :1]), np.where([1, 1, 0], hard[0], 0)
  )


def test_rate_gradient_is_that_of_the_interpolation():
  fsq = FSQ([4, 3])
  z = _z(10, 2)
  hot = fsq.one_hot(z, 0.5)
  assert hot.shape == (10, 2, 4)
  np.testing.assert_allclose(hot.sum(-1), 1, atol=1e-6)
  np.testing.assert_array_equal(
    np.argmax(hot, -1), np.stack([fsq(z)[1][:, 0] % 4, fsq(z)[1][:, 0] // 4], -1)
  )
  cost = np.array([1.0, 3.0, 4.0, 9.0])
  got = jax.grad(lambda z: jnp.sum(fsq.one_hot(z, 0.5) @ cost))(z)
  place = np.asarray((fsq.bound(z) + 1) / 2 * np.array([3, 2]))
  below = np.floor(place).astype(int)
  slope = cost[below + 1] - cost[below]
  b = np.asarray(fsq.bound(z))
  bound_slope = 0.5 * 1.6 * (1 - b**2) * np.array([1.5, 1.0])
  np.testing.assert_allclose(got, 0.5 * slope * bound_slope, rtol=1e-4)
