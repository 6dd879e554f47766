"""Runs that are killed at any moment and started again end as if nothing had happened.

Everything here goes through `python train.py` in processes of its own. The moments are drawn by
progress, not by the clock, so that slow and fast machines see the same kinds of kills.
"""

import os
import random
import signal
import sys
import time

import pytest

from tests import commands

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(sys.platform != "linux", reason="looks for left processes in /proc"),
]

CONFIG = "configs/meanflow.py:data=digits,smoke,method=imf"
TOTAL, KILLS = 400, 10


def flags(workers):
  return (
    f"total_steps={TOTAL}", "log.every_steps=1", "ckpt.every_steps=10", "ckpt.keep_latest=2",
    "evals.val.log_percent=5", f"input.num_workers={workers}",
  )  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache):
  """A run that nothing interrupts; it also warms the compilation cache."""
  folder = tmp_path_factory.mktemp("whole")
  code, text = commands.finish(
    commands.command(CONFIG, folder / "run", *flags(0)), folder / "log", cache=cache
  )
  assert code == 0, text
  return folder / "run"


def unfinished_save(workdir):
  folder = workdir / "checkpoints"
  return folder.is_dir() and any("orbax-checkpoint-tmp" in n for n in os.listdir(folder))


def kill_at(process, workdir, kind, rng):
  """Waits for a moment of the given kind, kills; a line about it, or None if the run had ended."""
  first = commands.last_step(workdir)
  if kind == "start-up":
    time.sleep(rng.uniform(0.5, 3.0))
  else:
    # Rows past the restored step are dropped first, so the file changes before it grows.
    size = lambda: os.stat(workdir / "metrics.jsonl").st_mtime_ns
    before = size() if first else 0
    begun = lambda: commands.last_step(workdir) and size() != before
    if not commands.wait_until(begun, process):
      return None
    target = commands.last_step(workdir) + rng.randint(5, 45)
    if not commands.wait_until(lambda: commands.last_step(workdir) >= target, process):
      return None
    if kind == "save":
      if not commands.wait_until(lambda: unfinished_save(workdir), process, poll=0.0002):
        return None
      time.sleep(rng.uniform(0, 0.01))
    else:
      time.sleep(rng.uniform(0, 0.05))
  process.send_signal(signal.SIGKILL)
  process.wait()
  return f"{kind:<9} at step {commands.last_step(workdir):>3}"


@pytest.mark.parametrize("workers", [0, 2])
def test_ten_kills(tmp_path, whole, cache, workers):
  rng = random.Random(workers)
  workdir, log, mark = tmp_path / "run", tmp_path / "log", f"{tmp_path}"
  argv = commands.command(CONFIG, workdir, *flags(workers))
  kinds = ["step", "save"] * 4 + ["save", "start-up"]
  rng.shuffle(kinds)
  table, restored, kills, saves = [], 0, 0, 0
  for kind in kinds:
    before = len(commands.printed(log)) if log.exists() else 0
    process = commands.start(argv, log, cache=cache, **{commands.MARK: mark})
    line = kill_at(process, workdir, kind, rng)
    text = commands.printed(log)[before:]
    assert line, f"the run ended by itself ({process.returncode}) after {kills} kills:\n{text}"
    found = [t for t in text.splitlines() if t.startswith("Restored step ")]
    step = int(found[0].split()[2]) if found else 0
    in_save = unfinished_save(workdir)
    kills, restored, saves = kills + 1, restored + (step > 0), saves + in_save
    table.append(f"{kills:>2}. {line}, restored {step:>3}, {'in a save' if in_save else ''}")
    left = commands.orphans(mark)
    assert not left, left
  code, text = commands.finish(argv, log, cache=cache, **{commands.MARK: mark})
  found = [t for t in text.splitlines() if t.startswith("Restored step ")]
  restored += bool(found)
  print("\n".join(["", f"{workers} workers:", *table, *found]))
  assert code == 0, text
  assert kills == KILLS and restored >= 7 and saves >= 2
  assert not commands.orphans(mark)
  commands.assert_same_run(workdir, whole)
  assert not unfinished_save(workdir)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_stop_signals(tmp_path, whole, cache, name):
  """A stop is a clean end: it saves, exits with 0, and the same command goes on from there."""
  rng = random.Random(name)
  workdir, log, mark = tmp_path / "run", tmp_path / "log", f"{tmp_path}"
  workers = 2 if name == "SIGINT" else 0
  argv = commands.command(CONFIG, workdir, *flags(workers))
  process = commands.start(argv, log, cache=cache, **{commands.MARK: mark})
  target = rng.randint(2, 200)
  assert commands.wait_until(lambda: commands.last_step(workdir) >= target, process)
  # A terminal sends Ctrl-C to the workers too.
  os.killpg(process.pid, signal.SIGINT) if name == "SIGINT" else process.terminate()
  assert process.wait(120) == 0, commands.printed(log)
  text = commands.printed(log)
  step = commands.last_step(workdir)
  assert f"Stopped by {name} at step {step}" in text and "Traceback" not in text
  assert commands.steps(workdir)[-1] == step
  assert not commands.orphans(mark)
  code, text = commands.finish(argv, log, cache=cache)
  assert code == 0 and f"Restored step {step} of" in text
  commands.assert_same_run(workdir, whole)
