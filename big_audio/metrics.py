"""Metric rows: what a run tells while it runs and afterwards.

  writer = MetricWriter(workdir)            # workdir/metrics.jsonl, one line a step
  writer.truncate(restored_step)            # on resume: rows that will be computed again go away
  writer.step_start(10)
  writer.measure("train/loss", 0.25)
  row = writer.step_end()                   # {"step": 10, "train/loss": 0.25}

JSON lines come first: they need no package, survive `kill -9` and can be compared byte by byte.
TensorBoard and Weights & Biases are copies of the same rows. Nothing here knows a model or jax.

Numbers in `metrics.jsonl`: ints stay ints, floats are written by `repr`, so reading them gives the
same 64 bits. JSON has no NaN; non-finite floats are the strings "NaN", "Infinity" and "-Infinity",
which `read_rows` (and plain `float(...)`) turn back into floats.
"""

import hashlib
import importlib
import json
import math
import os

import numpy as np

_NON_FINITE = ("NaN", "Infinity", "-Infinity")
FILE, FAILED = "metrics.jsonl", "failed.jsonl"


def _number(name, value):
  """A Python int or float from any scalar: Python, numpy, or a fetched jax array of shape ()."""
  array = np.asarray(value)
  if array.shape != () or array.dtype.kind in "OSUcMm":
    raise ValueError(
      f"metric {name!r}: expected one real number, got {type(value).__name__} of shape "
      f"{array.shape}, dtype {array.dtype}. Reduce it (mean, max) before measure()."
    )
  return int(array) if array.dtype.kind in "iub" else float(array)


def _dump(row):
  """One JSON line of a row: "step" first, then the other names in order."""
  out = {"step": row["step"]}
  for name in sorted(row):
    value = row[name]
    if isinstance(value, float) and not math.isfinite(value):
      value = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    out[name] = value
  return (json.dumps(out, allow_nan=False) + "\n").encode()


def _scan(path):
  """Yields (step, row, end offset) of each complete line; a torn last line ends the scan."""
  offset, last = 0, None
  with open(path, "rb") as f:
    for number, line in enumerate(f, 1):
      if not line.endswith(b"\n"):
        return  # killed while writing: the row was never finished
      try:
        row = json.loads(line)
        step = row["step"]
      except (ValueError, KeyError, TypeError) as e:
        raise ValueError(
          f"{path}:{number}: expected one JSON object with a step, got {line[:60]!r}. "
          "The file was changed by something else; remove that line."
        ) from e
      if last is not None and step <= last:
        raise ValueError(
          f"{path}:{number}: steps must increase, got {step} after {last}. "
          "Did two runs write into one workdir?"
        )
      offset, last = offset + len(line), step
      yield step, row, offset


def _replace(path, data):
  """New content by a rename, not by ftruncate: a kill leaves the old file or the new one."""
  with open(path + ".tmp", "wb") as f:
    f.write(data)
    f.flush()
    os.fsync(f.fileno())
  os.replace(path + ".tmp", path)


def read_rows(path):
  """Reads `metrics.jsonl`.

  Args:
    path: the file; it may be growing, an unfinished last line is left out.

  Returns:
    list of {"step": int, name: int | float}, non-finite values as floats.

  Raises:
    ValueError: a complete line that is no metric row, or steps that do not increase.
  """
  return [
    {k: float(v) if v in _NON_FINITE else v for k, v in row.items()} for _, row, _ in _scan(path)
  ]


def _optional(package, extra, setting):
  try:
    return importlib.import_module(package)
  except ImportError as e:
    raise ImportError(
      f"{setting} needs the package {package}: `uv sync --extra {extra}` "
      f"or `pip install -e '.[{extra}]'`."
    ) from e


class MetricWriter:
  """Appends one row of scalars a step to `workdir/metrics.jsonl`.

  Args:
    workdir: folder of the run; made if missing.
    tensorboard: also write event files under workdir/tensorboard (extra `tensorboard`).
    wandb: None, a project's name, or the keyword arguments of `wandb.init` (extra `wandb`). The run
      id is derived from the workdir's path unless given, so a restart continues the same page.
    is_main: False on all processes but one: rows are checked and returned, nothing is written.

  Raises:
    ImportError: an optional package is not installed.
    ValueError: the existing metrics.jsonl is not one.
  """

  def __init__(self, workdir, *, tensorboard=False, wandb=None, is_main=True):
    self.path = os.path.join(os.fspath(workdir), FILE)
    self._is_main, self._row, self._file, self._last = is_main, None, None, -1
    self._tb_dir = self._tb = self._wandb = None
    if not is_main:
      return
    os.makedirs(workdir, exist_ok=True)
    if tensorboard:
      self._tb_module = _optional("tensorboardX", "tensorboard", "config.log.tensorboard")
      self._tb_dir = os.path.join(os.fspath(workdir), "tensorboard")
    if wandb is not None:
      run_id = hashlib.sha256(os.path.abspath(workdir).encode()).hexdigest()[:16]
      wandb = {"project": wandb} if isinstance(wandb, str) else wandb
      kw = {"dir": os.fspath(workdir), "id": run_id, "resume": "allow", **wandb}
      self._wandb = _optional("wandb", "wandb", "config.log.wandb").init(**kw)
    self._open()

  def _open(self):
    """Opens for appending behind the last complete line (a torn one is cut off)."""
    end = 0
    if os.path.exists(self.path):
      for step, _, offset in _scan(self.path):
        self._last, end = step, offset
      if end < os.path.getsize(self.path):
        os.truncate(self.path, end)
    # Unbuffered: a line reaches the kernel in one write, so kill -9 of us cannot lose it.
    self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115

  def truncate(self, step):
    """Drops the rows past `step`, and a torn last line; atomic. Call it on resume.

    Args:
      step: int, the restored step; its own row stays.

    Returns:
      int, how many complete rows were dropped.
    """
    if not self._is_main:
      return 0
    if self._row is not None:
      raise ValueError(f"truncate({step}) inside step {self._row['step']}: call step_end() first.")
    self._file.close()
    end, kept, total = 0, -1, 0
    for s, _, offset in _scan(self.path):
      total += s > step
      if s <= step:
        end, kept = offset, s
    if end < os.path.getsize(self.path):
      with open(self.path, "rb") as f:
        _replace(self.path, f.read(end))
    self._last = kept
    self._open()
    if self._tb_dir:
      self._close_tensorboard()
      self._tb = self._tb_module.SummaryWriter(self._tb_dir, purge_step=step + 1)
    return total

  def step_start(self, step):
    """Opens the row of `step` (int, larger than every step written so far)."""
    step = int(step)
    if self._row is not None:
      raise ValueError(f"step_start({step}): step {self._row['step']} has no step_end() yet.")
    if step <= self._last:
      raise ValueError(
        f"step_start({step}): steps must increase and {self.path} already has step {self._last}. "
        "Call truncate(restored_step) on resume, and one step_start a step."
      )
    self._row = {"step": step}

  def measure(self, name, value):
    """Adds a scalar to the open row.

    Args:
      name: str such as "train/loss" or "val/mean/loss"; wall clock and host values go under "z/".
      value: int, float, or an array of shape () (a jax array is fetched: pass fetched values).

    Raises:
      ValueError: no open row, a name that is taken, or a value that is no real scalar.
    """
    if self._row is None:
      raise ValueError(f"measure({name!r}): no open row. Call step_start(step) first.")
    if not isinstance(name, str) or not name:
      raise ValueError(f"measure: expected a name, got {name!r}.")
    if name in self._row:
      raise ValueError(
        f"step {self._row['step']}: {name!r} is measured twice ({self._row[name]}, then {value})."
      )
    self._row[name] = _number(name, value)

  def step_end(self):
    """Writes the open row as one line; a row without values leaves no line. Returns the row."""
    if self._row is None:
      raise ValueError("step_end(): no open row. Call step_start(step) first.")
    row, self._row = self._row, None
    self._last = row["step"]
    if self._is_main and len(row) > 1:
      line = _dump(row)
      try:
        written = self._file.write(line)
      except OSError as e:
        raise OSError(
          f"{self.path}: the row of step {row['step']} could not be written: {e.strerror}. Mend "
          "that, then run the same command again."
        ) from e
      if written != len(line):
        raise OSError(f"{self.path}: disk full? The row of step {row['step']} is incomplete.")
      self._copies(row)
    return row

  def _copies(self, row):
    if self._tb_dir and self._tb is None:
      self._tb = self._tb_module.SummaryWriter(self._tb_dir)
    values = {k: v for k, v in row.items() if k != "step"}
    if self._tb:
      for name, value in values.items():
        self._tb.add_scalar(name, value, row["step"])
    if self._wandb:
      self._wandb.log(values, step=row["step"])

  def _close_tensorboard(self):
    if self._tb:
      self._tb.close()
      self._tb = None

  def close(self):
    """Closes all files; safe to call twice."""
    if self._file:
      self._file.close()
    self._close_tensorboard()
    if self._wandb:
      self._wandb.finish()
      self._wandb = None


class FailedLog:
  """`workdir/failed.jsonl`: data that could not be used, one JSON object a line, with its step.

  Every process adds its own: a line is one append, so they may share the file.

  Args:
    workdir: of the run.
    first_step: the restored step; lines past it are dropped, since their steps come again.
    is_main: True on the one process that drops them.
  """

  def __init__(self, workdir, first_step=0, *, is_main=True):
    self.path = os.path.join(os.fspath(workdir), FAILED)
    if is_main and os.path.exists(self.path):
      with open(self.path, "rb") as f:
        whole = [line for line in f if line.endswith(b"\n")]  # a torn one goes away
      kept = [line for line in whole if json.loads(line)["step"] <= first_step]
      _replace(self.path, b"".join(kept))

  def add(self, step, records):
    """Appends `records` of a step: dicts such as {"source", "id", "reason"}; str for no JSON."""
    if records:
      lines = [json.dumps({"step": int(step), **r}, default=str) + "\n" for r in records]
      with open(self.path, "ab", buffering=0) as f:
        f.write("".join(lines).encode())


def evaluator_row(evaluator, name):
  """The name of an evaluator's value in a row: "val/<evaluator>/x"; "z/<evaluator>/x" for "z/x"."""
  kind, slash, rest = name.partition("/")
  return f"z/{evaluator}/{rest}" if kind == "z" and slash else f"val/{evaluator}/{name}"
