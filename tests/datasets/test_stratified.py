"""Splits by track: shares within each class, artists together, the same for any listing."""

import random
from collections import Counter

import pytest

from big_audio.datasets import stratified

SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}


def world(classes=4, size=20, per_artist=1):
  """(ids, labels, artists)."""
  rows = [
    (f"c{c}/t{i}", f"c{c}", f"a{c}_{i // per_artist}") for c in range(classes) for i in range(size)
  ]
  return [list(x) for x in zip(*rows)]


def counts(labels, member):
  return Counter(zip(labels, member))


def test_shares_hold_exactly_within_each_class():
  ids, labels, _ = world()
  got = counts(labels, stratified.split(ids, labels, shares=SHARES, seed=1))
  assert got == {
    (f"c{c}", s): n for c in range(4) for s, n in (("train", 12), ("validation", 4), ("test", 4))
  }
  default = Counter(stratified.split(ids, labels))
  assert default["train"] == 56 and default["validation"] == default["test"] == 12


@pytest.mark.parametrize("size", [3, 4, 5, 7, 11])
def test_small_classes_are_in_every_split(size):
  ids, labels, _ = world(classes=3, size=size)
  got = counts(labels, stratified.split(ids, labels))
  assert len(got) == 9 and min(got.values()) >= 1
  assert all(abs(got[f"c{c}", "train"] - 0.7 * size) <= 1.2 for c in range(3))


def test_the_order_of_the_listing_changes_nothing_and_the_seed_does():
  ids, labels, artists = world(per_artist=3)
  want = dict(zip(ids, stratified.split(ids, labels, artists, seed=5)))
  rows = list(zip(ids, labels, artists))
  random.Random(0).shuffle(rows)
  again = stratified.split(*map(list, zip(*rows)), seed=5)
  assert dict(zip([r[0] for r in rows], again)) == want
  assert dict(zip(ids, stratified.split(ids, labels, artists, seed=6))) != want


@pytest.mark.parametrize("seed", range(5))
def test_artists_stay_together_also_across_classes(seed):
  rng = random.Random(seed)
  artists = [f"a{i}" for i in range(30)]
  rows = [(f"t{i}", f"c{rng.randrange(3)}", rng.choice(artists)) for i in range(300)]
  ids, labels, of = map(list, zip(*rows))
  member = stratified.split(ids, labels, of, seed=seed)
  assert len(set(zip(of, member))) == len(set(of))
  got = counts(labels, member)
  assert len(got) == 9
  assert all(0.6 < got[c, "train"] / labels.count(c) < 0.8 for c in set(labels))


def test_an_artist_of_half_a_class_leaves_room_for_others():
  ids = [f"t{i}" for i in range(10)]
  artists = ["big"] * 8 + ["b", "c"]
  member = stratified.split(ids, ["x"] * 10, artists)
  assert sorted(set(member)) == ["test", "train", "validation"]
  assert member[0] == "train" and len(set(member[:8])) == 1


def test_classes_that_cannot_be_divided_say_what_to_do():
  with pytest.raises(ValueError, match='"c" has 2 artists for 3 splits.*artist=None'):
    stratified.split(list("123456"), ["c"] * 6, list("aabbbb"))
  with pytest.raises(ValueError, match='"c" has 2 tracks for 3 splits .test, train, validation'):
    stratified.split(["1", "2"], ["c", "c"])
  # Three classes, each of two out of three artists: two splits cannot hold them.
  with pytest.raises(ValueError, match='here: the artists of class ".".*cannot be divided'):
    halves = {"train": 0.5, "test": 0.5}
    stratified.split(list("abcdef"), list("xxyyzz"), list("121323"), shares=halves, where="here")
  with pytest.raises(ValueError, match="add up to 1"):
    stratified.split(["1"], ["c"], shares={"train": 0.5})
  with pytest.raises(ValueError, match='"1" is there more than once'):
    stratified.split(["1", "1"], ["c", "c"])


@pytest.mark.parametrize("k", [2, 3, 5])
def test_folds_are_equally_large_in_each_class_and_over_all(k):
  ids, labels, _ = world(classes=5, size=23)
  fold = stratified.folds(ids, labels, k=k, seed=2)
  got = counts(labels, fold)
  assert {n for n in got.values()} <= {23 // k, 23 // k + 1}
  assert max(Counter(fold).values()) - min(Counter(fold).values()) <= 2


def test_cross_validation_tests_each_track_once():
  ids, labels, artists = world(size=30, per_artist=2)
  fold_of = stratified.folds(ids, labels, artists, k=5)
  tested = Counter()
  for f in range(5):
    member = stratified.cross_validation(ids, labels, artists, fold=f, fold_of=fold_of)
    assert len(set(zip(artists, member))) == len(set(artists))
    assert {(c, s) for c, s in zip(labels, member)} == {
      (c, s) for c in set(labels) for s in stratified.SHARES
    }
    tested.update(i for i, s in zip(ids, member) if s == "test")
  assert tested == Counter(ids)
  without = stratified.cross_validation(ids, labels, fold=0, fold_of=fold_of, validation=0)
  assert set(without) == {"train", "test"}
  with pytest.raises(ValueError, match="fold=7 leaves nothing"):
    stratified.cross_validation(ids, labels, fold=7, fold_of=fold_of)
  with pytest.raises(ValueError, match="folds=1"):
    stratified.folds(ids, labels, k=1)
