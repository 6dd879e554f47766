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


def test_rows_and_true_rates(folder):
  recordings = compare.clips(folder, SR, 1)
  table = compare.Table(recordings, SR, ("mel", "si_sdr"), ci=True)
  codec = WindowCodec(make_runner())
  compare.add_ours(table, codec, recordings, [0, 1], codings=("packed", "range"))
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
  assert 0 < rows["identity"]["fd"] < ae["fd"]
  assert compare.text(table.rows).count("\n") == 7


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


def test_command_line(folder, tmp_path, capsys):
  compare.main([folder, "--sr", "8000", "--measures", "mel", "--csv", str(tmp_path / "a.csv")])
  assert "| identity | 0.000 |" in capsys.readouterr().out
  assert (tmp_path / "a.csv").read_text().startswith("codec,mel,fd")
  with pytest.raises(SystemExit, match="expected workdirs of one rate"):
    compare.main([folder])
  with pytest.raises(SystemExit, match="two or more"):
    compare.main([folder, "--workdir", "runs/a", "--median"])
  with pytest.raises(SystemExit, match="mell"):
    compare.main([folder, "--sr", "8000", "--measures", "mell"])
