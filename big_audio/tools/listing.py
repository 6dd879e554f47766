"""The recordings of a folder or of a list (.jsonl, .csv), as `prepare_audio` takes them."""

import csv
import math
import os
import pathlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from big_audio.datasets import audio, manifest
from big_audio.datasets.errors import DecodeError
from big_audio.tools import manifests

_OWN = ("path", "start", "secs", "id", "sha256", "bytes", "error")


@dataclass(frozen=True)
class Item:
  """A recording: where it lies, what its header says, and the columns of its row."""

  path: str
  id: str
  sr: int = 0
  frames: int = 0
  channels: int = 0
  start: int = 0
  sha256: str = ""
  extra: Mapping = field(default_factory=dict)


def find(source: pathlib.Path) -> tuple[list[Item], list[dict], list[dict]]:
  """(recordings, what cannot be used, what was never there) of a folder or a list.

  The latter two are {"id", "reason"} each. Never there is a row that states an error in place of a
  path: a download that failed, or was too long.

  Raises:
    ValueError: no such source, or a list that cannot be read.
  """
  if source.is_dir():
    good, bad = [], []
    for e in manifest.index(source):
      item = Item(str(source / e.path), e.path, e.sr, e.frames, e.channels)
      reason = e.reason or ("" if e.frames else "empty")
      bad.append(dict(id=e.path, reason=reason)) if reason else good.append(item)
    return good, bad, []
  if source.suffix.lower() == ".csv":
    try:
      with open(source, newline="", encoding="utf-8") as f:
        rows = [{k: _number(v) for k, v in r.items()} for r in csv.DictReader(f)]
    except OSError as e:
      raise ValueError(f"{source}: {e.strerror}.") from e
  elif source.suffix.lower() == ".jsonl":
    rows = manifests.read(source)
  else:
    raise ValueError(f"{source}: expected a folder, or a list that ends in .jsonl or .csv.")
  gone = [r for r in rows if r.get("error") and not r.get("path")]
  with ThreadPoolExecutor(8) as pool:
    there = [r for r in rows if not (r.get("error") and not r.get("path"))]
    found = list(pool.map(lambda row: _from_row(row, source.parent), there))
  good, bad = ([f for f in found if isinstance(f, kind)] for kind in (Item, dict))
  return good, bad, [_unusable(r, f"listed without a file: {r['error']}") for r in gone]


def _number(text):
  """Whole numbers as such, if no digit is lost by it: 007 is a name."""
  whole = isinstance(text, str) and text.isdecimal() and text.isascii() and len(text) < 19
  return int(text) if whole and str(int(text)) == text else text


def _unusable(row, reason):
  return dict(id=str(row.get("id") or row.get("path") or "?"), reason=reason)


def _secs(row, key):
  try:
    value = float(row.get(key) or 0)
  except (TypeError, ValueError, OverflowError):
    value = math.nan
  if not abs(value) < 1e9:
    raise ValueError(f"{key} must be seconds, got {row[key]!r}")
  return value


def _from_row(row, folder):
  """An Item, or {"id", "reason"}."""
  if row.get("error") or not row.get("path"):
    return _unusable(row, f"listed without a file: {row.get('error') or 'no path'}")
  path = os.path.join(folder, str(row["path"]))
  try:
    sr, frames, channels = audio.probe(path)
    start = round(_secs(row, "start") * sr)
    # A whole recording's `secs` tells its length; with `start` it is the length of a segment.
    count = frames - start
    if "start" in row and row.get("secs"):
      count = round(_secs(row, "secs") * sr)
    if start < 0 or count <= 0 or start + count > frames:
      return _unusable(row, f"segment outside of its {frames / sr:.2f} s, or empty")
  except (DecodeError, ValueError) as e:
    return _unusable(row, str(e))
  extra = {k: v for k, v in row.items() if k not in _OWN and _keepable(v)}
  item_id = str(row["path"]) + (f"@{row['start']}" if start else "")
  return Item(path, item_id, sr, count, channels, start, str(row.get("sha256") or ""), extra)


def _keepable(v):
  return v is None or isinstance(v, (str, bool, int, float))
