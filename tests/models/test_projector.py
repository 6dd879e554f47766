import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_audio.models import projector


def test_layers_by_hand_and_unit_length():
  net = projector.Model(widths=(5, 3))
  x = np.random.default_rng(0).standard_normal((4, 6)).astype("f4")
  p = net.init(jax.random.key(0), x)["params"]
  h = np.maximum(x @ p["dense0"]["kernel"] + p["dense0"]["bias"], 0)
  y = h @ p["dense1"]["kernel"] + p["dense1"]["bias"]
  want = y / np.linalg.norm(y, axis=1, keepdims=True)
  np.testing.assert_allclose(net.apply({"params": p}, x), want, atol=1e-6)


def test_the_published_head_has_its_published_size():
  shapes = jax.eval_shape(projector.Model().init, jax.random.key(0), jnp.zeros((1, 768)))
  assert sum(x.size for x in jax.tree.leaves(shapes)) == 459_392


def test_a_zero_row_stays_and_has_a_finite_gradient():
  net = projector.Model(widths=(3,))
  p = jax.tree.map(jnp.zeros_like, net.init(jax.random.key(0), jnp.ones((1, 4)))["params"])
  loss = lambda p: jnp.sum(net.apply({"params": p}, jnp.ones((1, 4))))
  assert loss(p) == 0 and all(jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(jax.grad(loss)(p)))


def test_a_batch_norm_takes_away_what_features_have_in_common():
  x = 5 + 0.01 * np.random.default_rng(0).standard_normal((16, 6)).astype("f4")
  cosine = lambda y: np.mean(np.asarray(y) @ np.asarray(y).T)
  plain, normed = projector.Model(), projector.Model(norm="batch")
  p = plain.init(jax.random.key(0), x)
  q = normed.init(jax.random.key(0), x)
  run = lambda net, v: net.apply(v, x, train=True, rngs={"dropout": jax.random.key(1)},
                                 mutable="batch_stats")[0]  # fmt: skip
  assert cosine(run(plain, p)) > 0.7 > 0.3 > cosine(run(normed, q))


def test_dropout_is_between_the_layers_alone():
  net, x = projector.Model(widths=(64, 8), dropout=0.5), jnp.ones((2, 4))
  p = net.init(jax.random.key(0), x)
  run = lambda k: net.apply(p, x, train=True, rngs={"dropout": jax.random.key(k)})
  assert not jnp.allclose(run(0), run(1))
  one = projector.Model(widths=(8,), dropout=0.5)
  q = one.init(jax.random.key(0), x)
  same = one.apply(q, x, train=True, rngs={"dropout": jax.random.key(0)})
  assert jnp.allclose(same, one.apply(q, x))


@pytest.mark.parametrize(
  "kw, message",
  [(dict(widths=()), "empty"), (dict(activation="rel"), "relu"), (dict(norm="btch"), "batch")],
)
def test_errors(kw, message):
  with pytest.raises(ValueError, match=message):
    projector.Model(**kw).init(jax.random.key(0), jnp.ones((1, 4)))
