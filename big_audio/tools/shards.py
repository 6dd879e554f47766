"""What tools that prepare data share.

Shards appear when they are complete; a run that was killed goes on behind them; where too many
recordings fail, it stops.
"""

import argparse
import copy
import json
import pathlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np

from big_audio import clock
from big_audio import config as C
from big_audio.datasets import arrayrecord
from big_audio.datasets.errors import DecodeError
from big_audio.tools import manifests


class BadShareError(ValueError):
  """More recordings than allowed cannot be used."""


class _StoppedError(Exception):
  pass


def pieces(split: str, items: Sequence, sizes, shard_mb: float) -> list[tuple[str, list]]:
  """[(shard name, its items)]: contiguous pieces of a split, all about equally large.

  Args:
    split: its name.
    items: of the split.
    sizes: f[len], bytes that each will take, about.
    shard_mb: wanted size of a shard, MB.
  """
  size = np.asarray(sizes, np.float64)
  count = max(1, min(len(items), round(size.sum() / (shard_mb * 1e6))))
  place = np.minimum((np.cumsum(size) - size) / max(size.sum(), 1) * count, count - 1).astype(int)
  parts = [[i for i, p in zip(items, place, strict=True) if p == k] for k in range(count)]
  parts = [p for p in parts if p]  # one long recording may take the place of several shards
  return [(f"{split}-{k:05}-of-{len(parts):05}.arrayrecord", p) for k, p in enumerate(parts)]


class Preparer:
  """Writes shards and keeps count of what fails.

  Args:
    target: folder of the shards.
    total: recordings, for the share that fails.
    bad: already found, {"id", "reason"} each.
    max_bad_share: beyond it (and beyond one recording) BadShareError is raised.
    make: an item (with `.id`) -> [(record, anything)]; raises DecodeError where it cannot.
    count: (note, item, what `make` gave), before its records are written; adds to the note.
    blank: the note of an empty shard.
    tick: called with the number of recordings that are done.
  """

  def __init__(
    self, target: pathlib.Path, total: int, bad: list[dict], max_bad_share: float, *,
    make: Callable, count: Callable, blank: dict, tick: Callable = lambda n: None,
  ):  # fmt: skip
    self._target, self._total, self._cap = target, total, max_bad_share
    self._make, self._count, self._blank = make, count, blank
    self.bad, self._lock, self._done, self._tick = list(bad), threading.Lock(), 0, tick
    self.stop = threading.Event()

  def check(self) -> None:
    """Raises BadShareError if too much has failed."""
    share = len(self.bad) / max(self._total, 1)
    if len(self.bad) > 1 and share > self._cap:
      self.stop.set()
      last = "; ".join(f'"{b["id"]}": {b["reason"]}' for b in self.bad[-3:])
      raise BadShareError(
        f"{len(self.bad)} of {self._total} recordings cannot be used, more than --max-bad-share "
        f"{self._cap}. The last: {last}. Repair or remove them, or allow more."
      )

  def _one_done(self, failure):
    with self._lock:
      if failure:
        self.bad.append(failure)
      self._done += 1
      self._tick(self._done)
    self.check()

  def resume(self, note: dict, count: int) -> None:
    """Counts a shard that an earlier run completed."""
    with self._lock:
      self.bad += note["failed"]
      self._done += count
      self._tick(self._done)

  def shard(self, name: str, items: list) -> dict:
    """Writes one shard; returns its note: what the card says of it."""
    note = dict(name=name, examples=0, recordings=0, failed=[], **copy.deepcopy(self._blank))
    path = self._target / name
    with arrayrecord.Writer(path) as writer:
      for item in items:
        if self.stop.is_set():
          raise _StoppedError  # another shard has ended the run; nothing of this one stays
        try:
          # All of it first: half a recording would be a silent loss.
          found = list(self._make(item))
        except DecodeError as e:
          failure = dict(id=item.id, reason=str(e))
          note["failed"].append(failure)
          self._one_done(failure)
          continue
        self._count(note, item, found)
        for record, *_ in found:
          writer.write(record)
        note["examples"] += len(found)
        note["recordings"] += 1
        self._one_done(None)
    note.update(bytes=path.stat().st_size, sha256=manifests.sha256(path))
    # The note behind the shard: a shard without it is written again.
    manifests.replace(sidecar(path), json.dumps(note))
    return note


def write(
  target: pathlib.Path, shards: list[tuple[str, list]], *, total: int, bad: list[dict],
  left_out: list[dict], max_bad_share: float, jobs: int, **kw,
) -> tuple[list[dict], list[dict]]:  # fmt: skip
  """Writes those shards that an earlier run has not completed, and `failed.jsonl`.

  Args:
    target: a folder of `claim`.
    shards: [(name, items)].
    total, bad, max_bad_share: of `Preparer`.
    left_out: further {"id", "reason"} to list, which are no failures.
    jobs: shards at a time.
    **kw: `make`, `count` and `blank` of `Preparer`.

  Returns:
    the notes of all shards, and all that failed.

  Raises:
    BadShareError: too much has failed.
  """
  progress = clock.Progress(sum(len(items) for _, items in shards))
  tick = lambda n: progress.phase("prepare", n, sum(len(items) for _, items in shards))
  worker = Preparer(target, total, bad, max_bad_share, tick=tick, **kw)
  tick(0)
  worker.check()
  notes, todo = {}, []
  for name, items in shards:
    note = finished(target / name)
    if note is None:
      todo.append((name, items))
    else:
      notes[name] = note
      worker.resume(note, len(items))
  if notes:
    progress.message(f"{len(notes)} of {len(shards)} shards are there already")
  try:
    with ThreadPoolExecutor(jobs) as pool:
      futures = [pool.submit(worker.shard, *job) for job in todo]
      try:
        for future in as_completed(futures):
          note = future.result()
          notes[note["name"]] = note
      except BaseException:
        worker.stop.set()
        pool.shutdown(cancel_futures=True)
        worker.check()  # the cause, where this is only its echo in another shard
        raise
  finally:
    progress.close()
    manifests.write(target / "failed.jsonl", worker.bad + left_out)
  return [notes[name] for name, _ in shards], worker.bad


def sidecar(path: pathlib.Path) -> pathlib.Path:
  """Where the note of a shard lies."""
  return path.parent / ".shards" / f"{path.name}.json"


def finished(path: pathlib.Path) -> dict | None:
  """What an earlier run noted of a complete shard, else None."""
  try:
    note = json.loads(sidecar(path).read_text())
    return note if path.stat().st_size == note["bytes"] else None
  except (OSError, ValueError, KeyError):
    return None


def claim(target: pathlib.Path, arguments: dict) -> None:
  """Makes the target, or checks that it was made with the same arguments and recordings.

  Raises:
    ValueError: it was not; names the differences.
  """
  (target / ".shards").mkdir(parents=True, exist_ok=True)
  path = target / ".shards" / "plan.json"
  if path.is_file():
    differ = C.diff(json.loads(path.read_text()), json.loads(json.dumps(arguments)))
    if differ:
      lines = "\n".join(f"  {k}: there {a!r}, now {b!r}" for k, (a, b) in differ.items())
      raise ValueError(
        f"{target} holds shards of other recordings or arguments:\n{lines}\n"
        "Take another folder, or remove this one."
      )
    return
  manifests.replace(path, json.dumps(arguments))


def rule(text: str) -> tuple[str, float | str]:
  """A type for argparse: NAME=FRACTION or NAME=REGEX."""
  name, eq, value = text.partition("=")
  if not eq or not name or not value:
    raise argparse.ArgumentTypeError(f"expected NAME=FRACTION or NAME=REGEX, got {text!r}")
  try:
    return name, float(value)
  except ValueError:
    return name, value


def positive(kind: Callable) -> Callable:
  """A type for argparse: numbers of that kind above 0."""

  def read(text):
    try:
      value = kind(text)
    except ValueError:
      value = 0
    if not 0 < value < float("inf"):
      what = "a whole number" if kind is int else "a number"
      raise argparse.ArgumentTypeError(f"expected {what} above 0, got {text!r}")
    return value

  return read
