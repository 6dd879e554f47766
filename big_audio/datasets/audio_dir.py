r"""Any folder of recordings: wav, flac, ogg, opus, mp3, m4a; searched recursively.

    data={"fsdd": dict(
        source="audio_dir", dir="/data/fsdd", sr=8000, min_secs=0.2, label=r"^(\d)_",
        splits={"train": r"_(1[5-9]|[234]\d)\.wav$", "validation": r"_1[0-4]\.wav$",
                "test": r"_[5-9]\.wav$"},
        pp="pad(secs=1)|crop(secs=1)|keep('wav', 'label')")}

Headers are read once and kept (`datasets.manifest`). Files that cannot be read or are too short
leave the index and are listed.
"""

import difflib
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from big_audio.datasets import manifest
from big_audio.datasets import splits as splits_lib
from big_audio.datasets.audio import AudioFile

DEFAULT_SPLITS = {"train": 0.9, "validation": 0.05, "test": 0.05}


class Source:
  """Recordings of a folder as {"wav": AudioFile, "sr": int, "id": path, "label": int}.

  Attributes:
    excluded: {id: reason} of the files that were left out.
    classes: the sorted label names, when `label` is given.
    sr: Hz of all recordings.
  """

  def __init__(
    self,
    dir: str,
    split: str = "train",
    *,
    sr: int | None = None,
    channels: int | None = None,
    min_secs: float = 0.0,
    max_secs: float | None = None,
    pattern: str | None = None,
    splits: Mapping[str, float | str] | None = None,
    group: str | None = None,
    label: str | None = None,
  ):
    r"""Indexes the folder and picks a split.

    Args:
      dir: the folder.
      split: a name in `splits`, or "all".
      sr: resample to this rate (Hz) while reading; None refuses a folder of mixed rates.
      channels: 1 (mean) or n (copies of one channel); None refuses mixed channel counts.
      min_secs: leave out shorter recordings. Empty ones are always left out.
      max_secs: leave out longer recordings.
      pattern: a regular expression; only paths in which it is found belong to the source.
      splits: rules as in `datasets.splits.choose`; default 90 % train, 5 % validation, 5 % test.
      group: which recordings must share a split, as in `datasets.splits.choose`.
      label: a regular expression whose first group in the path is the class. Classes are numbered
        in sorted order over all splits.

    Raises:
      ValueError: no such folder, no recordings, mixed rates or channels, a path without label, and
        what `datasets.splits.choose` raises.
    """
    self.dir = Path(dir).expanduser()
    where = f"audio_dir({dir})"
    check_folder(self.dir, where)
    entries = manifest.index(self.dir)
    if pattern is not None:
      regex = splits_lib.compile_regex(pattern, where)
      entries = [e for e in entries if regex.search(e.path)]
    self.excluded = _unfit(entries, min_secs, max_secs)
    entries = [e for e in entries if e.path not in self.excluded]
    report(where, len(entries), self.excluded)
    self.sr = one_rate(entries, sr, where)
    self.channels = one_channel_count(entries, channels, where)
    self.classes, labels = _labels([e.path for e in entries], label, where)
    chosen = splits_lib.choose(
      [e.path for e in entries],
      split,
      DEFAULT_SPLITS if splits is None else splits,
      group=group,
      folder=self.dir,
      where=where,
      known=list(self.excluded),
    )
    # Columns, not objects: millions of entries stay small and are copied to workers quickly.
    self.ids = [entries[i].path for i in chosen]
    self._rate = np.array([entries[i].sr for i in chosen], np.int32)
    self._frames = np.array([entries[i].frames for i in chosen], np.int64)
    self._native_channels = np.array([entries[i].channels for i in chosen], np.int16)
    self._labels = None if labels is None else np.array([labels[i] for i in chosen], np.int32)

  def __len__(self) -> int:
    return len(self.ids)

  def __getitem__(self, i: int) -> dict:
    file = AudioFile(
      f"{self.dir}/{self.ids[i]}",
      int(self._rate[i]),
      int(self._frames[i]),
      int(self._native_channels[i]),
      self.sr,
      self.channels,
      name=self.ids[i],
    )
    example = {"wav": file, "sr": self.sr, "id": self.ids[i]}
    if self._labels is not None:
      example["label"] = int(self._labels[i])
    return example

  @property
  def secs(self) -> np.ndarray:
    """Durations in seconds, f64[len]."""
    return self._frames / self._rate


def check_folder(folder: Path, where: str) -> None:
  """Raises a ValueError that names what is near where there is no such folder."""
  if folder.is_dir():
    return
  parent = folder.parent
  siblings = [p.name for p in parent.iterdir() if p.is_dir()] if parent.is_dir() else []
  near = difflib.get_close_matches(folder.name, siblings, n=3, cutoff=0.5)
  if folder.exists():
    hint = "It is a file."
  elif near:
    hint = f"Beside it: {', '.join(near)}."
  elif parent.is_dir():
    hint = f"{parent} holds {', '.join(sorted(siblings)[:5]) or 'no folders'}."
  else:
    hint = f"{parent} does not exist either."
  raise ValueError(f"{where}: no such folder. {hint}")


def _unfit(entries, min_secs, max_secs):
  """{path: why} of what cannot be used."""
  out = {}
  for e in entries:
    secs = e.frames / e.sr if e.sr else 0
    if e.reason:
      out[e.path] = e.reason
    elif e.frames == 0:
      out[e.path] = "empty"
    elif secs < min_secs:
      out[e.path] = f"{secs:.2f} s, shorter than min_secs={min_secs}"
    elif max_secs is not None and secs > max_secs:
      out[e.path] = f"{secs:.2f} s, longer than max_secs={max_secs}"
  return out


def report(where: str, n: int, excluded: Mapping[str, str]) -> None:
  """Tells of `excluded` {path: reason} beside the `n` recordings that stay.

  Raises:
    ValueError: none stays.
  """
  first = "; ".join(f"{p}: {why}" for p, why in list(excluded.items())[:3])
  if n == 0:
    found = f"all {len(excluded)} are unfit: {first}" if excluded else "it holds none"
    raise ValueError(f"{where}: no recordings, {found}.")
  if excluded:
    more = "; ..." if len(excluded) > 3 else ""
    print(
      f"{where}: {len(excluded)} of {n + len(excluded)} files left out: {first}{more}",
      file=sys.stderr,
    )


def one_rate(entries, sr: int | None, where: str) -> int:
  """The rate (Hz) of recordings with `.sr`: the wanted one, else the only one.

  Raises:
    ValueError: rates are mixed and none is wanted.
  """
  counts = Counter(e.sr for e in entries)
  if sr is None:
    if len(counts) > 1:
      listed = ", ".join(f"{n} at {rate} Hz" for rate, n in counts.most_common())
      raise ValueError(
        f"{where}: mixed rates: {listed}. Set sr={counts.most_common(1)[0][0]} to resample."
      )
    return next(iter(counts))
  others = {rate: n for rate, n in counts.items() if rate != sr}
  if others:
    listed = ", ".join(f"{n} files from {rate} Hz" for rate, n in sorted(others.items()))
    print(f"{where}: resampling {listed} to {sr} Hz while reading.", file=sys.stderr)
  return sr


def one_channel_count(entries, channels: int | None, where: str) -> int:
  """The channels of recordings with `.channels`: the wanted number, else the only one.

  Raises:
    ValueError: counts are mixed and none is wanted, or they cannot be converted.
  """
  counts = Counter(e.channels for e in entries)
  listed = ", ".join(f"{n} with {c}" for c, n in counts.most_common())
  if channels is None:
    if len(counts) > 1:
      raise ValueError(f"{where}: mixed channels: {listed}. Set channels=1 (mean) or channels=2.")
    return next(iter(counts))
  if channels != 1 and set(counts) - {1, channels}:
    raise ValueError(f"{where}: cannot make {channels} channels of all files: {listed}.")
  if set(counts) != {channels}:
    print(f"{where}: converting to {channels} channel(s): {listed}.", file=sys.stderr)
  return channels


def _labels(paths, label, where):
  if label is None:
    return None, None
  regex = splits_lib.compile_regex(label, where)
  found = [regex.search(p) for p in paths]
  if regex.groups != 1 or not all(found):
    lost = next((p for p, f in zip(paths, found, strict=True) if not f), paths[0])
    raise ValueError(
      f'{where}: label={label!r} must have one group and be found in every path; see "{lost}".'
    )
  names = [f.group(1) for f in found]
  classes = sorted(set(names))
  number = {c: n for n, c in enumerate(classes)}
  return classes, [number[n] for n in names]
