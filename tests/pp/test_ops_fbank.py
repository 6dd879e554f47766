"""Log-mels of recordings for AST: frames, padding before normalisation, unread files."""

import numpy as np
import pytest
import soundfile

from big_audio.datasets.audio import AudioFile
from big_audio.dsp import fbank as F
from big_audio.pp import builder


def run(spec, wav, sr=16000, **example):
  return builder.build(spec)({"wav": wav, "sr": sr, "id": "a", **example}, np.random.default_rng(0))


def noise(samples, channels=1):
  rng = np.random.default_rng(0)
  return (0.1 * rng.standard_normal((samples, channels))).astype(np.float32)


def test_rows_of_zeros_are_appended_before_normalisation():
  wav = noise(2000)  # 11 frames
  out = run("fbank(14)|ast_normalise", wav)
  assert set(out) == {"fbank", "sr", "id"}
  got, want = out["fbank"], F.fbank(wav)
  assert got.dtype == np.float32 and got.shape == (14, 128)
  np.testing.assert_allclose(got[:11], (want + 4.2677393) / (2 * 4.5689974), atol=1e-6)
  np.testing.assert_allclose(got[11:], 0.467, atol=1e-3)
  other = run("fbank(n_mels=40, to='x')|ast_normalise(1.0, 0.25, key='x')", wav)["x"]
  np.testing.assert_allclose(other, 2 * (F.fbank(wav, n_mels=40) - 1), atol=1e-5)
  assert run("fbank", wav)["fbank"].shape == (11, 128)


def test_longer_recordings_are_cut_only_when_asked():
  wav = noise(10 * 160 + 400)  # 11 frames
  with pytest.raises(ValueError, match=r'needs 10 frames or fewer, "a" has 11. Use "crop\(sam'):
    run("fbank(10)", wav)
  got = run("fbank(10, cut=True)", wav)["fbank"]
  np.testing.assert_array_equal(got, F.fbank(wav)[:10])
  assert run("fbank(10)", wav[:-1])["fbank"].shape == (10, 128)  # 10 whole frames and a tail
  assert run("crop(samples=1600)|fbank(10)", wav)["fbank"].shape == (10, 128)


def test_unread_files(tmp_path):
  wav = noise(4000)
  soundfile.write(tmp_path / "a.wav", wav, 16000, subtype="FLOAT")
  file = AudioFile.open(tmp_path / "a.wav")
  for spec in ("fbank", "fbank(30)", "fbank(9, cut=True)"):
    np.testing.assert_array_equal(run(spec, file)["fbank"], run(spec, wav)["fbank"])


def test_crop_and_pad_take_features_too():
  wav = noise(4000)
  mel = run("fbank", wav)["fbank"]
  cut = "crop(samples=9, key='fbank', mode='centre')"
  out = run(f"fbank|{cut}|pad(samples=12, mode='start', key='fbank')", wav)["fbank"]
  first = (len(mel) - 9) // 2
  np.testing.assert_array_equal(out, np.pad(mel[first : first + 9], ((3, 0), (0, 0))))


def test_cmn_takes_what_multiplies_the_spectrum():
  wav = noise(4000)
  plain = run("fbank(n_mels=40)", wav)["fbank"].astype(np.float64)
  out = run("fbank(n_mels=40)|cmn", wav)["fbank"]
  np.testing.assert_allclose(out, plain - plain.mean(0), atol=1e-5)
  louder = run("fbank(n_mels=40)|cmn", 4 * wav)["fbank"]
  np.testing.assert_allclose(louder, out, atol=1e-3)


@pytest.mark.parametrize(
  "spec, wav, sr, message",
  [
    ("fbank", noise(800), 44100, r'needs 16000 Hz, "a" has 44100. Set sr=16000 of the source, or'),
    ("fbank", noise(800, 2), 16000, r"needs mono \[T,1\], \"a\" has \[800, 2\]. Put mono before"),
    ("fbank", noise(399), 16000, r'needs 400 samples, "a" has 399. Use "pad\(samples=400\)'),
    ("fbank", np.zeros((800, 1), np.int16), 16000, "got int16. Put to_float before it"),
    ("fbank(0)", noise(800), 16000, "needs frames above 0"),
    ("fbank|ast_normalise(std=0)", noise(800), 16000, "needs std > 0"),
    ("ast_normalise", noise(800), 16000, 'finds no "fbank"'),
  ],
)
def test_refusals(spec, wav, sr, message):
  with pytest.raises(ValueError, match=message):
    run(spec, wav, sr)


def test_masked_recordings_are_refused():
  with pytest.raises(ValueError, match='"wav_mask" would no longer fit'):
    run("fbank", noise(800), wav_mask=np.ones(800, bool))
