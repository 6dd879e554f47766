"""MetricWriter's file after kills and resumes."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from big_audio import metrics


def write(writer, step, **values):
  writer.step_start(step)
  for name, value in values.items():
    writer.measure(name.replace("__", "/"), value)
  return writer.step_end()


def lines(workdir):
  return (workdir / "metrics.jsonl").read_bytes().splitlines(keepends=True)


def test_one_sorted_line_a_step_with_exact_numbers(tmp_path):
  w = metrics.MetricWriter(tmp_path / "run")
  f32 = np.float32(0.1)
  row = write(w, 3, train__loss=0.1 + 0.2, b=np.int64(2**53 + 1), a=f32, c=np.array(True))
  assert lines(tmp_path / "run") == [
    b'{"step": 3, "a": 0.10000000149011612, "b": 9007199254740993, "c": 1, '
    b'"train/loss": 0.30000000000000004}\n'
  ], "must be on disk before close()"
  assert row["b"] == 2**53 + 1 and isinstance(row["b"], int)
  (read,) = metrics.read_rows(w.path)
  assert read == row and np.float32(read["a"]) == f32
  w.close()
  w.close()


def test_non_finite_is_valid_json_and_comes_back(tmp_path):
  w = metrics.MetricWriter(tmp_path)
  write(w, 1, nan=float("nan"), inf=np.float32("inf"), ninf=-math.inf)
  strict = json.loads(lines(tmp_path)[0], parse_constant=lambda c: pytest.fail(c))
  assert strict == {"step": 1, "inf": "Infinity", "nan": "NaN", "ninf": "-Infinity"}
  (row,) = metrics.read_rows(w.path)
  assert math.isnan(row["nan"]) and row["inf"] == math.inf and row["ninf"] == -math.inf


def test_wrong_order_of_calls_and_values(tmp_path):
  w = metrics.MetricWriter(tmp_path)
  with pytest.raises(ValueError, match="step_start"):
    w.measure("a", 1)
  with pytest.raises(ValueError, match="no open row"):
    w.step_end()
  w.step_start(5)
  with pytest.raises(ValueError, match="step 5 has no step_end"):
    w.step_start(6)
  w.measure("a", 1)
  with pytest.raises(ValueError, match="'a' is measured twice"):
    w.measure("a", 1)
  for bad in ([1, 2], "text", None, 1j, np.zeros((1,))):
    with pytest.raises(ValueError, match="expected one real number"):
      w.measure("b", bad)
  w.step_end()
  for step in (5, 4):
    with pytest.raises(ValueError, match="already has step 5"):
      w.step_start(step)
  w.close()
  with pytest.raises(ValueError, match="already has step 5"):
    metrics.MetricWriter(tmp_path).step_start(5)


def test_an_empty_row_leaves_no_line_and_other_processes_write_nothing(tmp_path):
  w = metrics.MetricWriter(tmp_path / "a")
  write(w, 1)
  assert lines(tmp_path / "a") == []
  w = metrics.MetricWriter(tmp_path / "b", is_main=False)
  assert write(w, 1, a=2) == {"step": 1, "a": 2} and w.truncate(0) == 0
  w.close()
  assert not (tmp_path / "b").exists()


def test_truncate_drops_rows_past_the_step(tmp_path):
  w = metrics.MetricWriter(tmp_path)
  for step in (10, 20, 30, 40):
    write(w, step, loss=step / 7)
  before = lines(tmp_path)
  assert w.truncate(25) == 2
  assert lines(tmp_path) == before[:2]
  write(w, 30, loss=30 / 7)
  assert lines(tmp_path) == before[:3], "a repeated step must give the same bytes"
  assert w.truncate(30) == 0 and w.truncate(0) == 3 and lines(tmp_path) == []
  write(w, 1, loss=0)
  assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl"]


@pytest.mark.parametrize("torn", [b"{", b'{"step": 3, "loss": 0.', b'{"step": 3, "loss": 0.5}'])
@pytest.mark.parametrize("truncate", [False, True])
def test_a_torn_last_line_goes_away(tmp_path, torn, truncate):
  w = metrics.MetricWriter(tmp_path)
  write(w, 1, loss=1.0)
  write(w, 2, loss=2.0)
  w.close()
  good = lines(tmp_path)
  with open(w.path, "ab") as f:
    f.write(torn)
  assert [r["step"] for r in metrics.read_rows(w.path)] == [1, 2]
  w = metrics.MetricWriter(tmp_path)
  if truncate:
    with open(w.path, "ab") as f:  # torn after opening: truncate has to see it as well
      f.write(torn)
    assert w.truncate(2) == 0
  write(w, 3, loss=3.0)
  assert lines(tmp_path) == good + [b'{"step": 3, "loss": 3.0}\n']


def test_a_kill_leaves_whole_rows(tmp_path):
  code = (
    "import os, sys; from big_audio.metrics import MetricWriter\n"
    "w = MetricWriter(sys.argv[1])\n"
    "for s in range(1, 4): w.step_start(s); w.measure('a', s); w.step_end()\n"
    "w.step_start(4); w.measure('a', 4); os.kill(os.getpid(), 9)"
  )
  assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -9
  assert [r["a"] for r in metrics.read_rows(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_failures_are_named_and_go_with_the_steps_that_come_again(tmp_path):
  log, other = metrics.FailedLog(tmp_path), metrics.FailedLog(tmp_path, is_main=False)
  for step in (1, 2, 3):
    log.add(step, [{"id": f"{step}.wav", "reason": ValueError("bad")}] * (step != 2))
  other.add(3, [{"id": "of another process"}])
  path = tmp_path / "failed.jsonl"
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  assert rows[0] == {"step": 1, "id": "1.wav", "reason": "bad"}
  assert [r["step"] for r in rows] == [1, 3, 3]
  path.write_text(path.read_text() + '{"step": 1, "to')
  metrics.FailedLog(tmp_path, 2)
  assert [json.loads(line) for line in path.read_text().splitlines()] == rows[:1]


def test_a_damaged_file_is_named(tmp_path):
  path = tmp_path / "metrics.jsonl"
  for text, what in [
    ('{"step": 1}\nhello\n', ":2: expected one JSON object"),
    ('{"step": 1}\n{"step": 1}\n', ":2: steps must increase, got 1 after 1"),
    ("[]\n", ":1: expected one JSON object"),
  ]:
    path.write_text(text)
    with pytest.raises(ValueError, match=what):
      metrics.MetricWriter(tmp_path)


def test_missing_extras_are_named(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorboardX", None)
  monkeypatch.setitem(sys.modules, "wandb", None)
  with pytest.raises(ImportError, match=r"--extra tensorboard"):
    metrics.MetricWriter(tmp_path, tensorboard=True)
  with pytest.raises(ImportError, match=r"--extra wandb"):
    metrics.MetricWriter(tmp_path, wandb={})


def test_copies_get_the_same_rows(tmp_path, monkeypatch):
  calls = []

  class Fake:
    def __init__(self, *args, **kw):
      calls.append(("open", kw))

    def __getattr__(self, name):
      return lambda *args, **kw: calls.append((name, args, kw))

  class Module:
    SummaryWriter = Fake
    init = Fake

  monkeypatch.setitem(sys.modules, "tensorboardX", Module)
  monkeypatch.setitem(sys.modules, "wandb", Module)
  w = metrics.MetricWriter(tmp_path, tensorboard=True, wandb={"project": "p"})
  assert calls[0][1]["project"] == "p" and calls[0][1]["resume"] == "allow"
  write(w, 1, loss=2.0)
  assert ("add_scalar", ("loss", 2.0, 1), {}) in calls
  assert ("log", ({"loss": 2.0},), {"step": 1}) in calls
  w.truncate(0)
  assert calls[-1] == ("open", {"purge_step": 1})
  w.close()
  assert {"close", "finish"} <= {c[0] for c in calls}


def test_needs_no_jax():
  code = "import sys, big_audio.metrics; assert 'jax' not in sys.modules"
  subprocess.run([sys.executable, "-c", code], check=True)


def test_disk_full_is_an_error(tmp_path):
  if not os.path.exists("/dev/full"):
    pytest.skip("no /dev/full")
  w = metrics.MetricWriter(tmp_path)
  w._file.close()
  w._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
  with pytest.raises(OSError, match="No space left"):
    write(w, 1, loss=1.0)
