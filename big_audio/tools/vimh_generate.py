r"""`make_vimh generate`: synthesises a VIMH data set.

  python -m big_audio.tools.make_vimh generate --config-name simple_saw --size 4096
  python -m big_audio.tools.make_vimh generate --config-name moog_basic --sampling grid \
    --jitter 1 --set note_velocity=127 filter_cutoff=200,2000,50

The bytes depend on the recipe alone, not on --jobs. A command that was killed goes on where it
stopped when it is given again. Recipes are in `datasets/synths.py`; without --config-name they are
listed.
"""

import argparse
import contextlib
import dataclasses
import json
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np

try:
  import fcntl
except ImportError:  # Windows
  fcntl = None

from big_audio import clock
from big_audio.datasets import (
  synth_render,
  synth_sampling,
  synths,
  vimh_meta,
  vimh_records,
  vimh_write,
)
from big_audio.dsp.voices import VOICES

_OVERRIDES = ("size", "seed", "height", "width", "channels", "sr", "secs", "pre_emphasis",
              "shuffle", "sampling", "jitter")  # fmt: skip
_AGAIN = "remove this folder and give the command again"


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of `generate`."""
  add = parser.add_argument
  add("--config-name", help="recipe; without it, all are listed")
  add("--output-dir", default="data", help="folder in which the data set's folder is made")
  add("--size", type=int, help="items, train and test; of a grid without it: the whole grid")
  add("--seed", type=int, help=f"of the parameters, default {synths.SEED}")
  add("--sampling", choices=synth_sampling.METHODS, help="how parameters are drawn")
  add("--jitter", type=float, help="of a grid: 0 (class centres) to 1 (anywhere in a step)")
  add("--shuffle", action=argparse.BooleanOptionalAction,
      help="permute the items before the split; default only for a grid")  # fmt: skip
  add("--set", nargs="+", action="extend", default=[], metavar="PARAM=VALUE",
      help="ranges of parameters: MIN,MAX,STEP or MIN,MAX or a fixed value")  # fmt: skip
  add("--height", type=int, help="rows of the pictures")
  add("--width", type=int, help="columns of the pictures")
  add("--channels", type=int, help="1, or 3 copies")
  add("--sr", type=int, help="Hz")
  add("--secs", type=float, help="length of the sounds")
  add("--spectrogram", nargs="+", action="extend", default=[], metavar="KEY=VALUE",
      help="type, n_fft, n_window, hop, window, freq_min, freq_max_ratio")  # fmt: skip
  add("--pre-emphasis", type=float, help="coefficient, e.g. 0.97")
  add("--temporal-envelope", action="store_true", help="a plane of the course over time")
  add("--spectral-envelope", action="store_true", help="a plane of the course over frequency")
  add("--normalize", action="store_true", help="divide the picture by both courses")
  add("--joint-scaling", action="store_true", help="one range for all planes, as NSMT has it")
  add("--pickle", action="store_true", help="write pickled twins of the files too")
  add("--jobs", type=int, help="processes; default one for each processor")


def run(flags: argparse.Namespace) -> int:
  """Generates what the flags say; returns the exit status.

  Raises:
    ValueError: see `recipe` and `generate`.
  """
  if flags.config_name is None:
    print(listing())
    return 0
  started = time.monotonic()
  made = recipe(flags)
  folder = generate(made, flags.output_dir, pickle=flags.pickle, jobs=flags.jobs)
  secs = time.monotonic() - started
  print(f"{folder}: {made.size} items in {secs:.1f} s")
  return 0


def listing() -> str:
  """All recipes and their parameters."""
  lines = []
  for r in synths.RECIPES.values():
    lines.append(f"{r.name} (and {r.name}_large): {VOICES[r.voice].text}; {r.height}x{r.width}, "
                 f"{r.secs:g} s at {r.sr} Hz, {r.size} items")  # fmt: skip
    for p in r.parameters:
      span = f"{p.min:g}" if p.min == p.max else f"{p.min:g} to {p.max:g} by {p.step:g}"
      lines.append(f"  {p.name:<24} {span:<24} {VOICES[r.voice].parameters[p.name].text}")
  return "\n".join(lines)


def recipe(flags: argparse.Namespace) -> synths.Recipe:
  """The recipe that flags describe; raises ValueError as `synths.build`."""
  given = {k: getattr(flags, k) for k in _OVERRIDES if getattr(flags, k) is not None}
  for flag, key in (("temporal_envelope", "temporal"), ("spectral_envelope", "spectral"),
                    ("normalize", "normalize"), ("joint_scaling", "joint_scaling")):  # fmt: skip
    if getattr(flags, flag):
      given[key] = True
  given["parameters"] = {k: _numbers(k, v) for k, v in _pairs("--set", flags.set)}
  given["spectrogram"] = {k: _value(v) for k, v in _pairs("--spectrogram", flags.spectrogram)}
  if flags.sampling == "grid" and flags.size is None:
    plain = {k: v for k, v in given.items() if k not in ("sampling", "jitter")}
    size = synth_sampling.grid_size(synths.build(flags.config_name, **plain).varying)
    if size > 10**6:
      raise ValueError(f"generate: the grid has {size} combinations. Say how many with --size.")
    given["size"] = size
  return synths.build(flags.config_name, **given)


def generate(
  recipe: synths.Recipe, output_dir: str | os.PathLike, *, pickle: bool = False, jobs=None
) -> Path:
  """Writes a recipe's data set below `output_dir`; returns its folder.

  Blocks of items go to a temporary folder beside it, and a journal there says which are done.

  Args:
    jobs: processes, default one for each processor; the bytes do not depend on it.

  Raises:
    ValueError: the folder is in use, one of other arguments was begun in its place, or it does not
      fit on the disk.
  """
  if jobs is not None and jobs < 1:
    raise ValueError(f"generate: --jobs {jobs}: expected 1 or more.")
  raw = recipe.metadata_json(pickle)
  target = Path(output_dir).expanduser() / raw["dataset_name"]
  dtype = vimh_records.record_dtype(recipe.metadata())
  work = target.with_name(f".{target.name}.partial")
  _vacant(target)
  _fits(recipe, work, dtype, pickle)
  work.mkdir(parents=True, exist_ok=True)
  with _journal(work / "done") as journal:
    try:
      _vacant(target)  # another process may have been at it until now
      _claim(work, _arguments(recipe), journal)
      _render(recipe, work, dtype, journal, jobs or processors())
      _finish(recipe, work, target, dtype, raw, pickle)
    except Exception:
      if not journal.done:  # nothing is lost, and nothing is in the way of the right command
        shutil.rmtree(work, ignore_errors=True)
      raise
  shutil.rmtree(work)
  return target


def processors() -> int:
  """How many this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def _vacant(target):
  vimh_write.vacate(target)
  if target.exists() and not target.is_dir():
    raise ValueError(f"{target} is a file. Name another --output-dir, or remove it first.")
  if target.is_dir() and (there := sorted(p.name for p in target.iterdir())):
    raise ValueError(
      f"{target} holds {', '.join(there[:4])}. Name another --output-dir, or remove it first."
    )


def _fits(recipe, work, dtype, pickle):
  where = f"generate: --size {recipe.size}"
  synth_render.check_memory(where, synth_render.drawn_bytes(recipe))
  # The blocks, the files made of them, and their twins.
  needed = recipe.size * dtype.itemsize * (3 if pickle else 2)
  if (records := work / "records").exists():
    needed -= records.stat().st_size
  above = next(p for p in work.absolute().parents if p.exists())
  if needed > (free := shutil.disk_usage(above).free):
    raise ValueError(
      f"{where}: {needed / 1e9:.1f} GB are needed below {above}, and {free / 1e9:.1f} GB are free."
    )


def _render(recipe, work, dtype, journal, jobs):
  """Makes the blocks that are not there yet."""
  with _store(work / "records", dtype) as (store, stored):
    # The journal may have outlived what it tells of, after a crash of the machine or a full disk.
    blocks = list(synth_render.blocks(recipe))
    journal.keep({start for start, v in blocks if start + len(v) <= stored} & journal.done)
    todo = [(start, v) for start, v in blocks if start not in journal.done]
    progress = clock.Progress(recipe.size)
    ready = recipe.size - sum(len(v) for _, v in todo)
    if ready:
      progress.message(f"{ready} of {recipe.size} items are there already")
    progress.phase("generate", ready, recipe.size)
    try:
      for start, records in _made(recipe, todo, jobs):
        store(start, records)
        journal.note(start)
        ready += len(records)
        progress.phase("generate", ready, recipe.size)
    finally:
      progress.close()


def _finish(recipe, work, target, dtype, raw, pickle):
  """Makes the folder of the blocks."""
  whole = np.memmap(work / "records", dtype, "r", shape=(recipe.size,))
  complete = work / target.name
  shutil.rmtree(complete, ignore_errors=True)
  train = raw["train_samples"]
  try:
    vimh_write.write_folder(complete, raw, whole[:train], whole[train:], pickle)
  except ValueError as e:
    raise ValueError(f"{e} Blocks in {work} are damaged: {_AGAIN}.") from None
  if target.exists():
    target.rmdir()  # empty: looked at above
  complete.rename(target)


def _made(recipe, todo, jobs) -> Iterator[tuple[int, np.ndarray]]:
  """(first item, records) of blocks, in the order in which they are ready."""
  if min(jobs, len(todo)) <= 1:
    for start, values in todo:
      yield start, synth_render.block(recipe, values)
    return
  # Spawned, not forked: a fork of a process with threads (jax, BLAS) may hang.
  context = multiprocessing.get_context("spawn")
  with ProcessPoolExecutor(min(jobs, len(todo)), context, _end_with_parent) as pool:
    try:
      waiting, rest = {}, iter(todo)
      while True:
        # A few in advance: the records of a large data set do not queue up in memory.
        for start, values in rest:
          waiting[pool.submit(synth_render.block, recipe, values)] = start
          if len(waiting) >= 2 * jobs:
            break
        if not waiting:
          return
        for future in wait(waiting, return_when=FIRST_COMPLETED).done:
          yield waiting.pop(future), future.result()
    finally:
      pool.shutdown(wait=False, cancel_futures=True)


def _end_with_parent() -> None:
  """In a worker: it would wait for work forever if this program were killed."""

  def watch():
    multiprocessing.parent_process().join()
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()


def _arguments(recipe):
  """{name: value} of all that the bytes of the blocks depend on."""
  out = json.loads(json.dumps(dataclasses.asdict(recipe))) | {"block": synth_render.BLOCK}
  parameters = out.pop("parameters")
  out["parameters"] = [p["name"] for p in parameters]  # they are drawn in this order
  for p in parameters:
    out[p["name"]] = [p["min"], p["max"], p["step"]]
  spectrogram = out.pop("spectrogram")
  return out | {f"spectrogram {k}": v for k, v in spectrogram.items()}


def _claim(work, arguments, journal):
  """Writes what the temporary folder is for, or checks that it was begun for the same."""
  path = work / "arguments.json"
  if not journal.done or not path.exists():
    journal.keep(set())
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(arguments))
    temporary.rename(path)
    return
  try:
    begun = json.loads(path.read_bytes())
    if not isinstance(begun, dict):
      raise ValueError("no object")
  except (ValueError, RecursionError):
    raise ValueError(f"{path} is damaged: {_AGAIN} ({work}).") from None
  keys = [k for k in {**begun, **arguments} if begun.get(k) != arguments.get(k)]
  if keys:
    shown = [f"{k}: {_shown(begun.get(k))}, now {_shown(arguments.get(k))}" for k in keys[:4]]
    more = [f"{len(keys) - 4} more"] * (len(keys) > 4)
    raise ValueError(
      f"{work}: a data set was begun here with other arguments ({'; '.join(shown + more)}). Repeat "
      "that command, remove this folder, or choose another --output-dir."
    )


def _shown(value):
  return "not there" if value is None else vimh_meta.shown(value)


class _Journal:
  """First items of the blocks that are complete, a line each.

  Attributes:
    done: the set of them.
  """

  def __init__(self, file):
    self._file = file
    file.seek(0)
    *lines, rest = file.read().split(b"\n")
    # What follows the last line break was not written to its end.
    self.done = {int(line) for line in lines if line.isdigit() and len(line) < 12}
    if rest:  # it must not run into the next one
      self._write(b"x\n")

  def note(self, start: int) -> None:
    """Adds a block."""
    self._write(b"%d\n" % start)
    self.done.add(start)

  def keep(self, done: set[int]) -> None:
    """Forgets the others."""
    if done != self.done:
      self._file.truncate(0)
      self._write(b"".join(b"%d\n" % start for start in sorted(done)))
      self.done = done

  def _write(self, data):
    self._file.write(data)
    self._file.flush()


@contextlib.contextmanager
def _journal(path):
  """A `_Journal` that no other process has open."""
  with path.open("a+b") as f:
    if fcntl is not None:
      try:
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError:
        raise ValueError(
          f"{path.parent}: another process is generating this data set. Let it end."
        ) from None
    yield _Journal(f)


@contextlib.contextmanager
def _store(path, dtype):
  """Function that puts records at their place in a file, and how many are in the file now.

  They are on the disk when it returns.
  """
  path.touch()
  with path.open("r+b") as f:

    def store(start, records):
      f.seek(start * dtype.itemsize)
      f.write(records.tobytes())
      f.flush()
      os.fsync(f.fileno())

    yield store, path.stat().st_size // dtype.itemsize


def _pairs(flag, texts) -> list[tuple[str, str]]:
  for text in texts:
    if "=" not in text:
      raise ValueError(f"generate: {flag} {text}: expected NAME=VALUE.")
  return [tuple(text.split("=", 1)) for text in texts]


def _numbers(name, text) -> Any:
  try:
    numbers = tuple(float(part) for part in text.split(","))
  except ValueError:
    raise ValueError(
      f"generate: --set {name}={text}: expected MIN,MAX,STEP or MIN,MAX or a number."
    ) from None
  return numbers[0] if len(numbers) == 1 else numbers


def _value(text) -> int | float | str:
  for kind in (int, float):
    with contextlib.suppress(ValueError):
      return kind(text)
  return text
