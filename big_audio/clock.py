"""The time of a run: when things happen, how fast it goes, and what is shown of it.

Nothing here knows a model or jax; tools show their progress with it as well.
"""

import contextlib
import math
import os
import re
import shutil
import sys
import time

_IMPORTED_AT = time.monotonic()


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
