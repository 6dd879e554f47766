import importlib
import json
import time
import types

import jax
import jax.numpy as jnp
import pytest
from absl import flags
from absl.testing import flagsaver

from big_audio import config as C
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


def test_every_bench_is_tested():
  assert set(bench.names()) == {"mdct", *SMALL}


SMALL = {
  "step": dict(SHAPES=(("tiny", 8, dict(dim=4, latent=2, cond_dim=8, depth=1, hidden=8)),)),
  "loader": {},
  "codec": dict(SECS=1, RATES={24000: ("EnCodec-24k", 6.0)}),
  "loop": dict(CONFIG="configs/meanflow.py:data=digits,smoke", BLOCK=2, SAVE_EVERY=2),
  "embed": dict(SIZE=dict(frames=64, dim=16, depth=1, heads=2), SECS=0.1),
  "synth": dict(BATCH=4, PROCESSES=1, SECS=0.4),
}


def printed(rows):
  """The lines of the table that the command prints: a head for each group, and every row."""
  lines = timing.table(rows).splitlines()
  assert len(lines) == len(rows) + len({r["group"] for r in rows})
  for row in rows:
    assert any(line.strip().startswith(row["name"]) for line in lines)
  return lines


def tiny(name, monkeypatch):
  module = importlib.import_module(f"big_audio.tools.benches.{name}")
  for key, value in SMALL[name].items():
    monkeypatch.setattr(module, key, value)
  return module


@pytest.mark.slow
def test_steps_of_all_methods(monkeypatch):
  module = tiny("step", monkeypatch)
  monkeypatch.setattr(module, "METHODS", ("fm", "mf", "imf"))
  rows = module.run(1)
  assert [r["name"] for r in rows] == list(module.METHODS) and rows[0]["wall_ratio"] == 1
  for row in rows:
    assert row["steps_per_sec"] == pytest.approx(1e3 / row["wall_ms"])
    assert row["gflop_per_sec"] == pytest.approx(row["gflop"] * row["steps_per_sec"])
    assert row["mfu"] == "peak unknown"  # of a CPU
  gflop = {r["name"]: r["gflop"] for r in rows}
  assert gflop["fm"] < gflop["mf"] < gflop["imf"]  # the jvp is counted
  assert all("mfu=peak unknown" in line for line in printed(rows)[1:])


def test_synthesised_sounds(monkeypatch):
  module = tiny("synth", monkeypatch)
  rows = module.run(1)
  assert len(rows) == 12 and len(printed(rows)) == 16
  for row in rows:
    assert row["a_sec"] == pytest.approx(1e3 / row["wall_ms"])
  slow = {r["group"][:10]: r["wall_ratio"] for r in rows if r["name"] == "one at a time"}
  assert slow["moog_basic"] > 1
  monkeypatch.setattr(module, "one_at_a_time", lambda p: module.np.zeros(int(8000 * module.SECS)))
  with pytest.raises(ValueError, match="the loop computes something else"):
    module._sounds("simple_saw", 1)


def test_flop_of_a_product_and_their_share_of_the_peak(monkeypatch):
  x = jnp.ones((64, 32)), jnp.ones((32, 16))
  assert timing.flop(jax.jit(jnp.matmul).lower(*x).compile()) == 2 * 64 * 32 * 16
  device = types.SimpleNamespace(
    device_kind="NVIDIA H100 PCIe", memory_stats=lambda: {"peak_bytes_in_use": 3 * 2**20}
  )
  monkeypatch.setattr(timing.jax, "devices", lambda: [device])
  assert timing.throughput(10.0, 756e9) == pytest.approx(
    {"steps_per_sec": 100, "gflop": 756, "gflop_per_sec": 75600, "mfu": 0.1, "mib": 3}
  )


def test_loader(tmp_path, monkeypatch):
  module = tiny("loader", monkeypatch)
  monkeypatch.delenv("BIG_AUDIO_DATA", raising=False)
  monkeypatch.setattr(module, "SETTINGS", {"0 threads": (0, 0), "1 thread": (1, 0)})
  write = module.write_recordings
  monkeypatch.setattr(module, "write_recordings", lambda folder, n: write(folder, 2, 1.5, 8000))
  rows = module.run(1, crops=32)
  lines = printed(rows)
  rows = {r["name"]: r for r in rows}
  for name, unit in (("plain", "crops/s"), ("1 thread", "crops/s"), ("1 thread of plain", "%"),
                     ("CPU time, 0 threads", "us/crop")):  # fmt: skip
    row = rows[name]
    assert row["unit"] == unit and row["value"] > 0
    assert any(line.split() == [*name.split(), str(row["value"]), unit] for line in lines)


def codec_rows(monkeypatch):
  module = tiny("codec", monkeypatch)
  load = C.load
  monkeypatch.setattr(module.C, "load", lambda spec: load(f"{spec},smoke"))
  return module.run(1)


@pytest.mark.slow
def test_codec_without_peers(monkeypatch):
  module = tiny("codec", monkeypatch)
  util = types.SimpleNamespace(find_spec=lambda name: None)
  monkeypatch.setattr(module, "importlib", types.SimpleNamespace(util=util))
  rows = codec_rows(monkeypatch)
  names = ["ours", "EnCodec-24k", "plain AE", "1 evaluation", "2 evaluations", "EnCodec-24k"]
  assert [r["name"] for r in rows] == names
  printed(rows)
  for row in rows:
    if row["name"] == "EnCodec-24k":
      assert row["unavailable"] == "torch is not installed"
    else:
      assert row["rtf"] == pytest.approx(row["wall_ms"] / 1000) and row["params"] > 0


def test_codec_with_peers(monkeypatch):
  pytest.importorskip("torch")
  pytest.importorskip("transformers")
  rows = codec_rows(monkeypatch)
  printed(rows)
  assert all("wall_ms" in row for row in rows)


def test_embed_without_peers(monkeypatch):
  module = tiny("embed", monkeypatch)
  util = types.SimpleNamespace(find_spec=lambda name: None)
  monkeypatch.setattr(module, "importlib", types.SimpleNamespace(util=util))
  rows = module.run(1)
  printed(rows)
  missing = {r["name"] for r in rows if r.get("unavailable") == "torch is not installed"}
  assert missing == {"ASTModel, torch", "ASTFeatureExtractor"} and len(rows) == 6
  rows = {r["name"]: r for r in rows}
  assert rows["ours"]["clips_per_sec"] == pytest.approx(1e3 / rows["ours"]["wall_ms"])
  frames = 1 + (1600 - 400) // 160
  for name in ("ours, numpy", "ours, jitted"):
    assert rows[name]["frames_per_sec"] == pytest.approx(frames * 1e3 / rows[name]["wall_ms"])


def test_embed_with_peers(monkeypatch):
  pytest.importorskip("torch")
  pytest.importorskip("transformers")
  module = tiny("embed", monkeypatch)
  rows = module.run(1)
  printed(rows)
  assert all("wall_ms" in row for row in rows)
  monkeypatch.setitem(module.SIZE, "pool", "special")
  with pytest.raises(ValueError, match="outputs differ by"):
    module.run(1)


@pytest.mark.slow
def test_loop(monkeypatch):
  rows = tiny("loop", monkeypatch).run(1)
  printed(rows)
  found = {(r["group"].rpartition(", ")[2], r["name"]): r for r in rows}
  assert len(found) == len(rows) >= 6
  for (_, name), row in found.items():
    assert row["wall_ms"] > 0 or name.startswith("saving")
  assert {"bare jitted step", "step in the loop", "loader alone", "cold compilation cache"} <= {
    name for _, name in found
  }


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
