r"""Recordings with classes, whole or in chunks, for music similarity: split by track.

A tree `genre/subgenre/title.wav`, whose classes are the folders; a flat folder, whose classes a
regular expression finds; or a list (CSV: path, label, and optionally artist, track, split, fold):

    data={"music": dict(
        source="tracks", dir="/data/WAV", sr=16000, chunk=dict(secs=10.24, most=3),
        pp="pad(secs=10.24)|crop(secs=10.24, mode='start')|keep('wav', 'label', 'track')")}
    data={"digits": dict(source="tracks", dir="/data/fsdd", label=r"^(\d)_",
                         artist=r"^\d_([a-z]+)_", pp="pad(secs=1)|crop(secs=1)|...")}

A track is the path without suffix (`genre/subgenre/title`): equal titles stay apart. All chunks of
a track are in one split, and so are all tracks of an artist; where given rules divide an artist, it
is told.
"""

import csv
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from big_audio.datasets import audio_dir, manifest, stratified
from big_audio.datasets import splits as splits_lib
from big_audio.datasets.audio import AudioFile
from big_audio.datasets.chunks import Chunks

_LONG_SECS = 600
_FOLDS = ("fold", "folds", "validation")


@dataclass(frozen=True)
class _File:
  """A usable recording and what is known of it."""

  path: str
  sr: int
  frames: int
  channels: int
  track: str
  label: str
  artist: str | None = None
  split: str = ""
  fold: str = ""

  @property
  def id(self) -> str:
    return str(PurePosixPath(self.path).with_suffix(""))


class Source:
  """Tracks or chunks as {"wav": AudioFile, "sr", "id", "label", "track", "artist"}.

  `id` is the path without suffix, with "@seconds" for a chunk. `label`, `track` and `artist` are
  numbers that are the same in all splits; a track without a known artist is its own. Items of
  the trash have label -1.

  Attributes:
    classes: names of the labels, sorted.
    columns: {"label", "track", "artist": i32[len]}, for samplers and evaluators.
    tracks: names of the tracks of all splits; `track` is an index into it.
    artists: the same of the artists.
    starts_secs: f64[len], where in its recording each item begins.
    excluded: {path: reason} of the recordings that were left out.
    too_short: those of them that can be read, but have no chunk.
    sr: Hz of all recordings.
  """

  def __init__(
    self,
    dir: str = "",
    list: str = "",
    split: str = "train",
    *,
    sr: int | None = None,
    channels: int | None = 1,
    label: str | None = None,
    artist: str | None = None,
    splits: Mapping | str | None = None,
    split_seed: int = 0,
    chunk: Mapping | None = None,
    min_secs: float = 0.0,
    trash: str | None = None,
  ):
    """Indexes the recordings, divides the tracks and picks a split.

    Args:
      dir: the folder, searched recursively; with `list`, the folder of its paths.
      list: a CSV with the columns path (relative to `dir`, else to the list's own folder) and
        label, and optionally artist, track (files that are one track), split, fold; others are not
        read.
      split: a name of `splits`, or "all" (which without `splits` divides nothing).
      sr: resample to this rate (Hz) while reading; None refuses mixed rates.
      channels: 1 (mean) or n; None refuses mixed counts.
      label: a regular expression whose one group in the path is the class; None: the folder; "":
        nothing is known of classes, every label is -1.
      artist: the same for the artist; None: each track has its own.
      splits: which track is in which split:
        - None: shares of .7, .15, .15 for train, validation and test in each class;
        - {split: share}: other shares (`datasets.stratified.split`);
        - {split: regular expression or list}: rules of `datasets.splits.choose`;
        - dict(fold=0, folds=5, validation=.15): fold 0 of 5 is the test, a share of the rest the
          validation; without `folds` the list's column `fold` says which track is in which;
        - "split": the list's column; tracks where it is empty are in none;
        - a file "x.json": what `split_record` gave, or the `splits.json` of a workdir.
      split_seed: of shares and folds.
      chunk: settings of `datasets.chunks.Chunks`; an item is then a chunk of at least
        round(secs * sr) samples. None: an item is a whole recording.
      min_secs: whole recordings that are shorter are left out; of chunks, `chunk` has its own.
      trash: a folder or label whose tracks belong to no class: their label is -1.

    Raises:
      ValueError: nothing to read, a path outside of the folder, a list or argument that cannot be
        used, two files that are one track, mixed rates or channels, a training split with fewer
        than two classes or with a class of fewer than two tracks.
    """
    where = f"tracks({list or dir})"
    cut = None if chunk is None else Chunks.of(chunk, where)
    files, self.excluded = _files(dir, list, label, artist, where)
    if splits is None and any(f.split for f in files):
      raise ValueError(f'{where}: the list has a column "split". Say splits="split" to use it.')
    self.dir = Path(dir or Path(list).parent).expanduser()
    if trash is not None:  # one class, however it is divided inside
      thrown = lambda c: c == trash or c.startswith(f"{trash}/")
      files = [replace(f, label=trash) if thrown(f.label) else f for f in files]
    names = _track_facts(files, where)
    labels = {f.label for f in names.values()}
    if trash is not None and trash not in labels:
      raise ValueError(f'{where}: trash="{trash}" has no tracks. Labels: {_some(sorted(labels))}.')
    self.classes = sorted(labels - {trash, ""})
    self.tracks = sorted(names)
    self.artists = sorted({_artist(f) for f in names.values()})
    # Before anything is left out for its length: the split of a track must not depend on how its
    # recording is cut, or train and test of two settings would share tracks.
    if split == splits_lib.ALL and splits is None:
      self._member = dict.fromkeys(names, "")
    else:
      self._member = _members(names, splits, split_seed, self.dir, self.excluded, where)
    self._tell_shared_artists(names, where)
    known = sorted({s for s in self._member.values() if s})
    if split != splits_lib.ALL and split not in known:
      raise ValueError(f'{where}: no split "{split}". There are {", ".join(known)}, all.')
    files = [f for f in files if split in (splits_lib.ALL, self._member[f.track])]
    self.sr = audio_dir.one_rate(files, sr, where)
    self.channels = audio_dir.one_channel_count(files, channels, where)
    items = self._cut(files, cut, min_secs, where)
    number = lambda values: {v: n for n, v in enumerate(values)}
    label_of, track_of, artist_of = map(number, (self.classes, self.tracks, self.artists))
    self._files = [(f.path, f.sr, f.channels, f.id) for f in files]
    self._file = np.array([i for i, _, _ in items], np.int32)
    self._start = np.array([a for _, a, _ in items], np.int64)
    self._frames = np.array([n for _, _, n in items], np.int64)
    self._chunked = cut is not None
    mine = [files[i] for i, _, _ in items]
    self.columns = {
      "label": np.array([label_of.get(f.label, -1) for f in mine], np.int32),
      "track": np.array([track_of[f.track] for f in mine], np.int32),
      "artist": np.array([artist_of[_artist(f)] for f in mine], np.int32),
    }
    self.starts_secs = self._start / np.array([f.sr for f in mine])
    if split == "train":
      check_classes(self.columns, self.classes, where)

  def _tell_shared_artists(self, names, where):
    """Official splits may divide an artist's tracks; whoever uses them should know."""
    splits: dict = {}
    for track, f in names.items():
      if f.artist and self._member[track]:
        splits.setdefault(f.artist, set()).add(self._member[track])
    shared = sorted(a for a, s in splits.items() if len(s) > 1)
    if shared:
      print(
        f"{where}: {len(shared)} artists have tracks in several splits: {_some(shared)}",
        file=sys.stderr,
      )

  def _cut(self, files, cut, min_secs, where):
    """[(index into files, first sample, samples)], at the rates of the files."""
    self.too_short: dict[str, str] = {}
    long = [f.path for f in files if f.frames > _LONG_SECS * f.sr]
    if long:
      print(f"{where}: {len(long)} above {_LONG_SECS} s: {_some(long)}", file=sys.stderr)
    out, left_out, to_the_edge = [], {}, []
    for i, f in enumerate(files):
      secs = f.frames / f.sr
      if cut is None and secs >= min_secs:
        out.append((i, 0, f.frames))
        continue
      least = f"{secs:.2f} s, shorter than min_secs={min_secs:g}"
      if reason := least if cut is None else cut.refuse(secs):
        left_out[f.path] = reason
        continue
      if cut.edge_secs and not cut.edge(f.frames, f.sr):
        to_the_edge.append(f.path)
      # The fewest samples of the file that give this many at the rate that is read.
      want = round(cut.secs * self.sr)
      length = (want - 1) * f.sr // self.sr + 1
      begins = cut.starts(f.frames, length, f.sr, f.id)
      out += [(i, int(b), min(length, f.frames)) for b in begins]
    self.too_short = left_out
    self.excluded |= left_out
    if left_out:
      first = "; ".join(f"{p}: {why}" for p, why in [*left_out.items()][:3])
      print(f"{where}: {len(left_out)} of {len(files)} left out: {first}", file=sys.stderr)
    if to_the_edge:
      print(
        f"{where}: {len(to_the_edge)} too short for edge_secs={cut.edge_secs:g}, used to their "
        f"ends: {_some(to_the_edge)}",
        file=sys.stderr,
      )
    if not out:
      raise ValueError(
        f"{where}: no recording is long enough, of {len(files)}: {_some([*left_out])}."
      )
    return out

  def __len__(self) -> int:
    return len(self._file)

  def __getitem__(self, i: int) -> dict:
    path, sr, channels, _ = self._files[self._file[i]]
    name = self.id(i)
    file = AudioFile(
      f"{self.dir}/{path}", sr, int(self._frames[i]), channels, self.sr, self.channels,
      start=int(self._start[i]), name=name,
    )  # fmt: skip
    numbers = {k: int(v[i]) for k, v in self.columns.items()}
    return {"wav": file, "sr": self.sr, "id": name, **numbers}

  def stem(self, i: int) -> str:
    """Path of an item's recording, relative to the folder, without suffix."""
    return self._files[self._file[i]][3]

  def id(self, i: int) -> str:
    """The name of an item: its recording, and where in it a chunk begins."""
    return self.stem(i) + (f"@{self.starts_secs[i]:.10g}" if self._chunked else "")

  def path(self, i: int) -> Path:
    """The file of an item."""
    return self.dir / self._files[self._file[i]][0]

  def split_record(self) -> dict[str, list[str]]:
    """{split: names of its tracks, sorted}, over all splits; JSON holds it."""
    out: dict[str, list[str]] = {s: [] for s in sorted({s for s in self._member.values() if s})}
    for track in self.tracks:
      if self._member[track]:
        out[self._member[track]].append(track)
    return out


def _files(folder, listing, label, artist, where):
  """([_File], {path: reason}), sorted by path."""
  if not folder and not listing:
    raise ValueError(f"{where}: expected dir, list, or both.")
  root = Path(folder or Path(listing).parent).expanduser()
  audio_dir.check_folder(root, where)
  if listing and (label is not None or artist is not None):
    raise ValueError(f"{where}: label and artist are columns of the list, not expressions.")
  rows = _rows(Path(listing).expanduser(), where) if listing else None
  entries = manifest.index(root)
  if rows is not None:
    there = {e.path: e for e in entries}
    lost = sorted(set(rows) - set(there))
    if lost:
      raise ValueError(
        f"{where}: {len(lost)} of {len(rows)} paths are not below {root}: {_some(lost)}. Give the "
        "folder that they are relative to as dir."
      )
    entries = [there[p] for p in sorted(rows)]
  excluded = {e.path: e.reason or "empty" for e in entries if e.reason or not e.frames}
  entries = [e for e in entries if e.path not in excluded]
  audio_dir.report(where, len(entries), excluded)
  facts = lambda e: dict(path=e.path, sr=e.sr, frames=e.frames, channels=e.channels)
  stem = lambda e: str(PurePosixPath(e.path).with_suffix(""))
  if rows is not None:
    return [_File(**facts(e), **{"track": stem(e), **rows[e.path]}) for e in entries], excluded
  paths = [e.path for e in entries]
  if label:
    labels = _groups(paths, label, "label", where)
  else:
    labels = _folders(paths, where) if label is None else [""] * len(paths)
  artists = [None] * len(paths) if artist is None else _groups(paths, artist, "artist", where)
  files = [
    _File(**facts(e), track=stem(e), label=c, artist=a)
    for e, c, a in zip(entries, labels, artists, strict=True)
  ]
  return files, excluded


def _rows(path, where):
  """{path: columns that _File takes} of a list."""
  try:
    with open(path, newline="", encoding="utf-8") as f:
      reader = csv.DictReader(f)
      columns, rows = reader.fieldnames or [], [*reader]
  except (OSError, UnicodeDecodeError, csv.Error) as e:
    raise ValueError(f"{where}: cannot read the list: {e}") from e
  for name in ("path", "label"):
    if name not in columns:
      raise ValueError(f'{where}: the list has no column "{name}", only {", ".join(columns)}.')
  out = {}
  for number, row in enumerate(rows, 2):
    given = {k: (row.get(k) or "").strip() for k in ("path", "label", "artist", "track")}
    at = PurePosixPath(given["path"])
    if not given["path"] or at.is_absolute() or ".." in at.parts:
      raise ValueError(
        f'{where}, line {number}: path "{given["path"]}": expected one below the folder. '
        "Give the folder that holds all of them as dir."
      )
    if not given["label"]:
      raise ValueError(f'{where}, line {number}: "{at}" has no label.')
    if str(at) in out:
      raise ValueError(f'{where}, line {number}: "{at}" is listed twice.')
    more = {k: (row.get(k) or "").strip() for k in ("split", "fold")}
    named = {"track": given["track"]} if given["track"] else {}
    out[str(at)] = dict(label=given["label"], artist=given["artist"] or None, **named, **more)
  return out


def _folders(paths, where):
  flat = [p for p in paths if "/" not in p]
  if flat:
    raise ValueError(
      f"{where}: {len(flat)} recordings lie in no folder, which would be their class: "
      f"{_some(flat)}. Give label, a regular expression with one group."
    )
  return [p.rpartition("/")[0] for p in paths]


def _groups(paths, regex, what, where):
  """What the one group of an expression matches in each path."""
  compiled = splits_lib.compile_regex(regex, where)
  found = [compiled.search(p) for p in paths]
  if compiled.groups != 1 or not all(f and f.group(1) for f in found):
    lost = next((p for p, f in zip(paths, found, strict=True) if not f), paths[0])
    raise ValueError(
      f'{where}: {what}={regex!r} must have one group and be found in every path; see "{lost}".'
    )
  return [f.group(1) for f in found]


def _artist(file):
  """The name of its artist; a track of an unknown one is alone, whatever artists are called."""
  return file.artist or f"({file.track})"


def _track_facts(files, where):
  """{track: one of its files}; all of them must agree."""
  stems, names = {}, {}
  for f in files:
    other = stems.setdefault(f.id, f)
    if other is not f:
      raise ValueError(
        f'{where}: "{other.path}" and "{f.path}" are one track by their names. Remove one, or '
        "rename it."
      )
    first = names.setdefault(f.track, f)
    same = lambda f: (f.label, f.artist, f.split, f.fold)
    if same(first) != same(f):
      raise ValueError(
        f'{where}: track "{f.track}" has several labels, artists, splits or folds: '
        f'{same(first)} by "{first.path}", {same(f)} by "{f.path}".'
      )
  return names


def _members(names, splits, seed, folder, excluded, where):
  """{track: its split, or ""}."""
  ids = sorted(names)
  files = [names[t] for t in ids]
  labels = [f.label for f in files]
  artists = [_artist(f) for f in files] if any(f.artist for f in files) else None
  if splits is None or (isinstance(splits, Mapping) and _numbers(splits, _FOLDS)):
    shares = stratified.SHARES if splits is None else splits
    out = stratified.split(ids, labels, artists, shares=shares, seed=seed, where=where)
  elif isinstance(splits, str) and splits.endswith(".json"):
    return _stored(Path(splits).expanduser(), ids, excluded, where)
  elif splits == "split":
    out = [f.split for f in files]
    if not any(out):
      raise ValueError(f'{where}: splits="split": the list has no column "split".')
  elif isinstance(splits, Mapping) and "fold" in splits:
    out = _by_fold(dict(splits), ids, labels, artists, files, seed, where)
  elif isinstance(splits, Mapping) and all(isinstance(r, str) for r in splits.values()):
    out = [""] * len(ids)
    paths = [f.path for f in files]
    for s in splits:
      chosen = splits_lib.choose(paths, s, splits, folder=folder, where=where, known=[*excluded])
      for i in chosen:
        out[i] = s
  else:
    raise ValueError(
      f"{where}: splits={splits!r}: expected shares, rules, dict(fold=..., folds=...), "
      '"split" (a column of the list), or a file "x.json".'
    )
  return dict(zip(ids, out, strict=True))


def _numbers(splits, but):
  return not set(splits) & set(but[:2]) and all(
    isinstance(v, int | float) and not isinstance(v, bool) for v in splits.values()
  )


def _by_fold(splits, ids, labels, artists, files, seed, where):
  unknown = sorted(set(splits) - set(_FOLDS))
  if unknown:
    raise ValueError(f"{where}: splits has {unknown[0]!r}; with fold it takes {', '.join(_FOLDS)}.")
  if "folds" in splits:
    k = int(splits["folds"])
    fold_of = stratified.folds(ids, labels, artists, k=k, seed=seed, where=where)
  else:
    lost = [f.path for f in files if not f.fold.isdecimal()]
    if lost:
      raise ValueError(
        f'{where}: splits has fold without folds: then the list\'s column "fold" has to be a '
        f"number for every track; see {_some(lost)}."
      )
    fold_of = [int(f.fold) for f in files]
  return stratified.cross_validation(
    ids, labels, artists, fold=int(splits["fold"]), fold_of=fold_of, seed=seed, where=where,
    validation=float(splits.get("validation", stratified.VALIDATION)),
  )  # fmt: skip


def _stored(path, ids, excluded, where):
  try:
    record = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError) as e:
    raise ValueError(f"{where}: cannot read splits={path}: {e}") from e
  # A workdir keeps {data set: record}.
  if isinstance(record, dict) and len(record) == 1:
    (only,) = record.values()
    record = only if isinstance(only, dict) else record
  ok = isinstance(record, dict) and all(
    isinstance(v, list) and all(isinstance(t, str) for t in v) for v in record.values()
  )
  if not ok or not record:
    raise ValueError(f"{where}: {path} is no split: expected {{split: [tracks]}} of one data set.")
  out = dict.fromkeys(ids, "")
  gone = {str(PurePosixPath(p).with_suffix("")) for p in excluded}
  lost = [t for tracks in record.values() for t in tracks if t not in out and t not in gone]
  if lost:
    raise ValueError(f"{where}: {path} names {len(lost)} unknown tracks: {_some(lost)}.")
  for split, tracks in record.items():
    for t in tracks:
      if out.get(t):
        raise ValueError(f'{where}: {path}: "{t}" is in {out[t]} and {split}.')
      if t in out:
        out[t] = split
  new = [t for t in ids if not out[t]]
  if new:
    print(f"{where}: {len(new)} tracks are in no split of {path}: {_some(new)}", file=sys.stderr)
  return out


def check_classes(columns: Mapping[str, np.ndarray], classes: Sequence[str], where: str) -> None:
  """Raises a ValueError where items are not of two classes, with two tracks each."""
  pairs = {*zip(columns["label"].tolist(), columns["track"].tolist(), strict=True)}
  count = Counter(label for label, _ in pairs)
  if len(classes) < 2:
    raise ValueError(f"{where}: expected 2 classes or more, got {_some(classes)}.")
  few = [f'"{c}" ({count[n]})' for n, c in enumerate(classes) if count[n] < 2]
  if few:
    raise ValueError(
      f"{where}: expected 2 tracks or more of each class to train on, too few of {', '.join(few)}. "
      "Add tracks, merge or remove the class, or give splits of other shares."
    )


def _some(names):
  return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
