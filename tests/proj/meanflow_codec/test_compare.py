import types

import numpy as np
import pytest
import soundfile

from proj.meanflow_codec import compare
from proj.meanflow_codec.windows import WindowCodec
from tests.proj.meanflow_codec.test_windows import make_runner

SR = 8000


@pytest.fixture
def folder(tmp_path):
  rng = np.random.default_rng(0)
  for i, name in enumerate(("0_ann_1", "1_ann_2", "2_bob_1", "3_bob_2", "4_bob_3")):
    wav = 0.1 * rng.standard_normal(4000 + 100 * i)
    soundfile.write(tmp_path / f"{name}.wav", wav, SR)
  return str(tmp_path)


def test_clips_join_a_group_with_silence(folder):
  alone = compare.clips(folder, SR, 1, pattern="_1")
  assert [n for n, _ in alone] == ["0_ann_1.wav", "2_bob_1.wav"]
  joined = compare.clips(folder, SR, 1, join_secs=1.0, group="_([a-z]+)_")
  assert [n for n, _ in joined] == ["ann_0", "bob_1"]
  ann = joined[0][1]
  assert ann.shape == (4000 + 800 + 4100 + 800, 1)
  assert not ann[4000:4800].any() and ann[4800:4900].any()
  with pytest.raises(ValueError, match="16000"):
    compare.clips(folder, 16000, 1)
  with pytest.raises(ValueError, match="finds nothing"):
    compare.clips(folder, SR, 1, join_secs=1.0, group="_([x-z]+)_")
  with pytest.raises(ValueError, match="--group: '\\('.*not a regular expression"):
    compare.clips(folder, SR, 1, join_secs=1.0, group="(")
  with pytest.raises(ValueError, match="expected parentheses"):
    compare.clips(folder, SR, 1, join_secs=1.0, group="_[a-z]+_")


def test_a_limit_is_a_number_of_clips(folder):
  with pytest.raises(SystemExit, match="--limit: expected 1 or more clips, got -1"):
    compare.main([folder, "--sr", "8000", "--limit", "-1"])


def test_rows_and_true_rates(folder, monkeypatch):
  recordings = compare.clips(folder, SR, 1)
  table = compare.Table(recordings, SR, ("mel", "si_sdr"), ci=True)
  heard, add = [], table.add
  monkeypatch.setattr(
    table, "add", lambda name, out, **kw: heard.extend(out) or add(name, out, **kw)
  )
  codec = WindowCodec(make_runner())
  compare.add_ours(table, codec, recordings, [0, 1], codings=("packed", "range"))
  assert heard and all(np.array_equal(w * 32768, np.round(w * 32768)) for w in heard)  # 16 bits
  table.add_controls()
  rows = {r["codec"]: r for r in table.rows}
  assert list(rows) == [
    "ours, plain AE", "ours, plain AE, range coded", "ours, 1 evaluation",
    "ours, 1 evaluation, range coded", "identity", "zero",
  ]  # fmt: skip
  assert rows["identity"]["mel"] == 0 and rows["zero"]["si_sdr"] == -150
  samples = [len(w) for _, w in recordings]
  payload = sum(-(-30 * -(-n // 160) // 8) for n in samples)
  ae = rows["ours, plain AE"]
  assert ae["payload_kbps"] == pytest.approx(payload * 8e-3 / (sum(samples) / SR))
  assert ae["file_kbps"] > ae["payload_kbps"] and ae["rtf_dec"] > 0
  coded = rows["ours, plain AE, range coded"]
  assert coded["mel"] == ae["mel"] and coded["payload_kbps"] != ae["payload_kbps"]
  assert ae["mel"] != rows["ours, 1 evaluation"]["mel"]
  assert ae["mel_lo"] <= ae["mel"] <= ae["mel_hi"]
  assert rows["identity"]["fd"] is None and rows["zero"]["fd"] > ae["fd"] > 0
  assert 0 < rows["identity"]["fd_half"] < ae["fd_half"] < rows["zero"]["fd_half"]
  assert compare.text(table.rows).count("\n") == 7


def test_halves_are_never_compared_with_their_own_originals():
  """A perfect codec has no fd, and in fd_half the floor: recordings against other recordings."""
  rng = np.random.default_rng(0)
  waves = [0.1 * rng.standard_normal((2000, 1)).astype(np.float32) for _ in range(6)]
  table = compare.Table([(str(i), w) for i, w in enumerate(waves)], SR, ("mel",))
  table.add("copy", waves)
  table.add_controls()
  copy, identity, _ = table.rows
  assert copy["fd"] == pytest.approx(0, abs=1e-6)
  assert copy["fd_half"] == identity["fd_half"] > 1e-3
  frames = [compare.log_mel_frames(w, SR) for w in waves]
  split = np.random.default_rng(0)
  halves = [np.array_split(split.permutation(6), 2) for _ in range(4)]
  flat = lambda index: np.concatenate([np.asarray(frames[i], np.float64) for i in index])
  expected = [compare.distributions.frechet_distance(flat(a), flat(b)) for a, b in halves]
  assert identity["fd_half"] == pytest.approx(np.mean(expected))
  one = compare.Table([("a", waves[0])], SR, ("mel",))
  one.add_controls()
  assert one.rows[0]["fd_half"] is None


def test_clips_without_a_score_are_counted(monkeypatch):
  def score(reference, estimate, sr):
    if not estimate.any():
      raise compare.perceptual.NoScore("the estimate is silent")
    if estimate[0, 0] > 0.5:
      raise compare.perceptual.NoScore("no utterances")
    return float(estimate[1, 0])

  monkeypatch.setattr(compare.perceptual, "available", lambda name: True)
  for name in ("stoi", "pesq_nb"):
    monkeypatch.setitem(compare.perceptual.MEASURES, name, score)
  good = np.full((2000, 1), 0.25, np.float32)
  bad = np.concatenate([[[1.0]], good[1:]]).astype(np.float32)
  table = compare.Table([("a", good), ("b", good)], SR, ("mel", "stoi"))
  table.add("fine", [good, good])
  table.add_controls()
  assert all("stoi_failed" not in r for r in table.results())  # only silence has none
  table.add("half", [good, bad])
  rows = {r["codec"]: r for r in table.results()}
  assert {k: r["stoi_failed"] for k, r in rows.items()} == {
    "fine": 0, "identity": 0, "zero": 2, "half": 1,
  }  # fmt: skip
  assert rows["half"]["stoi"] == rows["fine"]["stoi"] == 0.25 and rows["zero"]["stoi"] is None
  assert table.failed == ["half, stoi, item 1: no utterances"]


@pytest.mark.slow
def test_a_codec_without_a_prior_has_packed_rows_only(folder, capsys):
  recordings = compare.clips(folder, SR, 1)[:1]
  table = compare.Table(recordings, SR, ("mel",))
  rvq = WindowCodec(make_runner(method="ae", arg=",quantizer=rvq,kbps=1"))
  compare.add_ours(table, rvq, recordings, [0], name="rvq", codings=("packed", "range"))
  compare.add_ours(table, rvq, recordings, [0], name="only", codings=("range",))
  assert [r["codec"] for r in table.rows] == ["rvq, plain AE", "only, plain AE"]
  assert capsys.readouterr().err.count("packed rows only") == 2


def test_medians_over_seeds():
  rows = [
    {"codec": f"runs/{name}, {label}", "mel": mel, "pesq_nb": "unavailable"}
    for name, mels in (("a", (1.0, 5.0)), ("b", (3.0, 4.0)), ("c", (2.0, 9.0)))
    for label, mel in zip(("plain AE", "1 evaluation"), mels, strict=True)
  ]
  rows.append({"codec": "opus:6", "mel": 0.0})
  assert compare.medians(rows, ["runs/a", "runs/b", "runs/c"]) == [
    {"codec": "median of 3, plain AE", "mel": 2.0, "pesq_nb": "unavailable"},
    {"codec": "median of 3, 1 evaluation", "mel": 5.0, "pesq_nb": "unavailable"},
  ]


def test_medians_are_over_the_values_that_exist():
  rows = [
    {"codec": "a, x", "pesq_nb": 1.0, "stoi": None, "fd": 1.0},
    {"codec": "b, x", "pesq_nb": None, "stoi": None, "fd": 2.0, "stoi_failed": 2},
    {"codec": "c, x", "pesq_nb": 2.0, "stoi": None, "fd": 9.0, "stoi_failed": 4},
  ]
  assert compare.medians(rows, ["a", "b", "c"]) == [
    {"codec": "median of 3, x", "pesq_nb": 1.5, "stoi": None, "fd": 2.0, "stoi_failed": 3}
  ]
  assert compare.medians(rows[1::-1], ["a", "b"])[0]["pesq_nb"] == 1.0


def test_a_model_counts_once(folder, monkeypatch):
  runs = {"a": b"1", "b": b"2", "a:12": b"1"}
  named = lambda workdir: types.SimpleNamespace(model_hash=runs[workdir.rstrip("/")], sr=SR)
  monkeypatch.setattr(compare, "open_codec", named)
  assert [w for w, _ in compare._open(["a", "b"])] == ["a", "b"]
  for twice in (["a", "b", "a/"], ["a", "a:12"], ["a", "a"]):
    with pytest.raises(SystemExit, match='"a" and "a.*" hold the same model'):
      compare.main([folder, "--workdir", *twice, "--median"])


def test_command_line(folder, tmp_path, capsys):
  compare.main([folder, "--sr", "8000", "--measures", "mel", "--csv", str(tmp_path / "a.csv")])
  assert "| identity | 0.000 |" in capsys.readouterr().out
  assert (tmp_path / "a.csv").read_text().startswith("codec,mel,fd,fd_half")
  with pytest.raises(SystemExit, match="expected workdirs of one rate"):
    compare.main([folder])
  with pytest.raises(SystemExit, match="two or more"):
    compare.main([folder, "--workdir", "runs/a", "--median"])
  with pytest.raises(SystemExit, match="mell"):
    compare.main([folder, "--sr", "8000", "--measures", "mell"])
