import numpy as np
import pytest
import soundfile

from proj.meanflow_codec import score
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
  alone = score.clips(folder, SR, 1, pattern="_1")
  assert [n for n, _ in alone] == ["0_ann_1.wav", "2_bob_1.wav"]
  joined = score.clips(folder, SR, 1, join_secs=1.0, group="_([a-z]+)_")
  assert [n for n, _ in joined] == ["ann_0", "bob_1"]
  ann = joined[0][1]
  assert ann.shape == (4000 + 800 + 4100 + 800, 1)
  assert not ann[4000:4800].any() and ann[4800:4900].any()
  with pytest.raises(ValueError, match="16000"):
    score.clips(folder, 16000, 1)
  with pytest.raises(ValueError, match="finds nothing"):
    score.clips(folder, SR, 1, join_secs=1.0, group="_([x-z]+)_")


def test_rows_and_true_rates(folder):
  recordings = score.clips(folder, SR, 1)
  rows = {r["row"]: r for r in score.score(WindowCodec(make_runner()), recordings, [0, 1])}
  assert list(rows) == ["identity", "zero", "ae", "nfe1"]
  assert rows["identity"]["mel"] == 0 and rows["zero"]["si_sdr"] == -150
  samples = [len(w) for _, w in recordings]
  payload = sum(-(-30 * -(-n // 160) // 8) for n in samples)
  assert rows["ae"]["payload_kbps"] == pytest.approx(payload * 8e-3 / (sum(samples) / SR))
  assert rows["ae"]["file_kbps"] > rows["ae"]["payload_kbps"]
  assert rows["ae"]["mel"] != rows["nfe1"]["mel"]
  assert score.table(list(rows.values())).count("\n") == 5
