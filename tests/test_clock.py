"""Chrono's arithmetic, Progress on both streams, when things are due."""

import io
import subprocess
import sys

import pytest

from big_audio import clock


def test_needs_no_jax():
  code = "import sys, big_audio.clock; assert 'jax' not in sys.modules"
  subprocess.run([sys.executable, "-c", code], check=True)


def test_itstime():
  hits = [s for s in range(1, 24) if clock.itstime(s, 10, 23)]
  assert hits == [1, 10, 20, 23]
  assert [s for s in range(1, 24) if clock.itstime(s, 10, 23, first=False, last=False)] == [
    10,
    20,
  ]
  assert not any(clock.itstime(s, every, 23) for s in range(24) for every in (0, None))
  with pytest.raises(ValueError, match="every >= 0"):
    clock.itstime(1, -1, 2)


class Clock:
  now = 100.0

  def __call__(self):
    return self.now


def test_chrono_speed_without_pauses_and_eta_with_them():
  now = Clock()
  chrono = clock.Chrono(total=100, batch_size=8, first_step=20, clock=now)
  now.now += 5  # compile
  first = chrono.tick(21)
  assert first == {"z/startup_secs": 5.0, "z/secs": 5.0}
  now.now += 4
  with chrono.pause("eval"):
    now.now += 6
  row = chrono.tick(41)  # 20 steps in 4 s of training and 6 s of evaluation
  assert row["z/steps_per_sec"] == pytest.approx(5.0)
  assert row["z/examples_per_sec"] == pytest.approx(40.0)
  assert row["z/eta_secs"] == pytest.approx((100 - 41) * 10 / 20)
  assert row["z/secs_eval"] == 6.0 and row["z/secs"] == 15.0 and row["z/startup_secs"] == 5.0
  now.now += 2
  row = chrono.tick(51)  # the pause belongs to the interval before
  assert row["z/steps_per_sec"] == pytest.approx(5.0)
  assert row["z/eta_secs"] == pytest.approx(49 * 12 / 30)
  assert all(k.startswith("z/") for k in row) and chrono.paused == {"eval": 6.0}
  assert chrono.tick(100).get("z/eta_secs") == 0


def test_process_age_counts_from_the_start_of_the_process():
  code = "import time; time.sleep(.3); from big_audio.clock import process_age as p; print(p())"
  out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
  assert 0.25 < float(out.stdout) < 60


def test_format_secs():
  assert [clock.format_secs(s) for s in (0, 59.4, 125, 3725, -3)] == [
    "0s",
    "59s",
    "2:05",
    "1:02:05",
    "0s",
  ]


class Terminal(io.StringIO):
  def isatty(self):
    return True


def drive(stream):
  now = Clock()
  p = clock.Progress(200, stream=stream, clock=now)
  for step in range(1, 101):
    now.now += 0.05
    p.update(step)
  p.row({"step": 100, "train/loss": 0.51234, "z/steps_per_sec": 20.0, "z/eta_secs": 65.0})
  for i in range(5):
    p.phase("eval val", i, 4)
    now.now += 0.5
  p.row({"step": 101, "train/loss": 0.5, "val/val/loss": 0.25})
  p.message("saved\rstep 101")
  now.now += 20
  p.update(102)
  p.close()
  return stream.getvalue()


def test_plain_lines_elsewhere():
  out = drive(io.StringIO())
  assert out.splitlines() == [
    "step 100/200  50% | loss 0.5123 | 20 steps/s | ETA 1:05",
    "eval val: 4 in 2.0 s",
    "step 101/200  50% | loss 0.5 | 20 steps/s | ETA 1:02 | val/val/loss 0.25",
    "saved",
    "step 101",
  ]
  assert "\r" not in out and "\x1b" not in out


def test_live_line_on_a_terminal(monkeypatch):
  monkeypatch.setenv("COLUMNS", "90")
  out = drive(Terminal())
  frames = out.split("\r\x1b[K")
  assert len(frames) < 70, "100 steps in 5 s must not draw 100 times"
  assert all(len(f.rstrip("\n")) < 90 for f in frames)
  assert "eval val 2/4 [##########----------] | ETA 1s" in frames
  last = "step 102/200  51% [##########----------] | loss 0.5 | 20 steps/s | ETA 42s\n"
  assert frames[-1] == last, "the ETA counts down between log rows"
  monkeypatch.setenv("COLUMNS", "30")
  assert all(len(f.rstrip("\n")) < 30 for f in drive(Terminal()).split("\r\x1b[K"))


def test_progress_of_other_processes_is_silent():
  stream = Terminal()
  p = clock.Progress(10, stream=stream, enabled=False)
  p.update(1), p.row({"step": 1}), p.phase("a", 1, 2), p.message("x"), p.close()
  assert stream.getvalue() == ""


def test_profiler_opens_and_closes_its_window(monkeypatch, tmp_path):
  import jax

  calls = []
  monkeypatch.setattr(jax.profiler, "start_trace", lambda path: calls.append(("start", path)))
  monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append(("stop", step)))
  profiler = clock.Profiler(dict(start_step=3, num_steps=2), str(tmp_path))
  for step in range(1, 8):
    profiler.step(step)
  profiler.close()
  assert calls == [("start", str(tmp_path / "profile")), ("stop", 5)]
  for late in (
    clock.Profiler(dict(start_step=3, num_steps=2), str(tmp_path)),
    clock.Profiler(None, ""),
  ):
    late.step(4), late.close()
  assert len(calls) == 2
