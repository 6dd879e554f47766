import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_audio.nn import conv1d as C


def _x(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _perturbed(params, seed=0):
  """No parameter at its initial zero, so that no part of the block is switched off."""
  leaves, tree = jax.tree.flatten(params)
  return tree.unflatten([p + 0.1 * _x(*p.shape, seed=seed + i) for i, p in enumerate(leaves)])


@pytest.mark.parametrize("kernel, dilation", [(7, 1), (3, 2), (1, 1)])
def test_depthwise_equals_a_grouped_convolution(kernel, dilation):
  conv = C.DepthwiseConv(kernel, dilation)
  x = _x(2, 9, 4)
  params = _perturbed(conv.init(jax.random.key(0), x))
  w, b = params["params"]["kernel"], params["params"]["bias"]
  want = jax.lax.conv_general_dilated(
    x,
    w[:, None],
    (1,),
    "SAME",
    rhs_dilation=(dilation,),
    dimension_numbers=("NWC", "WIO", "NWC"),
    feature_group_count=4,
  )
  np.testing.assert_allclose(conv.apply(params, x), want + b, atol=1e-5)


@pytest.mark.parametrize("norm, film", [("none", False), ("layer", True), ("rms", False)])
def test_masked_frames_cannot_be_told_from_the_end_of_the_signal(norm, film):
  net = C.ConvNeXt(2, norm=norm, film=film)
  x, cond = _x(2, 20, 8), _x(2, 5, seed=1) if film else None
  params = _perturbed(jax.jit(net.init)(jax.random.key(0), x, None, cond))
  apply = jax.jit(lambda x, m: net.apply(params, x, m, cond))
  alone = apply(x, None)
  padded = np.concatenate([x, np.full((2, 12, 8), 1e3, np.float32)], 1)
  mask = np.arange(32) < 20
  inside = apply(padded, np.broadcast_to(mask, (2, 32)))[:, :20]
  np.testing.assert_allclose(inside, alone, atol=1e-5)
  # In front too.
  shifted = np.concatenate([np.full((2, 12, 8), 1e3, np.float32), x], 1)
  inside = apply(shifted, np.broadcast_to(~mask[::-1] ^ True, (2, 32)))[:, 12:]
  np.testing.assert_allclose(inside, alone, atol=1e-5)


def test_receptive_field():
  net = C.ConvNeXt(2, kernel=7)
  x = _x(1, 41, 3)
  params = _perturbed(jax.jit(net.init)(jax.random.key(0), x))
  jac = jax.jit(jax.grad(lambda x: net.apply(params, x)[0, 20].sum()))(x)
  touched = np.flatnonzero(np.abs(np.asarray(jac)[0]).sum(-1))
  assert net.reach == 6 and touched[0] == 20 - net.reach and touched[-1] == 20 + net.reach


def test_window_of_a_longer_signal_agrees_beyond_the_reach():
  net = C.ConvNeXt(2)
  x = _x(1, 64, 4)
  params = _perturbed(jax.jit(net.init)(jax.random.key(0), x))
  apply = jax.jit(net.apply)
  whole, part = apply(params, x), apply(params, x[:, 10:50])
  r = net.reach
  np.testing.assert_allclose(part[:, r:-r], whole[:, 10 + r : 50 - r], atol=1e-5)


def test_film_starts_as_identity_and_takes_both_shapes():
  block = C.ConvNeXtBlock(film=True)
  x, cond = _x(2, 6, 4), _x(2, 3, seed=1)
  params = block.init(jax.random.key(0), x, None, cond)
  plain = {"params": {k: v for k, v in params["params"].items() if k != "film"}}
  np.testing.assert_allclose(
    block.apply(params, x, None, cond), C.ConvNeXtBlock().apply(plain, x), atol=1e-6
  )
  params = _perturbed(params)
  one = block.apply(params, x, None, cond)
  per_frame = block.apply(params, x, None, np.repeat(cond[:, None], 6, 1))
  np.testing.assert_allclose(one, per_frame, atol=1e-5)
  assert np.max(np.abs(one - block.apply(params, x, None, 2 * cond))) > 1e-2


def test_film_is_an_affine_map_of_the_normalised_input():
  block = C.ConvNeXtBlock(film=True)
  x, cond = _x(2, 6, 4), _x(2, 3, seed=1)
  params = _perturbed(block.init(jax.random.key(0), x, None, cond))["params"]
  params["film"] = {"kernel": jnp.zeros((3, 8)), "bias": _x(8, seed=2)}
  shift, scale = np.split(params["film"]["bias"], 2)
  plain = {k: v for k, v in params.items() if k != "film"}
  norm = params["norm"]
  plain["norm"] = {
    "scale": norm["scale"] * (1 + scale),
    "bias": norm["bias"] * (1 + scale) + shift,
  }
  got = block.apply({"params": params}, x, None, cond)
  np.testing.assert_allclose(got, C.ConvNeXtBlock().apply({"params": plain}, x), atol=1e-5)


def test_forward_over_reverse():
  net = C.ConvNeXt(1, film=True)
  x, cond = _x(1, 9, 4), _x(1, 3, seed=1)
  params = _perturbed(jax.jit(net.init)(jax.random.key(0), x, None, cond))
  fn = lambda x: net.apply(params, x, None, cond)
  tangent = _x(1, 9, 4, seed=2)
  got = jax.jit(lambda x, v: jax.jvp(fn, (x,), (v,))[1])(x, tangent)
  fn = jax.jit(fn)
  want = (fn(x + 1e-2 * tangent) - fn(x - 1e-2 * tangent)) / 2e-2
  np.testing.assert_allclose(got, want, atol=5e-3)
  loss = lambda p: jnp.sum(jax.jvp(lambda x: net.apply(p, x, None, cond), (x,), (tangent,))[1] ** 2)
  grads = jax.jit(jax.grad(loss))(params)
  assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))


def test_names_and_scale():
  net = C.ConvNeXt(2, scale_init=0.3)
  params = jax.jit(net.init)(jax.random.key(0), _x(1, 8, 4))["params"]
  assert sorted(params) == ["block_0", "block_1"]
  assert sorted(params["block_0"]) == ["dwconv", "expand", "norm", "project", "scale"]
  np.testing.assert_allclose(params["block_0"]["scale"], 0.3)
  assert params["block_0"]["expand"]["kernel"].shape == (4, 12)


def test_compute_type():
  net = C.ConvNeXt(1, dtype=jnp.bfloat16)
  x = jnp.asarray(_x(1, 8, 4), jnp.bfloat16)
  params = jax.jit(net.init)(jax.random.key(0), x)
  assert all(p.dtype == jnp.float32 for p in jax.tree.leaves(params))
  assert net.apply(params, x).dtype == jnp.bfloat16


def test_errors():
  x = _x(1, 8, 4)
  with pytest.raises(ValueError, match="odd kernel, got 4"):
    C.DepthwiseConv(4).init(jax.random.key(0), x)
  with pytest.raises(ValueError, match=r"expected norm to be one of .*got 'batch'"):
    C.ConvNeXtBlock(norm="batch").init(jax.random.key(0), x)
  with pytest.raises(ValueError, match="film=False, but cond is given"):
    C.ConvNeXtBlock().init(jax.random.key(0), x, None, x)
  with pytest.raises(ValueError, match="film=True, but cond is missing"):
    C.ConvNeXtBlock(film=True).init(jax.random.key(0), x)
