"""Which recording belongs to which split: by hash, by list or by regular expression."""

import difflib
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

ALL = "all"
# Halves of "train" by another hash: the models that are judged, and the embedder that judges them.
HALVES = ("codec", "embed")
_LISTS = (".txt", ".lst")
_SLICE = re.compile(r"(.*)\[(\d*)(%?):(\d*)(%?)\]")


def choose(
  ids: Sequence[str],
  split: str,
  splits: Mapping[str, float | str],
  *,
  group: str | None = None,
  folder: Path = Path(),
  where: str = "splits",
  known: Sequence[str] = (),
) -> list[int]:
  """Positions of the ids that belong to `split`, in order.

  Three kinds of rules, one kind in a `splits`:
  - fractions `{"train": 0.9, "test": 0.1}`: by a hash of the id without its suffix, or of its
    group, so that a recording stays in its split when others come and go. They add up to 1 or less
    (the rest is in no split);
  - regular expressions `{"train": r"_[1-4]\\d\\.wav$"}`: searched in the id;
  - lists `{"train": "train.txt"}` (a name that ends in .txt or .lst): one id in a line, with or
    without suffix; the file is relative to `folder`.

  Whatever the rules, "codec" and "embed" are two halves of "train", by another hash: an embedder
  that is trained on "embed" has seen nothing of what a model was trained on ("codec") or is
  measured on ("validation", "test"). "train" stays the whole of both.

  Args:
    ids: paths of recordings, relative to the folder.
    split: a name in `splits`, "codec" or "embed", or "all".
    splits: the rules.
    group: a regular expression searched in the id; what its first group (or all of it) matches is
      hashed in place of the id: all clips of one speaker or one recording stay together.
    folder: where lists lie.
    where: how errors call the place.
    known: further ids that a list may name, e.g. unreadable files.

  Raises:
    ValueError: unknown split, mixed kinds, fractions above 1, an id in two splits, a list that
      names unknown recordings, an id without group, nothing in the split.
  """
  halved = "train" in splits and split in HALVES and split not in splits
  if split != ALL and split not in splits and not halved:
    names = [*splits, ALL, *(HALVES if "train" in splits else ())]
    near = difflib.get_close_matches(split, names)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise ValueError(f'{where}: no split "{split}".{hint} There are {", ".join(names)}.')
  kinds = {_kind(rule) for rule in splits.values()}
  if len(kinds) > 1:
    raise ValueError(f"{where}: splits={dict(splits)} mixes {', '.join(sorted(kinds))}. Use one.")
  if group is not None and kinds != {"fractions"}:
    raise ValueError(f"{where}: group={group!r} needs splits by fractions.")
  if split == ALL:
    return list(range(len(ids)))
  member = {
    "fractions": lambda: _by_hash(ids, splits, group, where),
    "regular expressions": lambda: _by_regex(ids, splits, where),
    "lists": lambda: _by_list(ids, splits, folder, where, known),
  }[kinds.pop()]()
  if halved:
    key = _stem if group is None else _grouper(group, where)
    # Salted: the halves must not follow the hash that made the splits.
    half = lambda i: HALVES[int(_uniform("half/" + key(ids[i])) >= 0.5)]
    return [i for i, s in enumerate(member) if s == "train" and half(i) == split]
  chosen = [i for i, s in enumerate(member) if s == split]
  if not chosen:
    counts = ", ".join(f"{s}: {sum(m == s for m in member)}" for s in splits)
    raise ValueError(
      f'{where}: split "{split}" has none of {len(ids)} recordings ({counts}; in no split: '
      f"{sum(m is None for m in member)}). The first are {', '.join(ids[:3])}."
    )
  return chosen


def overlap(a: str | None, b: str | None) -> bool:
  """Whether two splits of one data set can share recordings, as far as their names tell.

  Args:
    a, b: names as in `choose`, or of TFDS ("train+test", "train[:80%]"); None: there is no split,
      so it is the whole.
  """
  pieces = lambda s: [p.strip() for p in (ALL if s is None else str(s)).split("+")]
  return any(_meet(x, y) for x in pieces(a) for y in pieces(b))


# What decides which items a split holds, beside the data set itself.
_CUT = ("size", "seed", "validation", "split_seed", "splits", "group")
_DATA = ("source", "dir", "list", "synth", "file", "files", "name", "data_dir")
# Of `tracks`, with the defaults: there a missing argument is a setting like any other.
_CUT_TRACKS = {"splits": None, "split_seed": 0, "label": None, "artist": None, "trash": None}


def check_cut(train: Mapping, judged: Mapping, where: str) -> None:
  """Refuses to judge on a split that is cut otherwise than that of the training data.

  Args:
    train, judged: data sets of a config.
    where: of the judged one.

  Raises:
    ValueError: both are splits of one data set, and a setting by which splits are cut differs: the
      training items would be among the judged ones.
  """
  tracks = train.get("source") == "tracks"
  if any(train.get(k) != judged.get(k) for k in _DATA) or ("split" not in train and not tracks):
    return
  # What only one of them gives is most likely the other's default.
  differ = [k for k in _CUT if k in train and k in judged and train[k] != judged[k]]
  if tracks:
    differ = [k for k, v in _CUT_TRACKS.items() if train.get(k, v) != judged.get(k, v)]
  if differ:
    told = ", ".join(f"{k}={judged.get(k)!r}, in training {train.get(k)!r}" for k in differ)
    raise ValueError(
      f"{where}: {told}: splits that are cut differently share items. Give both the same."
    )


def claim(workdir: str, records: Mapping[str, Mapping[str, Sequence[str]]], *, begun: bool) -> None:
  """Keeps which tracks are in which split as `splits.json` of a new workdir.

  Args:
    workdir: the folder.
    records: {data set: {split: names}}; nothing is written where there is none.
    begun: the workdir holds a run, whose splits these have to be.

  Raises:
    ValueError: the run was trained on other splits, because files came, went or were renamed.
  """
  path = Path(workdir, "splits.json")
  if begun and path.is_file():
    stored = json.loads(path.read_text(encoding="utf-8"))
    for name in sorted({*stored, *records}):
      of = lambda r, name=name: {t: s for s, tracks in r.get(name, {}).items() for t in tracks}
      was, now = of(stored), of(records)
      moved = sorted(t for t in {*was, *now} if was.get(t) != now.get(t))
      if moved:
        say = lambda d, t=moved[0]: d.get(t, "nowhere")
        raise ValueError(
          f"config.input.data.{name}: {len(moved)} tracks have left their split since the run in "
          f'{workdir} began: "{moved[0]}" was in {say(was)} and is in {say(now)}. Restore the '
          f'files, or begin another run (splits="{path}" keeps those splits for the tracks that '
          "are still there)."
        )
  elif records:
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(json.dumps(records, indent=1), encoding="utf-8")
    os.replace(temporary, path)


def _meet(a, b):
  (a, *of_a), (b, *of_b) = _sliced(a), _sliced(b)
  if a != b:
    return ALL in (a, b) or {a, b} in [{"train", half} for half in HALVES]
  # Slices in per cent and slices in items cannot be compared.
  percent = {unit for unit, *_ in (of_a, of_b) if unit is not None}
  return len(percent) > 1 or (of_a[1] < of_b[2] and of_b[1] < of_a[2])


def _sliced(name):
  """(name, whether in per cent or None, begin, end) of "name[begin:end]"."""
  found = _SLICE.fullmatch(name)
  if not found:
    return name.partition("[")[0], None, 0, float("inf")
  base, begin, mark, end, other = found.groups()
  return base, bool(mark or other), int(begin or 0), int(end) if end else float("inf")


def _kind(rule) -> str:
  if isinstance(rule, (int, float)) and not isinstance(rule, bool):
    return "fractions"
  return "lists" if rule.endswith(_LISTS) else "regular expressions"


def _by_hash(ids, splits, group, where):
  if min(splits.values()) < 0 or sum(splits.values()) > 1 + 1e-9:
    raise ValueError(f"{where}: fractions {dict(splits)} must be >= 0 and add up to 1 at most.")
  key = _stem if group is None else _grouper(group, where)
  return [_at(splits, _uniform(key(i))) for i in ids]


def _grouper(group, where):
  regex = compile_regex(group, where)

  def key(i):
    found = regex.search(i)
    if found is None:
      raise ValueError(f'{where}: group={group!r} is not found in "{i}".')
    return found.group(1) if regex.groups else found.group()

  return key


def _at(splits, u):
  edge = 0.0
  # By name: the order of a dict does not survive every way of storing a config.
  for name in sorted(splits):
    edge += splits[name]
    if u < edge - 1e-12:
      return name
  # Fractions that add up to 1 leave no gap at the end, whatever their rounding.
  return name if edge > 1 - 1e-9 else None


def _uniform(text: str) -> float:
  digest = hashlib.blake2b(os.fsencode(text), digest_size=8).digest()
  return int.from_bytes(digest, "little") / 2**64


def _by_regex(ids, splits, where):
  rules = {s: compile_regex(r, where) for s, r in splits.items()}
  member = []
  for i in ids:
    hits = [s for s, r in rules.items() if r.search(i)]
    if len(hits) > 1:
      raise ValueError(
        f'{where}: "{i}" is in {" and ".join(hits)}. The rules {dict(splits)} must not overlap.'
      )
    member.append(hits[0] if hits else None)
  return member


def _by_list(ids, splits, folder, where, known):
  position, stems = {}, {}  # of an id that is there several times, as segments are, all positions
  for n, i in enumerate(ids):
    position.setdefault(i, []).append(n)
    stems.setdefault(_stem(i), set()).add(i)
  elsewhere = {form for i in known for form in (i, _stem(i))}
  member = [None] * len(ids)
  for split, file in splits.items():
    path = Path(folder, file)
    try:
      names = [
        line.strip() for line in path.read_text(encoding="utf-8").split("\n") if line.strip()
      ]
    except (OSError, UnicodeDecodeError) as e:
      raise ValueError(f'{where}: cannot read the list of split "{split}": {e}') from e
    missing = [n for n in names if not any(n in d for d in (position, stems, elsewhere))]
    if missing:
      raise ValueError(
        f'{where}: {path} names {len(missing)} unknown recordings: "{missing[0]}"... '
        f'Expected paths like "{ids[0] if ids else "a/b.wav"}".'
      )
    for n in names:
      found = {n} if n in position else stems.get(n, set())
      if len(found) > 1:
        raise ValueError(
          f'{where}: {path}: "{n}" can be {" or ".join(sorted(found))}. Write the suffix.'
        )
      for at in [at for i in found for at in position[i]]:
        if member[at] not in (None, split):
          raise ValueError(f'{where}: "{n}" is in {member[at]} and {split}.')
        member[at] = split
  return member


def _stem(i: str) -> str:
  head, dot, tail = i.rpartition(".")
  return head if dot and "/" not in tail else i


def compile_regex(regex: str, where: str) -> re.Pattern:
  """The compiled expression; raises a ValueError that names `where` if it is none."""
  try:
    return re.compile(regex)
  except re.error as e:
    raise ValueError(f"{where}: {regex!r} is not a regular expression: {e}") from None
