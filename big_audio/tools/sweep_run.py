"""Runs the runs of a sweep: in this process one after the other, or in several worker processes.

Importing jax and compiling cost more than a small run: so a process takes many. A worker reads runs
as JSON lines from stdin and answers on stdout; one that dies fails its run alone.
"""

import contextlib
import gc
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable

from big_audio import config as C
from big_audio.tools import sweep_plan

DONE, FAILED, STOPPED = "done", "failed", "stopped"


@contextlib.contextmanager
def seen_signals():
  """Yields () -> bool: whether SIGINT or SIGTERM has come since, whoever has handled it.

  The train loop takes both to end a run behind a whole step; a sweep has to end then as well.
  """
  if threading.current_thread() is not threading.main_thread():
    yield lambda: False
    return
  read, write = os.pipe()
  os.set_blocking(read, False)
  os.set_blocking(write, False)
  old = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
  caught = []

  def came() -> bool:
    with contextlib.suppress(BlockingIOError):
      caught.extend(n for n in os.read(read, 512) if n in (signal.SIGINT, signal.SIGTERM))
    return bool(caught)

  try:
    yield came
  finally:
    signal.set_wakeup_fd(old)
    os.close(read)
    os.close(write)


def train_one(run: sweep_plan.Run, workdir: str, came: Callable[[], bool] = lambda: False) -> dict:
  """Trains a run, or goes on with it: {"state", "error", "traceback", "secs", "step", "row"}."""
  began = time.monotonic()
  out = dict(state=DONE, error=None, traceback=None, step=None, row={})
  try:
    config = run.load()
    from big_audio import train_loop  # jax is imported after the config has been checked

    row = train_loop.train(config, workdir)
    out.update(step=row.get("step"), row={k: v for k, v in row.items() if k != "step"})
    if came():
      out["state"] = STOPPED
  except (Exception, KeyboardInterrupt) as e:
    stopped = isinstance(e, KeyboardInterrupt) or came()
    out.update(state=STOPPED if stopped else FAILED, error=f"{type(e).__name__}: {e}")
    out["traceback"] = "".join(traceback.format_exception(e))[-4000:]
  finally:
    # Programs of a run serve no other run; they would pile up.
    if "jax" in sys.modules:
      sys.modules["jax"].clear_caches()
    gc.collect()
  return {**out, "secs": round(time.monotonic() - began, 1)}


def worker() -> None:
  """Serves runs from stdin until it closes: the other end of `_Worker`."""
  if sys.platform == "linux":
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # the parent is gone: stop behind a whole step
  # Only answers go to stdout: what a run prints goes to the log.
  answers = os.fdopen(os.dup(1), "w")
  os.dup2(2, 1)
  with seen_signals() as came:
    for line in sys.stdin:
      job = json.loads(line)
      run = sweep_plan.Run(job["name"], job["spec"], tuple(job["overrides"]), {})
      log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
      os.dup2(log, 2)
      os.dup2(log, 1)
      os.close(log)
      result = train_one(run, job["workdir"], came)
      answers.write(json.dumps(result) + "\n")
      answers.flush()
      if result["state"] == STOPPED:
        return


class _Worker:
  """A process that trains runs."""

  def __init__(self):
    self._process = None

  def train(self, run, workdir, log) -> dict:
    """The result of `train_one`; a process that dies is a failed run."""
    began = time.monotonic()
    if self._process is None:
      code = "from big_audio.tools import sweep_run; sweep_run.worker()"
      self._process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
      )  # fmt: skip
    job = dict(name=run.name, spec=run.spec, overrides=run.overrides, workdir=workdir, log=log)
    line = ""
    with contextlib.suppress(OSError):
      self._process.stdin.write(json.dumps(job) + "\n")
      self._process.stdin.flush()
      line = self._process.stdout.readline()
    if line:
      return json.loads(line)
    code = self._process.wait()
    self._process = None
    what = signal.Signals(-code).name if code < 0 else f"exit status {code}"
    return dict(state=FAILED, error=f"the process ended with {what}; see {log}", step=None,
                traceback=None, row={}, secs=round(time.monotonic() - began, 1))  # fmt: skip

  def signal(self, number) -> None:
    """Sends a signal to the process, if there is one."""
    if self._process is not None:
      self._process.send_signal(number)

  def close(self) -> None:
    """Ends the process when its run is finished."""
    if self._process is not None:
      with contextlib.suppress(OSError):
        self._process.stdin.close()
      self._process.wait()
      self._process = None


def run_here(next_run: Callable, report: Callable, root: str) -> bool:
  """Runs in this process until there is none left; whether all were tried (no signal came).

  Args:
    next_run: () -> Run or None.
    report: (run, result or None) -> None; None when the run begins.
    root: folder of the workdirs.
  """
  with seen_signals() as came:
    while (run := next_run()) is not None:
      report(run, None)
      result = train_one(run, os.path.join(root, run.name), came)
      report(run, result)
      if result["state"] == STOPPED:
        return False
  return True


def run_workers(next_run: Callable, report: Callable, root: str, jobs: int, fresh: bool) -> bool:
  """The same with `jobs` processes; `fresh`: a new process for each run."""
  lock, stop, errors = threading.Lock(), threading.Event(), queue.Queue()
  workers = [_Worker() for _ in range(jobs)]

  def serve(worker):
    try:
      while not stop.is_set():
        with lock:
          run = next_run()
          if run is None:
            return
          report(run, None)
        workdir = os.path.join(root, run.name)
        os.makedirs(workdir, exist_ok=True)
        result = worker.train(run, workdir, os.path.join(workdir, "sweep.log"))
        if stop.is_set() and result["state"] == FAILED:
          result["state"] = STOPPED  # the signal ended it before it could answer
        with lock:
          report(run, result)
        if fresh:
          worker.close()
        if result["state"] == STOPPED:
          return
    except Exception as e:
      errors.put(e)
      stop.set()

  def forward(number, _):
    stop.set()
    for w in workers:
      w.signal(signal.SIGTERM)

  old = {}
  if threading.current_thread() is threading.main_thread():
    old = {n: signal.signal(n, forward) for n in (signal.SIGINT, signal.SIGTERM)}
  threads = [threading.Thread(target=serve, args=(w,)) for w in workers]
  try:
    for t in threads:
      t.start()
    for t in threads:
      while t.is_alive():  # in short waits, so that signals are handled
        t.join(0.2)
  finally:
    for number, previous in old.items():
      signal.signal(number, previous)
    for w in workers:
      w.close()
  if not errors.empty():
    raise errors.get()
  return not stop.is_set()


def check(runs) -> dict[str, str]:
  """{name: what is wrong} of the runs whose config does not load."""
  bad = {}
  for run in runs:
    try:
      C.build_models(run.load())
    except (ValueError, TypeError) as e:
      bad[run.name] = f"{type(e).__name__}: {e}"
  return bad
