"""Batches of classes and tracks: balanced, distinct, and a function of (seed, step) alone."""

import itertools
import pickle
from collections import Counter

import numpy as np
import pytest
from ml_collections import ConfigDict

from big_audio import config as C
from big_audio import input_pipeline as ip
from big_audio.datasets import pk
from big_audio.datasets.errors import DecodeError


class Labelled:
  """Class c has `tracks + c` tracks of 1 to 3 items each; the trash has 4 tracks."""

  def __init__(self, classes=5, tracks=4, broken=(), with_trash=True):
    rows = [(c, t, i) for c in range(classes) for t in range(tracks + c) for i in range(1 + t % 3)]
    rows += [(-1, t, i) for t in range(4) for i in range(2)] if with_trash else []
    number = {ct: n for n, ct in enumerate(dict.fromkeys((c, t) for c, t, _ in rows))}
    order = np.random.default_rng(0).permutation(len(rows))  # not sorted by class
    rows = [rows[i] for i in order]
    self.columns = {
      "label": np.array([c for c, _, _ in rows], np.int32),
      "track": np.array([number[c, t] for c, t, _ in rows], np.int32),
      "artist": np.array([number[c, t] // 2 for c, t, _ in rows], np.int32),
    }
    self.classes, self.broken = [f"class {c}" for c in range(classes)], tuple(broken)

  def __len__(self):
    return len(self.columns["label"])

  def __getitem__(self, i):
    if i in self.broken:
      raise DecodeError("broken")
    return {"item": i, "id": f"item {i}", **{k: int(v[i]) for k, v in self.columns.items()}}


@pytest.fixture
def labelled(monkeypatch):
  monkeypatch.setattr(ip.data_sets.sources, "build", lambda kind, where="", **kw: Labelled(**kw))


def cfg(p=3, k=2, trash=0, batch_size=None, num_threads=0, num_workers=0, key="label", **kw):
  return ConfigDict(dict(
    batch_size=batch_size or p * k + trash, num_threads=num_threads, num_workers=num_workers,
    sampler=dict(name="pk", p=p, k=k, trash=trash, key=key), data=dict(a=dict(source="x", **kw)),
  ))  # fmt: skip


def read(c, steps, seed=3, **kw):
  with ip.train_batches(c, seed=seed, **kw) as it:
    return [next(it) for _ in range(steps)]


def items(batches):
  return [b["item"].tolist() for b in batches]


SHAPES = [(2, 2), (3, 2), (4, 3), (5, 4)]


@pytest.mark.parametrize("p,k", SHAPES)
def test_each_batch_has_p_classes_of_k_different_tracks(p, k):
  source = Labelled()
  sampler = pk.Sampler(source.columns, p=p, k=k, seed=1)
  for s in range(200):
    batch = sampler.batch(s).reshape(p, k)
    labels = source.columns["label"][batch]
    assert (labels == labels[:, :1]).all() and len(set(labels[:, 0])) == p
    assert len(set(source.columns["track"][batch].ravel())) == p * k and labels.min() >= 0


@pytest.mark.parametrize("p,k", SHAPES)
def test_classes_tracks_and_items_are_each_used_up_before_any_comes_again(p, k):
  source = Labelled()
  sampler = pk.Sampler(source.columns, p=p, k=k, seed=1)
  stream = np.concatenate([sampler.batch(s) for s in range(60)])
  labels = source.columns["label"][stream][::k]
  for n in range(1, len(labels) + 1, 7):  # at every time, not at the end alone
    seen = Counter(labels[:n].tolist())
    assert max(seen.values()) - min(seen.get(c, 0) for c in range(5)) <= 2
  assert Counter(labels[: 5 * (len(labels) // 5)].tolist()) == dict.fromkeys(
    range(5), len(labels) // 5
  )
  for c in range(5):
    mine = stream[source.columns["label"][stream] == c]
    tracks = Counter(source.columns["track"][mine].tolist())
    assert len(tracks) == 4 + c and max(tracks.values()) - min(tracks.values()) <= 1
    for t in tracks:
      of_track = Counter(i for i in mine.tolist() if source.columns["track"][i] == t)
      everything = np.flatnonzero(source.columns["track"] == t).tolist()
      assert max(of_track.values()) - min(of_track.get(i, 0) for i in everything) <= 1


@pytest.mark.parametrize("n,take", [(5, 3), (4, 4), (7, 1), (6, 4), (9, 6), (3, 2)])
def test_hands_by_a_plain_count(n, take):
  """Every card is dealt equally often, and its count of earlier hands is right."""
  seen, firsts = Counter(), Counter()
  for turn in range(10 * n):
    cards, before = pk._deal(n, take, (7, 1), turn)
    assert len(set(cards.tolist())) == take
    assert [seen[c] for c in cards.tolist()] == before.tolist()
    seen.update(cards.tolist())
    firsts[tuple(cards.tolist())] += 1
  assert set(seen.values()) == {10 * take}
  assert len(firsts) > 2


def test_cards_beside_each_other_are_random():
  """Each pair of six classes meets about equally often, also across the seam of two decks."""
  pairs = Counter()
  for seed in range(100):
    for turn in range(30):
      cards, _ = pk._deal(6, 4, (seed,), turn)
      pairs.update(itertools.combinations(sorted(cards.tolist()), 2))
  mean = 100 * 30 * 6 / 15
  assert len(pairs) == 15 and all(abs(n - mean) < 0.06 * mean for n in pairs.values())


def test_an_item_is_a_function_of_seed_and_step(labelled):
  whole = items(read(cfg(), 9))
  assert items(read(cfg(), 4, start_step=5)) == whole[5:]
  assert items(read(cfg(), 9, seed=4)) != whole
  assert len({tuple(b) for b in whole}) == 9
  # As it travels to worker processes, and whatever was asked for before.
  sampler = pk.Sampler(Labelled().columns, p=3, k=2, seed=3)
  sampler.batch(99)
  assert pickle.loads(pickle.dumps(sampler)).batch(7).tolist() == whole[7]


@pytest.mark.parametrize("threads,workers", [(3, 0), pytest.param(0, 2, marks=pytest.mark.slow)])
def test_threads_and_workers_change_nothing(labelled, threads, workers):
  kw = dict(trash=2, broken=(3, 8))
  a = read(cfg(**kw), 6)
  b = read(cfg(num_threads=threads, num_workers=workers, **kw), 6)
  assert items(a) == items(b) and [x["_bad"].tolist() for x in a] == [x["_bad"].tolist() for x in b]


@pytest.mark.parametrize("n", [2, 3, 6])
def test_processes_share_the_rows_in_order(labelled, n):
  parts = [items(read(cfg(), 4, process_index=p, process_count=n)) for p in range(n)]
  assert [[i for part in step for i in part] for step in zip(*parts)] == items(read(cfg(), 4))


def test_trash_comes_last_and_nowhere_else(labelled):
  for batch in read(cfg(trash=3), 20):
    assert (batch["label"][-3:] == -1).all() and (batch["label"][:-3] >= 0).all()
    assert len(set(batch["track"][-3:].tolist())) == 3
  assert all((b["label"] >= 0).all() for b in read(cfg(), 20))


def test_a_broken_item_is_replaced_by_its_class(labelled):
  source = Labelled()
  broken = tuple(np.flatnonzero(source.columns["label"] == 4)[::2].tolist())
  bad = 0
  for batch, clean in zip(read(cfg(broken=broken), 40), read(cfg(), 40)):
    np.testing.assert_array_equal(batch["label"], clean["label"])
    swapped = np.flatnonzero(batch["item"] != clean["item"])
    assert (batch["_bad"][swapped] > 0).all() and not set(batch["item"].tolist()) & set(broken)
    bad += len(swapped)
  assert bad > 5


def test_groups_may_be_artists():
  source = Labelled(with_trash=False)
  sampler = pk.Sampler(source.columns, p=4, k=2, group="artist", seed=0)
  for s in range(50):
    assert len(set(source.columns["artist"][sampler.batch(s)].reshape(4, 2)[0])) == 2


def test_what_cannot_be_sampled(labelled):
  def refused(said, **kw):
    with pytest.raises(ValueError, match=said):
      read(cfg(**kw), 1)

  refused(r"batch_size=7 is not p \* k \+ trash = 6 of .*Use batch_size=6", batch_size=7)
  refused("p=6 classes in a batch, and there are 5. Use p=5", p=6)
  refused(r'k=5 of each class.*too few in "class 0" \(4\)\. Use k=4', k=5)
  refused(r'too few in "0" \(2\)', k=3, key="artist")
  refused("trash=5 in a batch.*the trash has 4", trash=5)
  refused("the trash has 0", trash=1, with_trash=False)
  refused('no column "labels". Did you mean "label"', key="labels")
  c = cfg()
  for sampler, said in (
    (dict(name="kp"), 'there is only "pk"'),
    (dict(name="pk", p=3), "sampler.k is missing"),
    (dict(name="pk", p=3, k=2, grup="x"), 'sampler.grup: unknown. Did you mean "group"'),
    (dict(name="pk", p=0, k=2), "expected p >= 1"),
  ):
    with pytest.raises(ValueError, match=said):
      read(ConfigDict({**c.to_dict(), "sampler": sampler}), 1)
  two = {**c.to_dict(), "data": dict(a=dict(source="x"), b=dict(source="x"))}
  with pytest.raises(ValueError, match="takes one data set, got a, b"):
    read(ConfigDict(two), 1)
  with pytest.raises(ValueError, match="config.input.data.a has no columns"):
    pk.build(dict(name="pk", p=2, k=2), {"a": object()}, 4, seed=0)


def test_the_config_knows_the_sampler():
  config = C.with_defaults(ConfigDict(dict(input=dict(sampler=dict(name="pk", p=2, k=2)))))
  assert config.input.sampler.p == 2
  with pytest.raises(ValueError, match='config.input.samplr.*Did you mean "sampler"'):
    C.with_defaults(ConfigDict(dict(input=dict(samplr=1))))
