"""Linear and ordinal heads, and the features of numbers beside an image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_audio.models import aux_mlp, heads


def _x(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_linear_heads():
  model, x = heads.Model(outputs=dict(a=3, b=24)), _x(5, 16)
  out, v = jax.jit(model.init_with_output)(jax.random.key(0), x)
  p = v["params"]
  assert set(p) == {"a", "b"} and p["a"]["kernel"].shape == (16, 3)
  np.testing.assert_allclose(out["b"], x @ p["b"]["kernel"] + p["b"]["bias"], rtol=1e-5, atol=1e-6)
  assert abs(np.std(p["b"]["kernel"]) / np.sqrt(0.1 / 16) - 1) < 0.1


def test_ordinal_heads_start_one_class_apart_and_share_one_direction():
  model, x = heads.Model(outputs=dict(a=3), ranks=dict(b=4)), _x(5, 16)
  assert model.widths == dict(a=3, b=4)
  out, v = jax.jit(model.init_with_output)(jax.random.key(0), 0 * x)
  np.testing.assert_allclose(out["b"], [[1.5, 0.5, -0.5, -1.5]] * 5)
  p = v["params"]
  assert p["b"]["kernel"].shape == (16, 1) and p["b_cuts"].shape == (4,)
  p["b_cuts"] = jnp.asarray([2.0, 1.0, -1.0, -3.0])
  out = model.apply(v, x)["b"]
  np.testing.assert_allclose(out, x @ p["b"]["kernel"] + p["b_cuts"], rtol=1e-5, atol=1e-6)
  assert np.ptp(out[:, 0]) > 0.1


def test_hidden_layer():
  model, x = heads.Model(outputs=dict(a=3), hidden=64, ranks=dict(b=2)), _x(5, 32)
  out, v = jax.jit(model.init_with_output)(jax.random.key(0), x)
  p = v["params"]
  h = np.tanh(x @ p["a_hidden"]["kernel"] + p["a_hidden"]["bias"])
  np.testing.assert_allclose(out["a"], h @ p["a"]["kernel"] + p["a"]["bias"], rtol=1e-4, atol=1e-6)
  assert abs(np.std(p["b_hidden"]["kernel"]) - 0.0176) < 0.001  # a normal of .02 cut at two
  assert p["b"]["kernel"].shape == (64, 1)


def test_a_name_in_both():
  with pytest.raises(ValueError, match="b in both outputs and ranks"):
    heads.Model(outputs=dict(a=2, b=2), ranks=dict(b=2)).init(jax.random.key(0), _x(1, 4))


def test_numbers_and_their_periods():
  x = _x(5, 2)
  plain = jax.eval_shape(aux_mlp.Model().init, jax.random.key(0), x)["params"]
  assert plain["dense0"]["kernel"].shape == (2, 32) and set(plain) == {"dense0", "dense1"}
  model = aux_mlp.Model(frequencies=16, sigma=3.0)
  out, v = jax.jit(model.init_with_output)(jax.random.key(0), x)
  p = v["params"]
  f = np.asarray(p["frequencies"])
  assert f.shape == (2, 16) and 2 < np.std(f) < 4
  parts = [x]
  for fn in (np.sin, np.cos):
    parts += [fn(2 * np.pi * x[:, i : i + 1] * f[i]) for i in range(2)]
  h = np.maximum(np.concatenate(parts, 1) @ p["dense0"]["kernel"] + p["dense0"]["bias"], 0)
  h = np.maximum(h @ p["dense1"]["kernel"] + p["dense1"]["bias"], 0)
  np.testing.assert_allclose(out, h, rtol=1e-4, atol=1e-5)
  grads = jax.jit(jax.grad(lambda p: jnp.sum(model.apply({"params": p}, x) ** 2)))(p)
  assert all(np.abs(g).max() > 1e-4 for g in jax.tree.leaves(grads))
  dropped = model.apply(v, x, train=True, rngs={"dropout": jax.random.key(0)})
  assert np.abs(dropped - out).max() > 1e-3
  with pytest.raises(ValueError, match=r"numbers \[B, A\]"):
    model.apply(v, x[0])
