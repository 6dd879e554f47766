"""Batches of P classes with K tracks each, for losses that compare the items of a batch.

Hermans, Beyer and Leibe, "In Defense of the Triplet Loss for Person Re-Identification" (2017),
section 2. What a batch holds is a function of (seed, step) alone.
"""

import difflib
import functools
import inspect
import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

_CLASSES, _GROUPS, _ITEMS = range(3)


class Sampler:
  """Which items are in batch s: P classes, of each K groups, of each group one item.

  Classes, the groups of a class and the items of a group are dealt like cards, each from a shuffled
  deck of its own: none comes again before all others have come, and none comes twice in a batch. So
  classes are equally frequent, however many items they have.
  """

  def __init__(
    self,
    columns: Mapping[str, np.ndarray],
    *,
    p: int,
    k: int,
    key: str = "label",
    group: str = "track",
    trash: int = 0,
    seed: int,
    classes: Sequence[str] | None = None,
  ):
    """Lists the items of each group of each class.

    Args:
      columns: {name: i32[N]} over the items of a source.
      p: classes in a batch.
      k: groups of a class in a batch.
      key: the column of classes; -1 is the trash, which is no class.
      group: the column of groups, such as "track" or "artist".
      trash: items of the trash that follow, each of another group.
      seed: of the run.
      classes: names of the labels, for messages.

    Raises:
      ValueError: no such column, fewer than p classes, fewer than k groups in a class or than
        `trash` in the trash.
    """
    where = "config.input.sampler"
    for column in (key, group):
      if column not in columns:
        near = difflib.get_close_matches(column, columns)
        hint = f' Did you mean "{near[0]}"?' if near else ""
        raise ValueError(f'{where}: no column "{column}".{hint} There are {", ".join(columns)}.')
    if p < 1 or k < 1 or trash < 0:
      raise ValueError(
        f"{where}: p={p}, k={k}, trash={trash}: expected p >= 1, k >= 1 and trash >= 0."
      )
    self.p, self.k, self.trash, self._seed = p, k, trash, int(seed)
    self._label, self._group = (np.asarray(columns[c]) for c in (key, group))
    self._recent: dict[int, np.ndarray] = {}
    self._items: dict[int, list[np.ndarray]] = {}  # label -> items of each group
    for label in np.unique(self._label):
      mine = np.flatnonzero(self._label == label)
      order = mine[np.argsort(self._group[mine], kind="stable")]
      ends = np.flatnonzero(np.diff(self._group[order])) + 1
      self._items[int(label)] = np.split(order, ends)
    self._classes = [c for c in self._items if c >= 0]
    name = lambda c: str(classes[c]) if classes is not None and key == "label" else str(c)
    if len(self._classes) < p:
      raise ValueError(
        f"{where}: p={p} classes in a batch, and there are {len(self._classes)}. "
        f"Use p={len(self._classes)} or fewer."
      )
    few = [c for c in self._classes if len(self._items[c]) < k]
    if few:
      listed = ", ".join(f'"{name(c)}" ({len(self._items[c])})' for c in few[:5])
      raise ValueError(
        f"{where}: k={k} of each class in a batch, each of another {group}; too few in {listed}. "
        f"Use k={min(len(self._items[c]) for c in few)} or fewer, or remove these classes."
      )
    if trash and len(self._items.get(-1, ())) < trash:
      raise ValueError(
        f"{where}: trash={trash} in a batch, each of another {group}, and the trash has "
        f"{len(self._items.get(-1, ()))}. Name it by trash=... of the source, or use fewer."
      )

  def batch(self, step: int) -> np.ndarray:
    """Items of batch `step`, i64[p k + trash]: the k items of a class side by side, trash last."""
    if (found := self._recent.get(step)) is not None:
      return found
    which, turns = _deal(len(self._classes), self.p, (self._seed, _CLASSES), step)
    parts = [
      self._of_class(self._classes[c], self.k, int(turn))
      for c, turn in zip(which, turns, strict=True)
    ]
    if self.trash:
      parts.append(self._of_class(-1, self.trash, step))
    found = np.concatenate(parts)
    # Each row asks for its batch. Replaced, never changed: reader threads share it.
    self._recent = dict([*self._recent.items()][-7:]) | {step: found}
    return found

  def _of_class(self, label, count, turn):
    """`count` items of different groups, for the class's `turn`-th time in a batch."""
    groups = self._items[label]
    salt = label + 1  # entropy is not negative
    which, uses = _deal(len(groups), count, (self._seed, _GROUPS, salt), turn)
    out = np.empty(count, np.int64)
    for n, (g, use) in enumerate(zip(which.tolist(), uses.tolist(), strict=True)):
      i = 0
      if len(groups[g]) > 1:
        ((i,), _) = _deal(len(groups[g]), 1, (self._seed, _ITEMS, salt, g), use)
      out[n] = groups[g][i]
    return out

  def stand_in(self, step: int, row: int, rng: np.random.Generator) -> int:
    """An item in place of one that cannot be decoded: of its class, from no group of the batch.

    Where every group of the class is in the batch, another item of the same group; that failing,
    the item itself again.
    """
    batch = self.batch(step)
    label = self._label[batch[row]]
    same = np.flatnonzero(self._label == label)
    others = same[~np.isin(self._group[same], self._group[batch])]
    if not len(others):
      others = same[(self._group[same] == self._group[batch[row]]) & (same != batch[row])]
    return int(rng.choice(others)) if len(others) else int(batch[row])


def build(cfg: Mapping, sources: Mapping, batch_size: int, *, seed: int) -> Sampler:
  """The sampler that `config.input.sampler` describes.

  Args:
    cfg: dict(name="pk", **arguments of `Sampler`).
    sources: {name: source} of the training data.
    batch_size: rows of a batch.
    seed: of the run.

  Raises:
    ValueError: another name, unknown arguments, several data sets, a source without columns, a
      batch that is not p * k + trash.
  """
  where, cfg = "config.input.sampler", dict(cfg)
  if (name := cfg.pop("name", None)) != "pk":
    raise ValueError(f'{where}.name={name!r}: there is only "pk".')
  known = [a for a in inspect.signature(Sampler).parameters if a not in ("columns", "seed")]
  known.remove("classes")
  for key in cfg:
    if key not in known:
      near = difflib.get_close_matches(key, known)
      hint = f' Did you mean "{near[0]}"?' if near else ""
      raise ValueError(f"{where}.{key}: unknown.{hint} It takes {', '.join(known)}.")
  for key in ("p", "k"):
    if key not in cfg:
      raise ValueError(f"{where}.{key} is missing.")
  if len(sources) != 1:
    raise ValueError(f"{where}: takes one data set, got {', '.join(sorted(sources))}.")
  ((data, source),) = sources.items()
  if not hasattr(source, "columns"):
    raise ValueError(
      f"{where}: config.input.data.{data} has no columns, by which classes and tracks are found. "
      'Sources with columns: "tracks", "features", "worlds.loops".'
    )
  sampler = Sampler(source.columns, **cfg, seed=seed, classes=getattr(source, "classes", None))
  want = sampler.p * sampler.k + sampler.trash
  if batch_size != want:
    raise ValueError(
      f"config.input.batch_size={batch_size} is not p * k + trash = {want} of {where}. "
      f"Use batch_size={want}."
    )
  return sampler


def _deal(n: int, take: int, entropy: tuple[int, ...], turn: int):
  """The `turn`-th hand of `take` different cards out of n: (cards, how often each came before)."""
  common = math.gcd(n, take)
  rounds, per_round = take // common, n // common  # decks in a round, hands in a round
  number, at = divmod(turn, per_round)
  cards, before = _round(n, take, (*entropy, number))
  hand = slice(at * take, (at + 1) * take)
  return cards[hand], before[hand] + number * rounds


@functools.lru_cache(maxsize=4096)
def _round(n, take, entropy):
  """Several shuffled decks in a row, as many as end with a full hand, and the deck of each card.

  A hand that takes the rest of one deck and the beginning of the next has no card twice: what it
  holds already is put behind in the next deck.
  """
  rng = np.random.default_rng([zlib.crc32(b"pk"), *entropy])
  decks, dealt = [], 0
  for _ in range(take // math.gcd(n, take)):
    deck = rng.permutation(n)
    if rest := dealt % take:
      held = np.isin(deck, np.concatenate(decks)[-rest:])
      fresh = np.flatnonzero(~held)[: take - rest]
      later = np.setdiff1d(np.arange(n), fresh)  # in their shuffled order
      deck = np.concatenate([deck[fresh], deck[later]])
    decks.append(deck)
    dealt += n
  return np.concatenate(decks), np.repeat(np.arange(len(decks)), n)
