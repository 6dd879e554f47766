"""Miners: pytorch-metric-learning, loops in numpy, distributions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_audio.objectives import mining
from tests.objectives import metric_golden
from tests.objectives.test_metric import BATCH, KEY, at, golden, items, quick_jit

distances = quick_jit(lambda batch: (1 - mining.cosines(batch), mining.pairs(batch)))
D, PAIRS = distances(BATCH)
log_weights = quick_jit(functools.partial(mining.sphere_log_weights, dims=16, nearest=0.5))


@functools.cache
def compiled(name, settings):
  miner = mining.MINERS[name](**dict(settings))
  return quick_jit(functools.partial(miner.select, dims=16))


def chosen(name, d=D, pairs=PAIRS, margin=0.3, progress=0.0, **settings):
  select = compiled(name, tuple(settings.items()))
  return select(d, pairs, margin=margin, progress=progress, rng=KEY)


def as_set(triplets):
  """{(anchor, positive, negative)} of what is kept."""
  positive, negative, keep, _ = map(np.asarray, triplets)
  return {
    (int(i), int(positive[i, p]), int(negative[i, p])) for i, p in np.argwhere(keep)
  }  # fmt: skip


@pytest.mark.parametrize("live", [False, True], ids=["stored", "live"])
def test_triplets_of_pytorch_metric_learning(live):
  want = golden(live)
  assert as_set(chosen("hard")) == set(zip(*want["hard"].tolist(), strict=True))
  # Its semi-hard triplets are all there are; ours is the nearest negative of each pair.
  nearest, d = {}, np.asarray(D)
  for a, p, n in want["semihard"].T.tolist():
    best = nearest.get((a, p))
    if best is None or d[a, n] < d[a, best]:
      nearest[a, p] = n
  got = chosen("semihard", positives="all", bounded=True)
  found = got._replace(keep=got.keep & ~got.fallback)
  assert as_set(found) == {(a, p, n) for (a, p), n in nearest.items()}


@pytest.mark.parametrize("live", [False, True], ids=["stored", "live"])
def test_weights_of_pytorch_metric_learning(live):
  want = golden(live)["distance_weights"]
  log = np.float64(log_weights(D))
  kept = np.asarray(PAIRS.neg & (jnp.sqrt(2 * D) < 1.4))
  weights = np.where(kept, np.exp(log), 0)
  weights /= weights.sum(1, keepdims=True)
  np.testing.assert_allclose(weights, want, rtol=1e-3, atol=1e-5)


def test_distance_weighted_is_drawn_by_its_weights():
  """Counts of 400 x 24 draws of each anchor against the weights, by chi-square."""
  log = np.float64(log_weights(D))
  kept = np.asarray(PAIRS.neg & (jnp.sqrt(2 * D) < 1.4))
  weights = np.where(kept, np.exp(log - log.max()), 0)
  weights /= weights.sum(1, keepdims=True)
  draw = quick_jit(
    jax.vmap(lambda k: mining.distance_weighted().select(D, PAIRS, dims=16, rng=k).negative)
  )
  negatives = np.asarray(draw(jax.random.split(KEY, 400)))  # [400,B,R]
  for i in range(24):
    counts = np.bincount(negatives[:, i].ravel(), minlength=24)
    want = weights[i] * counts.sum()
    assert not counts[~kept[i]].any()
    chi = np.sum((counts - want)[kept[i]] ** 2 / want[kept[i]])
    free = kept[i].sum() - 1
    assert chi < free + 6 * np.sqrt(2 * free) + 10
  alone = mining.Pairs(PAIRS.pos, PAIRS.neg & (D > 1.2))  # beyond the farthest
  assert not chosen("distance_weighted", pairs=alone).keep.any()


def test_sphere_weights_make_distances_uniform():
  """1/q weighs random points of a sphere so that every distance is as likely."""
  rng = np.random.default_rng(0)
  x = rng.standard_normal((200_000, 8))
  d = 1 - x[:, 0] / np.linalg.norm(x, axis=1)
  w = np.exp(np.float64(mining.sphere_log_weights(jnp.asarray(d, jnp.float32), 8, nearest=0.5)))
  counts, _ = np.histogram(np.sqrt(2 * d), bins=8, range=(0.8, 1.6), weights=w)
  np.testing.assert_allclose(counts / counts.mean(), 1, atol=0.04)


def loops(d, pairs, want, *, positives, margin=0.3, bounded=False):
  """Triplets by the plain definition."""
  out, d = set(), np.asarray(d)
  for i in range(len(d)):
    pos, neg = (np.flatnonzero(np.asarray(m)[i]) for m in pairs)
    if not len(pos) or not len(neg):
      continue
    for p in pos if positives == "all" else [pos[np.argmax(d[i, pos])]]:
      nearest = neg[np.argmin(d[i, neg])]
      far = [n for n in neg if d[i, n] > d[i, p] and (not bounded or d[i, n] < d[i, p] + margin)]
      n = min(far, key=lambda n: d[i, n]) if far and want == "semihard" else nearest
      out.add((i, int(p), int(n)))
  return out


@pytest.mark.parametrize("positives", ["hardest", "all"])
@pytest.mark.parametrize("seed", range(4))
def test_hard_and_semihard_by_loops(positives, seed):
  rng = np.random.default_rng(seed)
  label, track = rng.integers(-1, 3, 24), rng.integers(0, 10, 24)
  batch = items(metric_golden.inputs()["x"], label, track, rng.random(24) < 0.8)
  d, pairs = distances(batch)
  hard = loops(d, pairs, "hard", positives=positives)
  assert as_set(chosen("hard", d, pairs, positives=positives)) == hard
  for bounded in (False, True):
    got = chosen("semihard", d, pairs, positives=positives, bounded=bounded, margin=0.1)
    want = loops(d, pairs, "semihard", positives=positives, bounded=bounded, margin=0.1)
    assert as_set(got) == want
    for late in (0.0, 0.24, 0.25, 1.0) if bounded == (positives == "all") else ():
      kw = dict(positives=positives, bounded=bounded, margin=0.1, hard_from_percent=25)
      got = chosen("progressive", d, pairs, progress=late, **kw)
      assert as_set(got) == (want if late < 0.25 else hard)


def test_pairs_by_loops():
  rng = np.random.default_rng(5)
  label, track = rng.integers(-1, 3, 24), rng.integers(0, 8, 24)
  valid = rng.random(24) < 0.8
  x = metric_golden.inputs()["x"]
  batch, other = items(x, label, track, valid), items(x[::-1], label[::-1], track[::-1], valid)
  for refs, same in ((None, False), (None, True), (other, False), (other, True)):
    own = batch if refs is None else refs
    got = mining.pairs(batch, refs, same_track=same)
    got, own = jax.tree.map(np.asarray, (got, own))
    for i in range(24):
      for j in range(24):
        both = valid[i] and own.valid[j] and label[i] >= 0
        alike = label[i] == own.label[j]
        apart = track[i] != own.track[j] if not same else (refs is not None or i != j)
        assert got.pos[i, j] == (both and alike and apart)
        assert got.neg[i, j] == (both and not alike)


def test_fallbacks_are_told():
  # The negative at 10 degrees is nearer than the positive; that at 170 is far beyond the margin.
  batch = items(at([0, 60, 10, 170]), [0, 0, 1, 1])
  d, pairs = distances(batch)
  free = chosen("semihard", d, pairs)
  assert int(free.negative[0, 0]) == 3 and not free.fallback[0, 0]
  bounded = chosen("semihard", d, pairs, bounded=True)
  assert int(bounded.negative[0, 0]) == 2 and bounded.fallback[0, 0]


def test_random_and_warm_up_are_uniform():
  picks = quick_jit(jax.vmap(lambda k: mining.random().select(D, PAIRS, rng=k).negative))
  negatives = np.asarray(picks(jax.random.split(KEY, 200)))
  neg = np.asarray(PAIRS.neg)
  for i in range(24):
    counts = np.bincount(negatives[:, i].ravel(), minlength=24)
    assert not counts[~neg[i]].any()
    want = counts.sum() / neg[i].sum()
    np.testing.assert_allclose(counts[neg[i]], want, atol=6 * np.sqrt(want))
  mined = chosen("hard", positives="all")
  keys = jax.random.split(KEY, 200)
  one = lambda k, s: mining.warmed_up(mined, PAIRS.neg, share=s, rng=k).negative
  mix = quick_jit(jax.vmap(one, in_axes=(0, None)))
  for share in (0.0, 0.4, 1.0):
    same = np.asarray(mix(keys, share) == mined.negative[None])
    want = share + (1 - share) / neg.sum(1)  # a drawn one may be the mined one
    np.testing.assert_allclose(same.mean((0, 2)), want, atol=0.05)


def test_draws_never_take_a_weight_of_zero():
  """Where rounding could pass the last weight: u close to 1, zeros at the end."""
  weights = jnp.zeros((4, 2000)).at[:, 500:700].set(1e-3).at[:, 100].set(1e3)
  for seed in range(20):
    got = np.asarray(mining._draw(jax.random.key(seed), weights, 500))
    assert np.asarray(weights)[np.arange(4)[:, None], got].min() > 0


def test_settings_are_checked():
  with pytest.raises(ValueError, match="hardest"):
    mining.hard(positives="hard")
  with pytest.raises(ValueError, match="nearest < farthest"):
    mining.distance_weighted(nearest=1.5)
  with pytest.raises(ValueError, match="hard_from_percent"):
    mining.progressive(hard_from_percent=101)
