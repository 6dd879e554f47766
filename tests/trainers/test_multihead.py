"""Heads, losses and targets of classifiers; features are those of an example alone."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from big_audio import config as C
from big_audio.trainers import multihead

SMALL = dict(model="cnn", widths=[4, 4, 4], features=8)


def make(outputs=None, net=SMALL, models=None, **trainer):
  heads = dict(model="heads", outputs=outputs or dict(label=3))
  config = ConfigDict(
    dict(
      models=dict(net=net, heads=heads, **(models or {})),
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
  """Compiled: operation by operation, each would be compiled for itself."""

  def fn(variables, data):
    out = trainer.loss(
      variables, data, jax.random.key(seed), step=0, total_steps=1, train=train
    )  # fmt: skip
    return dict(value=out.value, logs=out.logs, updates=out.updates)

  return SimpleNamespace(**jax.jit(fn)(variables, data))


def init(trainer, data, stats=None):
  return jax.jit(trainer.init)(jax.random.key(0), data, stats or {})


def test_total_is_the_weighted_sum_and_every_head_has_a_gradient():
  heads = dict(kind=dict(weight=0.5, smoothing=0.2))
  trainer, data = make(dict(label=3, kind=2), heads=heads), batch()
  variables = init(trainer, data)
  got = loss(trainer, variables, data)
  np.testing.assert_allclose(
    got.value, got.logs["label_loss"] + 0.5 * got.logs["kind_loss"], rtol=1e-6
  )
  assert got.logs["label_accuracy"].shape == (6,)
  grad = jax.grad(lambda v: jnp.sum(loss(trainer, v, data).value))(variables)["params"]
  assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grad))


def test_predictions():
  trainer, data = make(dict(label=3, kind=2)), batch()
  variables = init(trainer, data)
  fns = {k: jax.jit(fn) for k, fn in trainer.predict_fns().items()}
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
  variables = init(trainer, data)
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
  variables = init(trainer, {"wav": wav})
  for n in (2000, 4000):
    out = jax.jit(trainer.embed)(variables, {"wav": wav[:, :n]}, None)["features"]
    assert out.shape == (2, 8) and np.all(np.isfinite(out))
  with pytest.raises(ValueError, match="waves"):
    trainer.embed(variables, {"wav": wav[:, :, 0]}, None)


def test_errors():
  with pytest.raises(ValueError, match='Did you mean "label"'):
    make(heads=dict(labl={}))
  with pytest.raises(ValueError, match='"cross_entropy"'):
    make(heads=dict(label=dict(loss="cross_entrop")))
  with pytest.raises(ValueError, match=r"heads\.label \(loss='cross_entropy'\).*smoothing"):
    make(heads=dict(label=dict(smothing=0.1)))
  with pytest.raises(ValueError, match=r'heads\.label.*unit="range"'):
    make(heads=dict(label=dict(loss="ordinal")))
  with pytest.raises(ValueError, match=r"heads\.label: a scale needs min < max"):
    make(heads=dict(label=dict(min=2.0, max=1.0, step=0.5)))
  with pytest.raises(ValueError, match=r"value='x' needs min, max and step"):
    make(heads=dict(label=dict(value="x")))
  with pytest.raises(ValueError, match="belong together"):
    make(aux=["kind"])
  data = batch()
  variables = init(make(), data)
  with pytest.raises(ValueError, match="the batch has no 'label'"):
    loss(make(), variables, {"image": data["image"]})
  with pytest.raises(ValueError, match=r"expected label \[B\]"):
    loss(make(), variables, {**data, "label": np.zeros((6, 2), int)})
  with pytest.raises(ValueError, match="expected classes"):
    loss(make(), variables, {**data, "label": np.zeros(6, np.float32)})


PHYSICAL = dict(min=10.0, max=20.0, step=5.0, value="hz")
LOSSES = {
  "cross_entropy": 3, "ordinal": 3, "weighted_ce": 3, "soft_target": 3, "coral": 2, "corn": 2,
  "quantized_regression": 1, "normalized_regression": 1,
}  # fmt: skip


def test_losses_of_heads_can_be_mixed():
  """Every head has the outputs that its loss needs, and each gets a gradient."""
  heads = {name: dict(PHYSICAL, loss=name, target="label") for name in LOSSES}
  trainer, data = make(dict.fromkeys(LOSSES, 3), heads=heads), batch()
  data["hz"] = np.float32(10 + 5 * data["label"])
  variables = init(trainer, data)
  outputs, _ = jax.jit(trainer.outputs)(variables, data)
  assert {k: v.shape[1] for k, v in outputs.items()} == LOSSES
  got = jax.jit(trainer.classify)(variables, data, None)
  assert all(got[k].shape == (6, 3) for k in LOSSES)
  values = jax.jit(trainer.values)(variables, data, None)
  assert values.keys() == LOSSES.keys()
  assert all(np.all((v >= 10) & (v <= 20)) for v in values.values())
  grad = jax.grad(lambda v: jnp.sum(loss(trainer, v, data).value))(variables)["params"]
  assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(grad["heads"]))
  one = loss(trainer, variables, data).logs
  for name in LOSSES:
    assert np.all(one[f"{name}_mae"] <= 10) and np.isfinite(one[f"{name}_loss"]).all()


def test_measures_of_physical_values():
  """A head that is sure of a class is wrong by the distance of the two values."""
  trainer = make(dict(label=5), heads=dict(label=dict(min=10.0, max=28.0, step=5.0, value="hz")))
  data = {"label": np.array([0, 1, 4]), "hz": np.array([10, 14, 28], np.float32)}
  sure = 100 * jax.nn.one_hot(np.array([2, 1, 4]), 5)
  got = trainer.measures("label", sure, trainer.target(data, "label"))
  np.testing.assert_array_equal(got["accuracy"], [0, 1, 1])
  np.testing.assert_array_equal(got["within1"], [0, 1, 1])
  np.testing.assert_allclose(got["mae"], [10, 1, 0], atol=1e-4)  # the last class is cut at max


def test_auxiliary_numbers_are_whitened_and_used():
  """What two numbers do not share, however small, comes out as large as what they share."""
  trainer = make(aux=["level"], models=dict(aux=dict(model="aux_mlp")))
  a, b = np.random.default_rng(0).standard_normal((2, 6))
  level = np.stack([100 + 3 * a, 50 - 2 * a + 1e-3 * b, np.full(6, 7.0)], axis=1)
  data = batch() | {"level": level.astype(np.float32)}
  stats = trainer.stats([data, data])
  x = np.asarray(trainer._aux({"stats": stats}, data), np.float64)
  kept = x[:, np.abs(x).max(0) > 1e-6]
  np.testing.assert_allclose(np.cov(kept.T, bias=True), np.eye(2), atol=1e-3)
  assert x.shape == (6, 3)  # the constant one is there, as zeros
  variables = init(trainer, data, stats)
  assert variables["params"]["heads"]["label"]["kernel"].shape == (8 + 32, 3)
  other = data | {"level": data["level"] + np.float32([3, 0, 0])}
  value = lambda d: np.asarray(loss(trainer, variables, d).value)
  assert np.abs(value(other) - value(data)).min() > 0
  grad = jax.grad(lambda v: jnp.sum(loss(trainer, v, data).value))(variables)["params"]["aux"]
  assert any(np.abs(g).max() > 0 for g in jax.tree.leaves(grad))
  with pytest.raises(ValueError, match="the batch has no 'level'"):
    loss(trainer, variables, batch())


def test_learned_weights_balance_heads():
  """At its best exp(-w) L + w has w = log L."""
  trainer, data = make(dict(label=3, kind=2), weighting="learned"), batch()
  variables = init(trainer, data)
  out = loss(trainer, variables, data)
  np.testing.assert_allclose(out.value, out.logs["label_loss"] + out.logs["kind_loss"], rtol=1e-6)
  variables["params"]["weights"] = {
    k: jnp.log(jnp.mean(out.logs[f"{k}_loss"])) for k in ("label", "kind")
  }
  grad = jax.grad(lambda v: jnp.mean(loss(trainer, v, data).value))(variables)["params"]["weights"]
  np.testing.assert_allclose(list(grad.values()), 0, atol=1e-6)
  moved = loss(trainer, variables, data)
  np.testing.assert_allclose(moved.logs["unweighted"], out.logs["unweighted"], rtol=1e-6)
  assert np.abs(moved.value - out.value).min() > 0


def test_running_statistics_are_carried():
  net = dict(model="cnn", variant="10k")
  trainer, data = make(net=net), batch(size=12)
  variables = init(trainer, data)
  before = jax.tree.leaves(variables["batch_stats"])
  assert loss(trainer, variables, data).updates == {}
  after = jax.tree.leaves(loss(trainer, variables, data, train=True).updates["batch_stats"])
  assert len(after) == len(before) == 4
  assert all(np.abs(a - b).max() > 0 for a, b in zip(after, before, strict=True))
