"""Heads, losses and targets of classifiers; features are those of an example alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from big_audio import config as C
from big_audio.trainers import multihead

SMALL = dict(model="cnn", widths=[4, 4, 4], features=8)


def make(outputs=None, net=SMALL, **trainer):
  config = ConfigDict(
    dict(
      models=dict(net=net, heads=dict(model="heads", outputs=outputs or dict(label=3))),
      trainer=dict(name="multihead", **trainer),
    )
  )
  return multihead.Trainer(config, C.build_models(config))


def batch(n=6, size=9):
  rng = np.random.default_rng(0)
  return {
    "image": rng.uniform(-1, 1, (n, size, size, 1)).astype(np.float32),
    "label": np.arange(n) % 3,
    "kind": (np.arange(n) % 2)[:, None],
  }


def loss(trainer, variables, data, *, train=False, seed=0):
  return trainer.loss(
    variables, data, jax.random.key(seed), step=0, total_steps=1, train=train
  )  # fmt: skip


def test_cross_entropy_by_optax():
  rng = np.random.default_rng(1)
  logits, target = rng.standard_normal((5, 4)).astype(np.float32), np.array([0, 3, 1, 2, 2])
  want = optax.softmax_cross_entropy_with_integer_labels(logits, target)
  np.testing.assert_allclose(multihead.cross_entropy(logits, target), want, rtol=1e-5)
  smooth = optax.smooth_labels(jax.nn.one_hot(target, 4), 0.1)
  want = optax.softmax_cross_entropy(logits, smooth)
  got = multihead.cross_entropy(logits, target, smoothing=0.1)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  np.testing.assert_allclose(multihead.cross_entropy(0 * logits, target), np.log(4), rtol=1e-6)


def test_total_is_the_weighted_sum_and_every_head_has_a_gradient():
  heads = dict(kind=dict(weight=0.5, smoothing=0.2))
  trainer, data = make(dict(label=3, kind=2), heads=heads), batch()
  variables = trainer.init(jax.random.key(0), data, {})
  got = loss(trainer, variables, data)
  np.testing.assert_allclose(
    got.value, got.logs["label_loss"] + 0.5 * got.logs["kind_loss"], rtol=1e-6
  )
  assert got.logs["label_accuracy"].shape == (6,)
  grad = jax.grad(lambda v: jnp.sum(loss(trainer, v, data).value))(variables)["params"]
  assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grad))


def test_predictions():
  trainer, data = make(dict(label=3, kind=2)), batch()
  variables = trainer.init(jax.random.key(0), data, {})
  fns = trainer.predict_fns()
  out = fns["classify"](variables, data, None)
  assert out["label"].shape == (6, 3) and out["kind"].shape == (6, 2)
  np.testing.assert_array_equal(out["target/kind"], data["kind"][:, 0])
  assert "target/label" not in fns["classify"](variables, {"image": data["image"]}, None)
  features = fns["embed"](variables, data, None)["features"]
  assert features.shape == (6, 8)
  # What else is in the batch changes nothing: no statistics over it.
  one = fns["embed"](variables, {"image": data["image"][2:3]}, None)["features"]
  np.testing.assert_allclose(one, features[2:3], atol=1e-5)


def test_dropout_is_seeded_and_only_in_training():
  trainer, data = make(net=dict(SMALL, dropout=0.5)), batch()
  variables = trainer.init(jax.random.key(0), data, {})
  value = lambda **kw: np.asarray(loss(trainer, variables, data, **kw).value)
  np.testing.assert_array_equal(value(seed=0), value(seed=1))
  np.testing.assert_array_equal(value(train=True, seed=1), value(train=True, seed=1))
  assert (value(train=True, seed=0) != value(train=True, seed=1)).any()


@pytest.mark.parametrize("size", [4, 8, 9, 28])
def test_any_size_of_image_has_the_same_parameters(size):
  trainer = make()
  shapes = jax.eval_shape(lambda b: trainer.init(jax.random.key(0), b, {}), batch(2, size))
  assert shapes["params"]["net"]["dense"]["kernel"].shape == (4 * 4 * 4, 8)


def test_waves_of_any_length():
  trainer = make(net=dict(SMALL, sr=8000), key="wav")
  wav = np.random.default_rng(0).standard_normal((2, 4000, 1)).astype(np.float32) * 0.1
  variables = trainer.init(jax.random.key(0), {"wav": wav}, {})
  for n in (2000, 4000):
    out = trainer.embed(variables, {"wav": wav[:, :n]}, None)["features"]
    assert out.shape == (2, 8) and np.all(np.isfinite(out))
  with pytest.raises(ValueError, match="waves"):
    trainer.embed(variables, {"wav": wav[:, :, 0]}, None)


def test_errors():
  with pytest.raises(ValueError, match='Did you mean "label"'):
    make(heads=dict(labl={}))
  with pytest.raises(ValueError, match='"cross_entropy"'):
    make(heads=dict(label=dict(loss="cross_entrop")))
  trainer, data = make(heads=dict(label=dict(smothing=0.1))), batch()
  variables = make().init(jax.random.key(0), data, {})
  with pytest.raises(ValueError, match=r"heads\.label.*smoothing"):
    loss(trainer, variables, data)
  with pytest.raises(ValueError, match="the batch has no 'label'"):
    loss(make(), variables, {"image": data["image"]})
  with pytest.raises(ValueError, match=r"expected label \[B\]"):
    loss(make(), variables, {**data, "label": np.zeros((6, 2), int)})
