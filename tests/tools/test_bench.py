import json
import time

import pytest
from absl import flags
from absl.testing import flagsaver

from big_audio.tools import bench, timing


def test_rounds_are_interleaved_and_ratios_are_to_ours():
  order = []

  def candidate(name, secs):
    def fn():
      order.append(name)
      time.sleep(secs)

    return fn

  rows = timing.interleaved(
    {"slow": candidate("slow", 0.02), "fast": candidate("fast", 0.005), "x": "not installed"},
    3,
    group="sleep",
    ours="fast",
  )
  assert order == ["slow", "fast"] * 4  # the first pair is not timed
  slow, fast, missing = rows
  assert fast["wall_ratio"] == 1 and 2 < slow["wall_ratio"] < 5
  assert slow["wall_ms"] > 20 and slow["cpu_ms"] < 10
  assert missing == {"group": "sleep", "name": "x", "unavailable": "not installed"}
  text = timing.table([{**slow, "bits": 1.5}, *rows[1:]])
  assert "unavailable: not installed" in text and "bits=1.5" in text and text.startswith("sleep\n")


def test_errors():
  with pytest.raises(ValueError, match="1 or more, got 0"):
    timing.interleaved({"a": int}, 0, group="g")
  with pytest.raises(ValueError, match=r"expected ours to be one of \['a'\], got 'b'"):
    timing.interleaved({"a": int, "b": "missing"}, 1, group="g", ours="b")


def test_every_bench_has_run():
  assert "mdct" in bench.names()
  for name in bench.names():
    module = __import__(f"big_audio.tools.benches.{name}", fromlist=["run"])
    assert callable(module.run)


def test_command_line(tmp_path, capsys, monkeypatch):
  flags.FLAGS.mark_as_parsed()
  monkeypatch.setattr("big_audio.tools.benches.mdct.BATCH", 1)
  monkeypatch.setattr("big_audio.tools.benches.mdct.SECS", 1)
  out = tmp_path / "rows.json"
  with flagsaver.as_parsed(rounds="1", json=str(out)):
    bench.main(["bench", "mdct"])
    printed = capsys.readouterr().out
    assert "scipy DCT-IV" in printed and "cpus=" in printed and "jax=" in printed
    rows = json.loads(out.read_text())["rows"]
    assert {row["name"] for row in rows} >= {"ours, fft", "ours, matmul"}
    bench.main(["bench"])
    assert "mdct" in capsys.readouterr().out
    with pytest.raises(ValueError, match="Did you mean 'mdct'"):
      bench.main(["bench", "mdtc"])
