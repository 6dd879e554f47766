"""Adapters on kernels against the plain formula, and what they cost."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_audio import trees
from big_audio.nn import lora
from big_audio.nn.prenorm import Block

INIT = nn.initializers.normal(0.1)


def test_merge_is_the_plain_formula_for_every_kind_of_kernel():
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.standard_normal(shape).astype("f4")
  shapes = {
    "net/dense/kernel": (6, 5), "net/conv/kernel": (3, 2, 4, 7),
    "net/attend/query/kernel": (8, 2, 4), "net/attend/out/kernel": (2, 4, 8),
  }  # fmt: skip
  params = trees.unflatten({n: draw(*s) for n, s in shapes.items()})
  adapters = lora.init(jax.random.key(0), params, ".*/kernel", rank=3)
  adapters = jax.tree.map(lambda x: draw(*x.shape), adapters)
  flat, merged = trees.flatten(adapters), trees.flatten(lora.merge(params, adapters, alpha=6.0))
  inputs = {"net/attend/query/kernel": 8}
  for name, shape in shapes.items():
    a, b = (np.float64(flat[f"{name}/{k}"]) for k in "ab")
    i = inputs.get(name, int(np.prod(shape[:-1])))
    assert a.shape == (i, 3) and b.shape == (3, np.prod(shape) // i)
    want = trees.flatten(params)[name].reshape(i, -1) + 6.0 / 3 * a @ b
    np.testing.assert_allclose(merged[name], want.reshape(shape), atol=1e-5)


@pytest.mark.slow
def test_it_equals_the_low_rank_branch_beside_a_layer():
  block = Block(heads=2, mlp_ratio=2, dropout=0.0, kernel_init=INIT)
  x = jax.random.normal(jax.random.key(1), (2, 5, 8))
  params = block.init(jax.random.key(0), x, False)["params"]
  adapters = lora.init(jax.random.key(2), params, "expand/kernel", rank=2)
  adapters = jax.tree.map(lambda v: jax.random.normal(jax.random.key(3), v.shape), adapters)
  _, seen = block.apply(
    {"params": lora.merge(params, adapters, 4.0)}, x, False,
    capture_intermediates=lambda m, _: m.name in ("norm2", "expand"), mutable="intermediates",
  )  # fmt: skip
  seen = seen["intermediates"]
  h, a, b = seen["norm2"]["__call__"][0], *(adapters["expand"]["kernel"][k] for k in "ab")
  plain = h @ params["expand"]["kernel"] + params["expand"]["bias"]
  np.testing.assert_allclose(seen["expand"]["__call__"][0], plain + 2.0 * (h @ a) @ b, atol=1e-4)


def test_new_adapters_change_nothing_and_both_sides_get_gradients_later():
  params = {"dense": {"kernel": jnp.ones((6, 4)), "bias": jnp.zeros(4)}}
  adapters = lora.init(jax.random.key(0), params, "dense/kernel", rank=2)
  assert jnp.array_equal(lora.merge(params, adapters, 8.0)["dense"]["kernel"], jnp.ones((6, 4)))
  loss = lambda ad: jnp.sum(lora.merge(params, ad, 8.0)["dense"]["kernel"] ** 2)
  g = jax.grad(loss)(adapters)["dense"]["kernel"]
  assert jnp.any(g["b"] != 0) and not jnp.any(g["a"])
  moved = jax.tree.map(lambda v, d: v - d, adapters, {"dense": {"kernel": g}})
  assert jnp.any(jax.grad(loss)(moved)["dense"]["kernel"]["a"] != 0)


@pytest.mark.parametrize(
  "pattern, rank, message",
  [("x/kernel", 2, "matches no parameter.*dense/kernel"), ("dense/bias", 2, "is no kernel"),
   ("dense/kernel", 4, "less than both sides of dense/kernel, 6 x 4"),
   ("dense/kernel", 0, "at least 1")],
)  # fmt: skip
def test_errors(pattern, rank, message):
  params = {"dense": {"kernel": jnp.ones((6, 4)), "bias": jnp.zeros(4)}}
  with pytest.raises(ValueError, match=message):
    lora.init(jax.random.key(0), params, pattern, rank)


def test_adapters_of_another_tree_are_refused():
  adapters = lora.init(jax.random.key(0), {"a": {"kernel": jnp.ones((6, 4))}}, "a/kernel", 2)
  with pytest.raises(ValueError, match="a/kernel"):
    lora.merge({"b": {"kernel": jnp.ones((6, 4))}}, adapters, 1.0)
