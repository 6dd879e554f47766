"""Metric learning on tiny spectrograms: what reaches the loss, and what is learnt."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from big_audio import config as C
from big_audio import sharding, train_step, trees
from big_audio.trainers import embed

NET = dict(model="ast", frames=16, bins=8, patch=4, stride_time=4, stride_freq=4, dim=8, depth=1,
           heads=2)  # fmt: skip
ATTEND = r"net/block_\d+/attend/(query|value)/kernel"


def make(loss=None, optimizer=None, **trainer):
  config = ConfigDict(
    dict(
      models=dict(net=NET, head=dict(model="projector", widths=[8, 4], dropout=0.0)),
      trainer=dict(name="embed", loss=loss or dict(name="supcon"), **trainer),
      optimizer=optimizer or dict(lr=1e-2),
    )
  )
  return embed.Trainer(config, C.build_models(config)), config


def batch(n=8, classes=4, seed=0):
  x = np.random.default_rng(seed).standard_normal((n, 16, 8)).astype(np.float32)
  return dict(fbank=x, label=np.arange(n, dtype=np.int32) % classes, track=np.arange(n, dtype="i4"))


def init(trainer, data):
  return jax.jit(trainer.init)(jax.random.key(0), data, {})


def loss(trainer, variables, data, *, train=False, step=0):
  def fn(variables, data):
    out = trainer.loss(variables, data, jax.random.key(1), step=step, total_steps=10, train=train)
    return dict(value=out.value, scalars=out.scalars, logs=out.logs, updates=out.updates)

  return jax.jit(fn)(variables, data)


def test_the_objective_sees_the_embeddings_labels_and_tracks_of_the_batch():
  trainer, _ = make(
    dict(name="triplet", miner="all", margin=dict(begin=0.2, end=0.6, ramp_percent=100))
  )
  data = batch()
  data["track"][4] = data["track"][0]  # of one class: no positive of each other
  variables = init(trainer, data)
  out = jax.jit(trainer.embed)(variables, data, None)
  assert out["features"].shape == (8, 8) and out["embedding"].shape == (8, 4)
  x = np.float64(out["embedding"])
  np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, atol=1e-6)
  d, margin = 1 - x @ x.T, 0.4  # half way up the ramp
  terms = [
    d[a, p] - d[a, n] + margin
    for a in range(8) for p in range(8) for n in range(8)
    if data["label"][a] == data["label"][p] != data["label"][n]
    and data["track"][a] != data["track"][p]
  ]  # fmt: skip
  want = np.mean([t for t in terms if t > 0])
  got = loss(trainer, variables, data, train=True, step=5)
  assert float(got["scalars"]["metric"]) == pytest.approx(want, abs=1e-5)
  assert not np.any(got["value"])
  # In evaluation as a mean, and rows of padding change nothing.
  padded = {k: np.concatenate([v, v[:2]]) for k, v in data.items()}
  padded["_mask"] = np.float32([1] * 8 + [0] * 2)
  shown = loss(trainer, variables, padded, step=5)
  np.testing.assert_allclose(shown["value"][0], want, atol=1e-5)


@pytest.mark.slow
def test_mixup_blends_within_classes_alone():
  label = jnp.array([0, 0, 0, 1, 2, 2, -1, -1])
  x = jnp.eye(8)[:, :, None]
  mix = embed._mixup(alpha=1.0, share=1.0)
  seen = np.zeros((8, 8))
  for seed in range(20):
    out = np.asarray(mix(jax.random.key(seed), x, label))[..., 0]
    np.testing.assert_allclose(out.sum(1), 1, atol=1e-6)
    seen += out
  same = (label[:, None] == label) & (label >= 0)[:, None]
  np.testing.assert_array_equal(seen > 0, same | np.eye(8, dtype=bool))
  half = embed._mixup(alpha=1.0, share=0.5)(
    jax.random.key(0), jnp.eye(400)[..., None], jnp.zeros(400)
  )
  assert 0.4 < np.mean(np.diagonal(half[..., 0]) == 1) < 0.6


def test_proxies_and_memory_belong_to_the_state():
  trainer, _ = make(dict(name="proxy_anchor"), classes=4)
  data = batch()
  variables = init(trainer, data)
  assert variables["params"]["proxies"].shape == (4, 4)
  grad = jax.grad(lambda v: loss(trainer, v, data, train=True)["scalars"]["metric"])(variables)
  assert np.abs(grad["params"]["proxies"]).max() > 0
  with pytest.raises(ValueError, match="classes"):
    make(dict(name="proxy_anchor"))

  trainer, _ = make(dict(name="supcon", memory=dict(size=12)))
  variables = init(trainer, data)
  empty = loss(trainer, variables, data, train=True)
  assert float(empty["logs"]["memory_loss"]) == 0
  kept = empty["updates"]["memory"]
  assert int(kept["filled"].sum()) == 8 and int(kept["next"]) == 8
  x = jax.jit(trainer.embed)(variables, data, None)["embedding"]
  np.testing.assert_allclose(kept["x"][:8], x, atol=1e-6)
  later = {**data, "track": data["track"] + 100}
  assert float(loss(trainer, {**variables, "memory": kept}, later)["logs"]["memory_loss"]) > 0


def step_of(trainer, config, data, steps=1, devices=1, accum=1):
  """The state after some steps of the loop's own update."""
  opt, make_state = train_step.build_state(config, trainer, data, {}, total=10, units={})
  mesh = sharding.make_mesh(jax.devices()[:devices])
  with jax.set_mesh(mesh):
    state = jax.jit(make_state)(jax.random.key(0), data, {})
    update = jax.jit(
      train_step.make_update(trainer, opt, accum=accum, total=10, max_skipped=0),
      in_shardings=(
        sharding.replicated(mesh),
        sharding.batch_sharding(mesh),
        sharding.replicated(mesh),
      ),
    )
    begin = jax.tree.map(np.asarray, state)
    for _ in range(steps):
      state, out = update(state, data, jax.random.key(1))
  return begin, jax.tree.map(np.asarray, state), out


def test_pairs_cross_devices():
  """Every class has one item on each device: with losses by device there would be no positives."""
  trainer, config = make()
  data = batch(16, 4)
  data["label"] = np.arange(16, dtype="i4") // 2 % 4
  _, one, m1 = step_of(trainer, config, data)
  _, many, m8 = step_of(trainer, config, data, devices=8)
  assert float(m1["loss"]) == pytest.approx(float(m8["loss"]), abs=1e-5) and float(m1["loss"]) > 0.1
  flat, other = trees.flatten(one["params"]), trees.flatten(many["params"])
  for name in flat:
    np.testing.assert_allclose(flat[name], other[name], atol=2e-4, err_msg=name)


@pytest.mark.slow
def test_running_statistics_of_the_head_are_kept():
  trainer, config = make()
  trainer.head = trainer.head.clone(norm="batch")
  begin, end, _ = step_of(trainer, config, batch())
  old, new = (s["vars"]["batch_stats"]["head"]["norm"]["mean"] for s in (begin, end))
  assert not np.allclose(old, new)


def test_micro_batches_are_refused():
  trainer, config = make()
  with pytest.raises(ValueError, match="couple the whole batch"):
    step_of(trainer, config, batch(), accum=2)


def test_adapters_learn_on_a_frozen_backbone():
  schedule = [["net/.*", None], [".*", dict(kind="constant")]]
  trainer, config = make(
    lora=dict(pattern=ATTEND, rank=2, alpha=4.0), optimizer=dict(lr=1e-2, schedule=schedule)
  )
  begin, end, _ = step_of(trainer, config, batch(), steps=2)
  assert set(end["frozen"]) == {"net"} and "net" not in end["params"]
  same = jax.tree.map(lambda a, b: np.array_equal(a, b), begin["frozen"], end["frozen"])
  assert all(jax.tree.leaves(same))
  adapters = trees.flatten(end["params"]["lora"])
  assert len(adapters) == 4 and all(np.abs(v).max() > 0 for v in adapters.values())
  # They reach the embedding.
  data = batch()
  run = lambda s: jax.jit(trainer.embed)(
    {"params": trees.merge(s["params"], s["frozen"])}, data, None
  )["features"]
  assert np.abs(run(begin) - run(end)).max() > 1e-4


@pytest.mark.slow
def test_it_learns_what_tells_classes_apart():
  """Patches of one class rise, of the other fall; held-out items find their class's neighbours."""
  rng = np.random.default_rng(0)

  def draw(n):
    label = np.arange(n, dtype="i4") % 2
    x = rng.standard_normal((n, 16, 8)).astype("f4")
    x += np.where(label, 0.2, -0.2)[:, None, None] * np.arange(-1.5, 2)[np.arange(16) % 4][:, None]
    return dict(fbank=x, label=label, track=np.arange(n, dtype="i4"))

  trainer, config = make(optimizer=dict(lr=1e-2, b2=0.98))
  begin, end, _ = step_of(trainer, config, draw(32), steps=30)
  test = draw(40)

  def accuracy(state):
    x = np.asarray(jax.jit(trainer.embed)({"params": state["params"]}, test, None)["embedding"])
    s = x @ x.T - 2 * np.eye(len(x))
    return np.mean(test["label"][s.argmax(1)] == test["label"])

  assert accuracy(end) > 0.9 > accuracy(begin)


def test_errors():
  with pytest.raises(ValueError, match="no name"):
    make(ConfigDict(dict(margin=0.3)))
  with pytest.raises(ValueError, match='"temperature"'):
    make(dict(name="supcon", temprature=0.1))
  with pytest.raises(ValueError, match="share"):
    make(mixup=dict(alpha=0.4, share=0.0))
  trainer, _ = make()
  data = batch()
  variables = init(trainer, data)
  with pytest.raises(ValueError, match="no 'track'"):
    loss(trainer, variables, {k: v for k, v in data.items() if k != "track"})


@pytest.mark.slow
def test_exported_weights_alone_give_the_embeddings():
  schedule = [["net/.*", None], [".*", dict(kind="constant")]]
  trainer, config = make(
    lora=dict(pattern=ATTEND, rank=2, alpha=4.0), optimizer=dict(lr=1e-2, schedule=schedule)
  )
  trainer.head = trainer.head.clone(norm="batch")
  data = batch()
  _, state, _ = step_of(trainer, config, data, steps=3)
  variables = {"params": trees.merge(state["params"], state["frozen"]), **state["vars"]}
  want = jax.jit(trainer.embed)(variables, data, None)
  weights = trainer.weights(variables)
  assert set(weights) == {"net", "head"} and set(weights["head"]) == {"dense0", "dense1"}
  features = trainer.net.apply({"params": weights["net"]}, data["fbank"])
  np.testing.assert_allclose(features, want["features"], atol=1e-5)
  plain = trainer.head.clone(norm="none")
  got = plain.apply({"params": weights["head"]}, features)
  np.testing.assert_allclose(got, want["embedding"], atol=1e-4)
