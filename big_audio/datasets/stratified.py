"""Tracks into splits: in equal shares of each class, with all tracks of an artist in one split.

A hash of each path (`datasets.splits`) leaves small classes without validation tracks by chance.
Here whole classes are dealt out: shuffled by (seed, artist), so the order of a listing changes
nothing, but a track that comes or goes may move others. Keep what was drawn (`splits.json` of a
workdir) where a data set still grows.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence

SHARES = {"train": 0.7, "validation": 0.15, "test": 0.15}
VALIDATION = 0.15  # of the tracks outside of the test fold


def split(
  ids: Sequence[str],
  labels: Sequence[str],
  artists: Sequence[str] | None = None,
  *,
  shares: Mapping[str, float] = SHARES,
  seed: int = 0,
  where: str = "stratified",
) -> list[str]:
  """The split of each track, in shares that hold within each class.

  Args:
    ids: names of the tracks, all different.
    labels: the class of each.
    artists: of each; tracks of one artist share a split, also across classes. None: each track has
      its own.
    shares: {split: share above 0}; they add up to 1.
    seed: of the shuffle.
    where: how errors call the place.

  Returns:
    a name of `shares` for each id; every class has at least one track in every split.

  Raises:
    ValueError: shares that do not add up to 1, an id that comes twice, a class whose artists cannot
      be divided among the splits.
  """
  if not shares or min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-6:
    raise ValueError(
      f"{where}: shares {dict(shares)} must be above 0 and add up to 1, as in {SHARES}."
    )
  return _deal(ids, labels, artists, {k: shares[k] for k in sorted(shares)}, seed, where)


def folds(
  ids: Sequence[str],
  labels: Sequence[str],
  artists: Sequence[str] | None = None,
  *,
  k: int,
  seed: int = 0,
  where: str = "stratified",
) -> list[int]:
  """The fold in [0, k) of each track: each class is shuffled and dealt out in turn.

  Args:
    ids, labels, artists: as in `split`.
    k: number of folds, at least 2.
    seed: of the shuffle.
    where: how errors call the place.

  Raises:
    ValueError: k below 2, and as `split`.
  """
  if k < 2:
    raise ValueError(f"{where}: folds={k}: expected 2 or more.")
  return _deal(ids, labels, artists, dict.fromkeys(range(k), 1 / k), seed, where)


def cross_validation(
  ids: Sequence[str],
  labels: Sequence[str],
  artists: Sequence[str] | None = None,
  *,
  fold: int,
  fold_of: Sequence[int],
  validation: float = VALIDATION,
  seed: int = 0,
  where: str = "stratified",
) -> list[str]:
  """train, validation or test for each track: one fold is the test, the rest is split again.

  Args:
    ids, labels, artists: as in `split`.
    fold: which fold is the test.
    fold_of: the fold of each track, as from `folds`.
    validation: share of the tracks of the other folds; 0 has no validation split.
    seed: of the validation split.
    where: how errors call the place.

  Raises:
    ValueError: no track in that fold, all tracks in it, or as `split`.
  """
  rest = [i for i, f in enumerate(fold_of) if f != fold]
  if not rest or len(rest) == len(ids):
    there = ", ".join(map(str, sorted(set(fold_of))))
    raise ValueError(f"{where}: fold={fold} leaves nothing to train or to test. Folds: {there}.")
  if not 0 <= validation < 1:
    raise ValueError(f"{where}: validation={validation}: expected a share in [0, 1).")
  out = ["test"] * len(ids)
  pick = lambda x: None if x is None else [x[i] for i in rest]
  shares = {"train": 1 - validation, "validation": validation}
  inner = (
    split(pick(ids), pick(labels), pick(artists), shares=shares, seed=seed, where=where)
    if validation
    else ["train"] * len(rest)
  )
  for i, name in zip(rest, inner, strict=True):
    out[i] = name
  return out


def _deal(ids, labels, artists, shares, seed, where):
  twice = [i for i, n in Counter(ids).items() if n > 1]
  if twice:
    raise ValueError(f'{where}: track "{twice[0]}" is there more than once.')
  keys = [("track", i) for i in ids] if artists is None else [("artist", a) for a in artists]
  units: dict[tuple, Counter] = {}  # what stays together: {class: tracks}
  for key, label in zip(keys, labels, strict=True):
    units.setdefault(key, Counter())[label] += 1
  classes = sorted(set(labels))
  for c in classes:
    has = sum(c in u for u in units.values())
    if has < len(shares):
      what = "tracks" if artists is None else "artists"
      raise ValueError(
        f'{where}: class "{c}" has {has} {what} for {len(shares)} splits '
        f"({', '.join(map(str, shares))}). Add some, merge the class with another, take fewer "
        f"splits{'' if artists is None else ', or let artists be divided (artist=None)'}."
      )
  size = Counter(labels)
  left = {c: _quotas(size[c], shares, n) for n, c in enumerate(classes)}
  # Largest first: what is hard to place finds room; equal ones in an order drawn by the seed.
  order = sorted(units, key=lambda k: (-units[k].total(), _hash(seed, k), k))
  place = {}
  for key in order:
    need = lambda s, u=units[key]: sum(n * left[c][s] for c, n in u.items())
    place[key] = max(shares, key=need)  # the first of equals
    for c, n in units[key].items():
      left[c][place[key]] -= n
  _fill_empty(units, place, order, shares, classes, where)
  return [place[k] for k in keys]


def _quotas(n, shares, turn):
  """{split: tracks} of a class of n: largest remainders, at least one each."""
  names = list(shares)
  quota = {s: max(1, int(shares[s] * n + 1e-9)) for s in names}
  # Equal remainders are given out from another split on in each class: folds stay equally large.
  turned = names[turn % len(names) :] + names[: turn % len(names)]
  by_lack = sorted(turned, key=lambda s: quota[s] - shares[s] * n)
  for s in by_lack[: max(0, n - sum(quota.values()))]:
    quota[s] += 1
  while sum(quota.values()) > n:
    quota[max(names, key=lambda s: (quota[s] > 1, quota[s] - shares[s] * n))] -= 1
  return quota


def _fill_empty(units, place, order, shares, classes, where):
  """Moves artists until every class is in every split."""
  holds = {(c, s): 0 for c in classes for s in shares}  # artists
  for key, s in place.items():
    for c in units[key]:
      holds[c, s] += 1
  for c in classes:
    for s in shares:
      if holds[c, s]:
        continue
      # The smallest artist of the class that no split needs.
      spare = [k for k in order if c in units[k] and all(holds[d, place[k]] > 1 for d in units[k])]
      if not spare:
        raise ValueError(
          f'{where}: the artists of class "{c}" cannot be divided among the splits '
          f"{', '.join(map(str, shares))}, since they belong to other classes too. Let artists be "
          "divided (artist=None), or give the splits as a list."
        )
      key = spare[-1]
      for d in units[key]:
        holds[d, place[key]] -= 1
        holds[d, s] += 1
      place[key] = s


def _hash(seed, key) -> bytes:
  text = f"{seed}/{key[0]}/{key[1]}"
  return hashlib.blake2b(os.fsencode(text), digest_size=8).digest()
