"""Losses on embeddings: pytorch-metric-learning, closed forms, plain loops, batches of nothing."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_audio.objectives import memory, metric
from big_audio.objectives.mining import Items
from tests.objectives import metric_golden

INPUTS = metric_golden.inputs()
NAMES = {
  "triplet_all": ("triplet", dict(miner="all")),
  "triplet_hard": ("triplet", dict(miner="hard")),
  "multi_similarity": ("multi_similarity", {}),
  "supcon": ("supcon", {}),
  "ntxent": ("ntxent", {}),
  "proxy_anchor": ("proxy_anchor", {}),
}
KEY = jax.random.key(0)
EVERY = [
  *((n, s) for n, s in NAMES.values()),
  ("triplet", dict(miner="semihard", bounded=True)),
  ("triplet", dict(miner="progressive", hard_from_percent=30, mined_warmup_percent=20)),
  ("triplet", dict(miner="distance_weighted")),
  ("triplet", dict(miner="random", margin=dict(begin=0.3, end=0.7, ramp_percent=30))),
  ("quadruplet", dict(miner="hard")),
  ("supcon", dict(memory=dict(size=40))),
]


def items(x, label, track=None, valid=None):
  n = len(label)
  track = np.arange(n) if track is None else np.asarray(track)
  valid = np.ones(n, bool) if valid is None else np.asarray(valid)
  return Items(jnp.asarray(x), jnp.asarray(label, jnp.int32), jnp.asarray(track, jnp.int32), valid)


BATCH = items(INPUTS["x"], INPUTS["label"])
STORED = items(INPUTS["refs"], INPUTS["ref_label"], 100 + np.arange(40))


def at(degrees):
  """Unit vectors of the plane; d of two is 1 - cos of the angle between them."""
  a = np.deg2rad(np.asarray(degrees, np.float64))
  return np.stack([np.cos(a), np.sin(a)], 1).astype(np.float32)


@functools.cache
def golden(live):
  if live:
    pytest.importorskip("torch")
    pytest.importorskip("pytorch_metric_learning")
    return metric_golden.compute(**INPUTS)
  return dict(np.load(metric_golden.FILE))


@pytest.mark.parametrize("live", [False, True], ids=["stored", "live"])
@pytest.mark.parametrize("name", NAMES)
def test_values_and_gradients_of_pytorch_metric_learning(name, live):
  want = golden(live)
  kind, settings = NAMES[name]
  loss = jax.jit(metric.build(kind, **settings).loss)
  proxies = jnp.asarray(INPUTS["proxies"])

  @jax.jit
  @jax.value_and_grad
  def of(x):  # it normalises what it is given
    own = BATCH._replace(x=x / jnp.linalg.norm(x, axis=1, keepdims=True))
    return loss(own, proxies=proxies)[0]

  value, grad = of(BATCH.x)
  np.testing.assert_allclose(value, want[name], rtol=1e-5)
  np.testing.assert_allclose(grad, want[f"{name}_grad"], atol=1e-5 * np.abs(grad).max() + 1e-6)
  if name != "proxy_anchor":
    np.testing.assert_allclose(loss(BATCH, refs=STORED)[0], want[f"{name}_refs"], rtol=1e-5)


def test_triplet_closed_form():
  # Anchor at 0 and 60 degrees are one class, 90 the other, which has no positive.
  batch = items(at([0, 60, 90]), [0, 0, 1])
  cos = lambda a: 1 - np.cos(np.deg2rad(a))
  first, second = cos(60) - cos(90) + 0.3, cos(60) - cos(30) + 0.3
  assert first < 0 < second
  value, logs = of("triplet", batch, miner="hard")
  np.testing.assert_allclose(value, second / 2, rtol=1e-5)
  assert logs["active"] == 0.5 and logs["accuracy"] == 0.5
  np.testing.assert_allclose(logs["anchors"], 2 / 3, rtol=1e-6)
  np.testing.assert_allclose(logs["d_an"], (cos(90) + cos(30)) / 2, rtol=1e-5)
  value, logs = of("triplet", batch, miner="all")
  np.testing.assert_allclose(value, second, rtol=1e-5)  # the mean over those above 0
  assert logs["active"] == 0.5 and logs["accuracy"] == 0.5


def test_quadruplet_closed_form():
  batch = items(at([0, 40, 70, 20]), [0, 0, 1, -1])
  cos = lambda a: 1 - np.cos(np.deg2rad(a))
  hinge = lambda ap, an, m: max(0.0, cos(ap) - cos(an) + m)
  a = (hinge(40, 70, 0.2) + hinge(40, 30, 0.2)) / 2
  b = (hinge(40, 20, 0.5) + hinge(40, 20, 0.5)) / 2
  loss = jax.jit(metric.build("quadruplet", miner="hard", weight=0.7).loss)
  value, logs = loss(batch)
  np.testing.assert_allclose(value, a + 0.7 * b, rtol=1e-5)
  np.testing.assert_allclose(logs["class_loss"], a, rtol=1e-5)
  np.testing.assert_allclose(logs["trash_loss"], b, rtol=1e-5)
  for name, want in dict(d_ap=cos(40), d_an=(cos(70) + cos(30)) / 2, d_at=cos(20)).items():
    np.testing.assert_allclose(logs[name], want, rtol=1e-5)
  assert logs["trash_anchors"] > 0
  value, logs = loss(batch._replace(valid=np.array([True, True, True, False])))
  np.testing.assert_allclose(value, a, rtol=1e-5)
  assert logs["trash_anchors"] == 0 and logs["d_at"] == 0


def of(name, batch, **settings):
  return jax.jit(metric.build(name, **settings).loss)(batch)


def plain(name, x, label, track, trash=-1):
  """Losses by loops in float64, over all pairs of different tracks."""
  x, n = np.float64(x), len(label)
  s = x @ x.T
  total, terms = [], range(n)
  for i in terms:
    if label[i] == trash:
      continue
    pos = [j for j in terms if label[j] == label[i] and track[j] != track[i]]
    neg = [j for j in terms if label[j] != label[i]]
    if name == "triplet":
      total += [
        v for j, k in itertools.product(pos, neg) if (v := s[i, k] - s[i, j] + 0.3) > 0
      ]  # fmt: skip
    elif pos and neg:
      sums = sum(np.exp(s[i, j] / 0.1) for j in pos + neg)
      total.append(-np.mean([np.log(np.exp(s[i, j] / 0.1) / sums) for j in pos]))
  return np.mean(total)


@pytest.mark.parametrize("name", ["triplet", "supcon"])
def test_tracks_trash_and_padding_by_plain_loops(name):
  rng = np.random.default_rng(1)
  label, track = rng.integers(-1, 3, 20), rng.integers(0, 9, 20)
  valid = rng.random(20) < 0.8
  x = INPUTS["x"][:20].copy()
  x[~valid] = np.nan
  settings = dict(miner="all") if name == "triplet" else {}
  value, _ = of(name, items(x, label, track, valid), **settings)
  want = plain(name, x[valid], label[valid], track[valid])
  np.testing.assert_allclose(value, want, rtol=1e-5)


def test_same_track_allows_all_but_the_anchor():
  batch = items(at([0, 60, 90]), [0, 0, 1], track=[0, 0, 0])
  assert of("triplet", batch, miner="hard")[0] == 0
  value, _ = of("triplet", batch, miner="hard", same_track=True)
  assert value > 0


@functools.cache
def compiled(index):
  """(batch, progress) -> ((value, logs), gradient) of one of EVERY."""
  name, settings = EVERY[index]
  objective = metric.build(name, **settings)

  def of(x, batch, refs, progress):
    batch = batch._replace(x=x)
    proxies = jnp.asarray(INPUTS["proxies"])
    return objective.loss(batch, refs=refs, proxies=proxies, rng=KEY, progress=progress)

  fn = jax.jit(jax.value_and_grad(of, has_aux=True))
  stored = STORED if objective.memory else None
  return lambda batch, refs=stored: fn(batch.x, batch, refs, 0.5)


IDS = [f"{n}-{s.get('miner', '')}{i}" for i, (n, s) in enumerate(EVERY)]
CONTINUOUS = [i for i, (n, s) in enumerate(EVERY) if s.get("miner") == "hard" or "memory" in s]


@pytest.mark.parametrize("index", CONTINUOUS)
def test_gradient_by_finite_differences(index):
  """Along one random direction; other miners make the value jump where a choice changes."""
  label = np.where(np.arange(24) % 6 == 5, -1, INPUTS["label"])
  batch, fn = BATCH._replace(label=jnp.asarray(label)), compiled(index)
  direction = np.random.default_rng(3).standard_normal(batch.x.shape).astype(np.float32)
  _, grad = fn(batch)
  direction /= np.linalg.norm(direction)
  slope, h = np.vdot(grad, direction), 2e-3
  value = lambda t: float(fn(batch._replace(x=batch.x + t * direction))[0][0])
  assert abs(slope) > 1e-3
  np.testing.assert_allclose(slope, (value(h) - value(-h)) / (2 * h), rtol=0.03)


NOTHING = [
  ([0, 0, 0, 0], [True] * 4),  # no negative
  ([0, 1, 2, 3], [True] * 4),  # no positive
  ([-1, -1, -1, -1], [True] * 4),
  ([0, 0, 1, 1], [False] * 4),
  ([0, 0, 1, 1], [True, False, False, False]),
]


@pytest.mark.parametrize("index", range(len(EVERY)), ids=IDS)
def test_nothing_to_compare_is_no_loss_and_what_is_no_number_is_told(index):
  objective = metric.build(EVERY[index][0], **EVERY[index][1])
  fn = compiled(index)
  empty = memory.refs(memory.init(40, 16)) if objective.memory else None
  for label, valid in NOTHING:
    valid = np.array(valid + [False] * 20)
    x = np.where(valid[:, None], INPUTS["x"], np.inf)
    (value, logs), grad = fn(items(x, label + [0] * 20, valid=valid), empty)
    assert np.isfinite(grad).all()
    assert all(np.isfinite(v) for v in logs.values()), logs
    if not objective.needs_proxies:  # which are always there to be compared with
      assert value == 0 and not grad.any() and logs["anchors"] == 0
      assert logs.get("active", 0) == 0
  value = lambda batch: fn(batch)[0][0]
  assert value(BATCH) > 0
  assert np.isnan(value(BATCH._replace(x=BATCH.x.at[3, 2].set(jnp.nan))))
  assert np.isnan(value(BATCH._replace(label=BATCH.label.at[3].set(-2))))
  if objective.needs_proxies:
    assert np.isnan(value(BATCH._replace(label=BATCH.label.at[3].set(5))))


def test_ties_are_wrong():
  batch = items(np.tile(at([30]), (6, 1)), [0, 0, 0, 1, 1, 1])
  for miner in ("hard", "semihard", "all"):
    value, logs = of("triplet", batch, miner=miner)
    assert logs["accuracy"] == 0 and logs["active"] == 1
    np.testing.assert_allclose(value, 0.3, rtol=1e-5)  # stuck at the margin
    assert logs["collapsed"] == 1 and logs["spread"] < 1e-6


def test_spread_and_rank():
  batch = items(INPUTS["x"], INPUTS["label"], valid=np.arange(24) % 5 > 0)
  x = np.float64(INPUTS["x"])[np.arange(24) % 5 > 0]
  d = [1 - x[i] @ x[j] for i, j in itertools.combinations(range(len(x)), 2)]
  eigen = np.linalg.eigvalsh(np.cov(x.T))
  got = jax.jit(metric.spread)(batch)
  np.testing.assert_allclose(got["spread"], np.mean(d), rtol=1e-5)
  np.testing.assert_allclose(got["rank"], eigen.sum() ** 2 / (eigen**2).sum(), rtol=1e-4)
  assert got["collapsed"] == 0
  two = metric.spread(items(at([0, 180, 0, 180]), [0, 1, 0, 1]))
  np.testing.assert_allclose(two["rank"], 1, rtol=1e-5)
  assert two["collapsed"] == 0


def test_margin_schedules():
  rise = metric.scheduled(dict(begin=0.3, end=0.7, ramp_percent=40))
  np.testing.assert_allclose(rise(np.array([0, 0.2, 0.4, 1])), [0.3, 0.5, 0.7, 0.7], rtol=1e-6)
  fall = metric.scheduled(
    dict(begin=0.3, end=0.8, ramp_percent=40, drop=0.5, drop_percent=50, recover=0.6,
         recover_percent=20)
  )  # fmt: skip
  got = fall(np.array([0, 0.4, 0.499, 0.5, 0.6, 0.7, 1]))
  np.testing.assert_allclose(got, [0.3, 0.8, 0.8, 0.5, 0.55, 0.6, 0.6], rtol=1e-5)
  assert metric.scheduled(0.3)(0.9) == np.float32(0.3)
  with pytest.raises(ValueError, match="belong together"):
    metric.scheduled(dict(begin=0.3, end=0.7, ramp_percent=40, drop=0.5))
  with pytest.raises(ValueError, match="ramp_percent"):
    metric.scheduled(dict(begin=0.3, end=0.7))
  loss = jax.jit(metric.build("triplet", margin=dict(begin=0.1, end=0.5, ramp_percent=100)).loss)
  np.testing.assert_allclose(loss(BATCH, progress=0.25)[1]["margin"], 0.2, rtol=1e-6)


def test_memory_is_a_ring_of_valid_items():
  rng = np.random.default_rng(2)
  state, kept = memory.init(10, 3), []
  update = jax.jit(memory.update)
  for step in range(7):
    x = rng.standard_normal((4, 3)).astype(np.float32)
    label, track, valid = rng.integers(-1, 3, 4), 4 * step + np.arange(4), rng.random(4) < 0.7
    state = update(state, items(x, label, track, valid))
    kept += [(int(t), int(l), tuple(v)) for t, l, v, ok in zip(track, label, x, valid) if ok]
    got = memory.refs(state)
    stored = [
      (int(t), int(l), tuple(np.asarray(v)))
      for t, l, v, ok in zip(got.track, got.label, got.x, got.valid) if ok
    ]  # fmt: skip
    assert sorted(stored) == sorted(kept[-10:])
  with pytest.raises(ValueError, match="does not fit"):
    memory.update(memory.init(3, 3), items(np.zeros((4, 3), np.float32), [0] * 4))


def test_memory_adds_what_it_holds_but_not_the_own_track():
  base = metric.build("triplet", miner="hard")
  both = metric.build("triplet", miner="hard", memory=dict(size=40, weight=0.5))
  assert both.memory == 40 and base.memory == 0
  one, sum_of = jax.jit(base.loss), jax.jit(both.loss)
  a, b = one(BATCH)[0], one(BATCH, refs=STORED)[0]
  np.testing.assert_allclose(sum_of(BATCH, refs=STORED)[0], a + 0.5 * b, rtol=1e-6)
  with pytest.raises(ValueError, match="has a memory"):
    both.loss(BATCH)
  # The memory holds the batch of before: each item meets its own old embedding, no positive.
  own = one(BATCH, refs=BATCH)
  np.testing.assert_allclose(own[0], a, rtol=1e-6)
  state = memory.update(memory.init(40, 16), BATCH)
  grad = jax.grad(lambda x: memory.update(state, BATCH._replace(x=x)).x.sum())(BATCH.x)
  assert not grad.any()


def test_build_names_what_it_does_not_know():
  with pytest.raises(ValueError, match='"triplet"'):
    metric.build("triplets")
  with pytest.raises(ValueError, match='"semihard"'):
    metric.build("triplet", miner="semi-hard")
  with pytest.raises(ValueError, match='"hard_from_percent"'):
    metric.build("triplet", miner="progressive", hard_from=30)
  with pytest.raises(ValueError, match="bounded"):
    metric.build("triplet", miner="hard", bounded=True)
  with pytest.raises(ValueError, match="unknown argument 'margin'"):
    metric.build("supcon", margin=0.3)
  with pytest.raises(ValueError, match="needs rng"):
    metric.build("triplet", miner="random").loss(BATCH)
  with pytest.raises(ValueError, match="needs proxies"):
    metric.build("proxy_anchor").loss(BATCH)
  with pytest.raises(ValueError, match="without proxies"):
    metric.build("proxy_anchor", memory=dict(size=10))
  with pytest.raises(ValueError, match="above 0"):
    metric.build("supcon", temperature=0)
  with pytest.raises(ValueError, match=r"\[0, 100\]"):
    metric.build("triplet", mined_warmup_percent=200)
  with pytest.raises(ValueError, match="no meaning"):
    metric.build("triplet", miner="all", mined_warmup_percent=20)


def test_learns_from_nothing():
  """Plain descent on free embeddings brings classes apart."""
  unit = lambda x: x / jnp.linalg.norm(x, axis=1, keepdims=True)
  for name in ("triplet", "supcon"):
    grad = jax.grad(lambda x: metric.build(name).loss(BATCH._replace(x=unit(x)))[0])

    def step(_, x):
      g = grad(x)
      return unit(x - 0.3 * g / (jnp.linalg.norm(g) + 1e-9))

    x = jax.jit(lambda x: jax.lax.fori_loop(0, 60, step, x))(BATCH.x)
    logs = compiled(0)(BATCH._replace(x=x))[0][1]
    assert EVERY[0][1] == dict(miner="all") and logs["accuracy"] > 0.99, name
