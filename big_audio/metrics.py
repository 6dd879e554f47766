"""Metric rows, timing and progress: what a run tells while it runs and afterwards.

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

import contextlib
import hashlib
import importlib
import json
import math
import os
import re
import shutil
import sys
import time

import numpy as np

_IMPORTED_AT = time.monotonic()
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


def itstime(step, every, total, *, first=True, last=True):
  """Whether something that happens every `every` steps happens after `step`.

  Args:
    step: int, finished steps (1 after the first).
    every: int; 0 or None means never.
    total: int, the last step.
    first: also after step 1.
    last: also after step `total`.

  Returns:
    bool.
  """
  if not every:
    return False
  if every < 0:
    raise ValueError(f"itstime: expected every >= 0, got {every}.")
  return step % every == 0 or (first and step == 1) or (last and step == total)


def process_age():
  """Seconds since this process was started (Linux), else since this module was imported."""
  try:
    with open("/proc/self/stat", encoding="ascii") as f:
      ticks = int(f.read().rpartition(")")[2].split()[19])  # field 22: start, ticks after boot
    with open("/proc/uptime", encoding="ascii") as f:
      return float(f.read().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
  except (OSError, ValueError, IndexError):
    return time.monotonic() - _IMPORTED_AT


class Chrono:
  """Speed of a run without its pauses, and the time that is left with them.

  The first `tick` ends the start-up (imports, compilation, first step); speeds count from there.

  Args:
    total: int, the last step.
    batch_size: int, global examples a step.
    first_step: int, finished steps at the start (the restored step).
    clock: () -> seconds; for tests.

  Attributes:
    startup_secs: float, from the start of the process to the first tick; None before.
    paused: {what: seconds} of all pauses so far.
  """

  def __init__(self, total, batch_size, *, first_step=0, clock=time.monotonic):
    self._total, self._batch_size, self._clock = total, batch_size, clock
    self._begin = (first_step, clock())
    self._last = None  # (step, time, paused) at the latest tick
    self.paused, self._age = {}, process_age() if clock is time.monotonic else 0.0
    self.startup_secs = None

  @contextlib.contextmanager
  def pause(self, what):
    """Time inside is no training time; it is told as z/secs_<what> ("eval", "checkpoint")."""
    start = self._clock()
    try:
      yield
    finally:
      self.paused[what] = self.paused.get(what, 0.0) + self._clock() - start

  def started(self, step):
    """Ends the start-up: `step`, the first of this process, is finished."""
    now = self._clock()
    self.startup_secs = self._age + now - self._begin[1]
    self._begin, self._last = (step, now), (step, now, sum(self.paused.values()))

  def tick(self, step):
    """The row of `step`.

    Args:
      step: int, finished steps; the device must have finished them (values fetched).

    Returns:
      dict of float, all under "z/": startup_secs; secs (since the start, with pauses),
      secs_<pause>; from the second tick on also steps_per_sec and examples_per_sec (since the
      tick before, without pauses) and eta_secs (with pauses at their share so far).
    """
    now, paused = self._clock(), sum(self.paused.values())
    if self.startup_secs is None:
      self.startup_secs = self._age + now - self._begin[1]
      self._begin = (step, now)
    out = {"z/startup_secs": self.startup_secs, "z/secs": self.startup_secs + now - self._begin[1]}
    out.update({f"z/secs_{what}": secs for what, secs in self.paused.items()})
    if self._last is not None and step > self._last[0]:
      active = now - self._last[1] - (paused - self._last[2])
      rate = (step - self._last[0]) / max(active, 1e-9)
      out["z/steps_per_sec"], out["z/examples_per_sec"] = rate, rate * self._batch_size
      done, wall = step - self._begin[0], now - self._begin[1]
      out["z/eta_secs"] = (self._total - step) * wall / done
    self._last = (step, now, paused)
    return out


class Profiler:
  """Writes a profile of some steps to `workdir/profile`.

  Args:
    cfg: None, or start_step and num_steps; a run that is resumed behind the start writes none.
    workdir: of the run.
  """

  def __init__(self, cfg, workdir):
    self._cfg, self._path, self._on = cfg, os.path.join(workdir, "profile"), False

  def step(self, step):
    """Before each step."""
    if self._cfg and step == self._cfg["start_step"]:
      import jax

      jax.profiler.start_trace(self._path)
      self._on = True
    elif self._on and step >= self._cfg["start_step"] + self._cfg["num_steps"]:
      self.close()

  def close(self):
    """Ends the window, if it is open."""
    if self._on:
      import jax

      jax.profiler.stop_trace()
      self._on = False


def format_secs(secs):
  """Seconds as "7s", "2:05" or "1:02:05"."""
  secs = max(0, round(secs))
  h, m, s = secs // 3600, secs // 60 % 60, secs % 60
  return f"{h}:{m:02}:{s:02}" if h else f"{m}:{s:02}" if m else f"{s}s"


class Progress:
  """A live line on a terminal; one plain line a log row everywhere else.

  Args:
    total: int, the last step.
    stream: text stream; None is stderr.
    enabled: False on all processes but one.
    clock: () -> seconds; for tests.
  """

  _EVERY_SECS = (
    0.1  # redraw at most this often: writing to a terminal costs as much as a small step
  )

  def __init__(self, total, *, stream=None, enabled=True, clock=time.monotonic):
    self._stream = stream or sys.stderr
    self._total, self._enabled, self._clock = total, enabled, clock
    self._live = enabled and self._stream.isatty()
    self._drawn_at, self._on_screen = -math.inf, False
    self._loss = self._rate = self._eta = None  # _eta: the clock's time of the end
    self._phase = None  # (name, time of its start)

  def update(self, step):
    """After every step: cheap, needs no value from the device."""
    if self._live and self._clock() - self._drawn_at >= self._EVERY_SECS:
      self._draw(self._train_text(step))

  def row(self, row):
    """After every log row (what `MetricWriter.step_end` returned)."""
    if not self._enabled:
      return
    self._loss = row.get("train/loss", self._loss)
    self._rate = row.get("z/steps_per_sec", self._rate)
    if "z/eta_secs" in row:
      self._eta = self._clock() + row["z/eta_secs"]
    if self._live:
      self._draw(self._train_text(row["step"]))
    else:
      evals = [f"{k} {v:.4g}" for k, v in sorted(row.items()) if k.startswith("val/")]
      self._line(" | ".join([self._train_text(row["step"]), *evals]))

  def phase(self, name, i, n=None):
    """Progress of something beside training: `phase("eval val", i, n)`, i of n parts done.

    On a terminal the line shows it live; elsewhere one line tells when it is done (i == n). Start
    with i=0: the time counts from the first call.
    """
    if not self._enabled:
      return
    now = self._clock()
    if self._phase is None or self._phase[0] != name:
      self._phase, self._drawn_at = (name, now, i), -math.inf
    secs, parts = now - self._phase[1], i - self._phase[2]
    done = n is not None and i >= n
    if done:
      self._phase = None
    if self._live:
      if done or now - self._drawn_at >= self._EVERY_SECS:
        eta = f" | ETA {format_secs(secs / parts * (n - i))}" if n and parts and i < n else ""
        self._draw(f"{name} {i}/{n}{self._bar(i, n)}{eta}" if n else f"{name} {i}")
    elif done:
      self._line(f"{name}: {n} in {secs:.1f} s")

  def message(self, text):
    """Prints whole lines, above the live line if there is one."""
    if self._enabled:
      self._line(text)

  def close(self):
    """Leaves the last live line on the screen and ends it."""
    if self._on_screen:
      self._stream.write("\n")
      self._stream.flush()
      self._on_screen = False

  def _train_text(self, step):
    share = f" {step / self._total:4.0%}" if self._total else ""
    bar = self._bar(step, self._total) if self._live else ""
    parts = [f"step {step}/{self._total}{share}{bar}"]
    if self._loss is not None:
      parts.append(f"loss {self._loss:.4g}")
    if self._rate is not None:
      parts.append(f"{self._rate:.3g} steps/s")
    if self._eta is not None:
      parts.append(f"ETA {format_secs(self._eta - self._clock())}")
    return " | ".join(parts)

  @staticmethod
  def _bar(i, n, cells=20):
    full = int(cells * min(max(i / n, 0), 1)) if n else 0
    return f" [{'#' * full}{'-' * (cells - full)}]"

  def _draw(self, text):
    width = shutil.get_terminal_size().columns
    self._stream.write("\r\x1b[K" + text[: width - 1])  # one column free: no terminal wraps then
    self._stream.flush()
    self._drawn_at, self._on_screen = self._clock(), True

  def _line(self, text):
    clear = "\r\x1b[K" if self._on_screen else ""
    self._on_screen = False
    # A carriage return in a log file hides what stands before it.
    text = text if self._live else re.sub(r"\r\n?", "\n", text)
    self._stream.write(clear + text + "\n")
    self._stream.flush()
