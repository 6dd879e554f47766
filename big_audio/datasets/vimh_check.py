"""Looks through a VIMH data set: what it is, and everything that is wrong with it."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from big_audio.datasets import vimh, vimh_meta, vimh_name, vimh_pickle, vimh_records
from big_audio.datasets.vimh_meta import Metadata

_SHOWN = 40  # classes whose counts are printed one by one


@dataclass
class Report:
  """Lines that describe a data set, and its problems."""

  facts: list[str] = field(default_factory=list)
  problems: list[str] = field(default_factory=list)

  def several(self, rows: np.ndarray, describe: Callable[[int], str], cap: int) -> None:
    """Adds a problem of many records: each of the first, and the number of the rest."""
    self.problems += [describe(int(i)) for i in rows[:cap]]
    if len(rows) > cap:
      self.problems.append(f"... and {len(rows) - cap} more of this kind, in records {_some(rows)}")


def check(folder, *, cap: int = 5) -> Report:
  """Reads all of a data set, and goes on after a problem where that is possible.

  Args:
    folder: of the data set; nothing is written.
    cap: how many records are told about for each kind of fault.
  """
  folder, out = Path(folder).expanduser(), Report()
  try:
    m = vimh_meta.read(folder)
  except ValueError as e:
    out.problems.append(str(e))
    return out
  out.facts += _described(m)
  _of_metadata(folder, m, out)
  read = {}
  for name in vimh.FILES:
    for form, pattern in vimh.FORMS.items():
      path = folder / pattern.format(name)
      if path.is_file():
        raw = (_binary if form == "binary" else _pickled)(path, m, getattr(m, name), out)
        if raw is not None:
          bad = [rows for rows, _ in _told(raw, m, str(path), out, cap)]
          read[name, form] = raw, bad
    if not any((folder / p.format(name)).is_file() for p in vimh.FORMS.values()):
      files = " nor ".join(p.format(name) for p in vimh.FORMS.values())
      out.problems.append(f"{folder}: neither {files} is there.")
  good = {key: raw for key, (raw, bad) in read.items() if not bad}
  for name in vimh.FILES:
    if (name, "binary") in good and (name, "pickle") in good:
      _twins(folder / name, good[name, "binary"], good[name, "pickle"], out, cap)
  # What is left of a file with bad records tells little, so only whole ones are counted.
  whole = {n: good.get((n, "binary"), good.get((n, "pickle"))) for n in vimh.FILES}
  whole = {n: raw for n, raw in whole.items() if raw is not None}
  for name, raw in whole.items():
    _counted(name, raw, m, out)
  if len(whole) == 2:
    _leaks(folder, whole, out, cap)
  return out


def _described(m: Metadata):
  yield f"{m.height} x {m.width} x {m.channels} (H x W x C), {m.train} train, {m.test} test"
  yield f"{m.voice:.60}: {m.secs:g} s at {m.sr:g} Hz"
  for p in m.parameters:
    note = "" if p.whole else f" (last class at {p.values()[-1]:g}: no whole number of steps)"
    yield f"{p.name}: [{p.min:g}, {p.max:g}] step {p.step:g}, {p.count()} classes{note}"
  if m.fixed:
    yield "fixed: " + ", ".join(f"{n}={v:g}" for n, v in m.fixed.items())


def _of_metadata(folder, m, out):
  stated = str(m.raw.get("dataset_name", ""))
  for what, name in (("the folder's name", folder.resolve().name), ("dataset_name", stated)):
    for part, named, found in vimh_name.disagreements(name, m):
      out.problems.append(f"{m.where}: {part} is {found}, by {what} {named}.")
  total = m.train + m.test
  expected = {
    "format": "VIMH",
    "total_samples": total,
    "n_samples": total,
    "image_size": f"{m.height}x{m.width}x{m.channels}",
  }
  for key, value in expected.items():
    if key in m.raw and m.raw[key] != value:
      out.problems.append(
        f"{m.where}: {key}={vimh_meta.shown(m.raw[key])}; by the other keys it is {value!r}."
      )
  labels = m.raw.get("channel_labels")
  if isinstance(labels, list) and len(labels) != m.channels:
    out.problems.append(f"{m.where}: {len(labels)} channel_labels for {m.channels} channels.")


def _binary(path, m, count, out):
  """The file's records, or as many of them as can be told apart; None if none can."""
  try:
    return vimh_records.map_records(path, m, count)
  except ValueError as e:
    out.problems.append(str(e))
  dtype = vimh_records.record_dtype(m)
  n = path.stat().st_size // dtype.itemsize
  shape = np.fromfile(path, "<u2", 3)
  if n == 0 or shape.tolist() != [m.height, m.width, m.channels]:
    return None
  return np.memmap(path, dtype, mode="r", shape=(n,))


def _pickled(path, m, count, out):
  try:
    return vimh_pickle.read_raw(path, m, count)
  except ValueError as e:
    out.problems.append(str(e))
    return None


def _told(raw, m, where, out, cap):
  for rows, describe in vimh_records.faults(raw, m, where):
    out.several(rows, describe, cap)
    yield rows, describe


def _twins(path, binary, pickled, out, cap):
  """Compares the two forms of a file, item by item."""
  if len(binary) != len(pickled):
    return  # the count of one of them is a problem already
  same = {
    "pixels": (binary["pixels"] == pickled["pixels"]).all(axis=(1, 2, 3)),
    "labels": (_values(binary) == _values(pickled)).all(axis=1),
  }
  scaled = ["spec_min" in raw.dtype.names for raw in (binary, pickled)]
  if all(scaled):
    same["dB range"] = np.all([binary[k] == pickled[k] for k in ("spec_min", "spec_max")], axis=0)
  elif any(scaled):
    out.problems.append(
      f"{path}: {'the binary' if scaled[0] else 'the pickled'} form alone has dB ranges."
    )
  for what, equal in same.items():
    rows = np.flatnonzero(~equal)
    out.several(
      rows, lambda i, what=what: f"{path}: item {i}: the pickled form has other {what}.", cap
    )


def _values(raw):
  pairs = np.array(raw["labels"])
  return np.take_along_axis(pairs["value"], np.argsort(pairs["id"], axis=1), axis=1)


def _counted(name, raw, m, out):
  n = len(raw)
  if n == 0:
    out.facts.append(f"{name}: empty")
    return
  for p, bytes_ in zip(m.parameters, _values(raw).T, strict=True):
    counts = np.bincount(p.to_class(bytes_), minlength=p.count())
    listed = " ".join(map(str, counts)) if len(counts) <= _SHOWN else "not listed"
    out.facts.append(
      f"{name}: {p.name}: items in each class {listed}; largest share {counts.max() / n:.3f}, "
      f"{int((counts == 0).sum())} empty"
    )
  low, high = (f(raw["pixels"], axis=(1, 2, 3)) for f in (np.min, np.max))
  constant = int((low == high).sum())
  out.facts.append(f"{name}: {constant} of {n} pictures are constant ({constant / n:.1%})")
  if "spec_min" in raw.dtype.names:
    low, high = raw["spec_min"], raw["spec_max"]
    out.facts.append(
      f"{name}: dB from {low.min():.2f} to {high.max():.2f}, within a picture "
      f"{(high - low).min():.2f} to {(high - low).max():.2f}"
    )
  twice = n - len(set(_digests(raw)))
  out.facts.append(f"{name}: {twice} items are copies of others")


def _digests(raw):
  return [hashlib.blake2b(r.tobytes(), digest_size=16).digest() for r in raw]


def _leaks(folder, whole, out, cap):
  """Items of the test that a model has been trained on."""
  if whole["train"].dtype != whole["test"].dtype:
    out.problems.append(f"{folder}: train and test have different layouts.")
    return
  # Not a fault by itself: sounds may differ where their pictures do not, as in loudness.
  train, test = (_digests(whole[n]["pixels"]) for n in vimh.FILES)
  known = set(train)
  out.facts.append(
    f"test: {sum(d in known for d in test)} pictures have the pixels of one in train"
  )
  of = {name: _digests(raw) for name, raw in whole.items()}
  first = {}
  for i, digest in enumerate(of["train"]):
    first.setdefault(digest, i)
  rows = np.array([i for i, d in enumerate(of["test"]) if d in first], int)
  out.facts.append(f"test: {len(rows)} items occur in train, byte by byte")
  out.several(
    rows,
    lambda i: f"{folder}: test/{i} is train/{first[of['test'][i]]}, byte by byte.",
    cap,
  )


def _some(rows):
  shown = ", ".join(map(str, rows[:12].tolist()))
  return shown + (", ..." if len(rows) > 12 else "")
