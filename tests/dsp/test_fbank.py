"""Log-mel filter banks beside the public extractor of AST and beside the plain definition."""

from pathlib import Path

import jax
import numpy as np
import pytest

from big_audio.dsp import fbank as F
from big_audio.dsp import mel

GOLDEN = Path(__file__).parent / "golden" / "ast_fbank.npz"


def make_golden():
  """Writes the golden file; needs torch and transformers (5.23), without torchaudio."""
  import transformers

  rng = np.random.default_rng(0)
  t = np.arange(12000) / 16000
  wav = 0.5 * np.sin(2 * np.pi * (100 * t + 4800 * t**2)) + 0.05 * rng.standard_normal(len(t))
  wav[8000:10000] *= 1e-4  # near the floor
  wav = np.round(32767 * np.clip(wav + 0.1, -1, 1)).astype(np.int16)
  extractor = transformers.ASTFeatureExtractor(do_normalize=False, max_length=73)
  mel = extractor(wav / np.float32(32768), sampling_rate=16000, return_tensors="np")
  assert not transformers.utils.is_speech_available()  # else it takes torchaudio's path
  GOLDEN.parent.mkdir(exist_ok=True)
  np.savez_compressed(
    GOLDEN, wav=wav, fbank=mel["input_values"][0], bank=extractor.mel_filters.astype(np.float32)
  )


def golden():
  with np.load(GOLDEN) as f:
    return (f["wav"] / np.float64(32768))[:, None], f["fbank"], f["bank"]


def test_float64_equals_the_public_extractor():
  wav, want, _ = golden()
  got = F.fbank(wav)
  assert got.dtype == np.float64 and got.shape == want.shape == (73, 128)
  np.testing.assert_allclose(got, want, atol=1e-5)
  assert want.min() < -15 and want.max() > 4  # from the floor to loud


@pytest.mark.parametrize("fn", [F.fbank, jax.jit(F.fbank)])
def test_float32_is_close_to_it(fn):
  wav, want, _ = golden()
  got = np.asarray(fn(wav.astype(np.float32)))
  assert got.dtype == np.float32
  error = np.abs(got - want)
  assert error.max() < 5e-3 and error.mean() < 1e-5


def test_live_extractor():
  pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  extractor = transformers.ASTFeatureExtractor(max_length=40)
  wav = np.random.default_rng(1).standard_normal((2, 5000)) * [[0.3], [1e-3]]
  out = extractor(list(wav.astype(np.float32)), sampling_rate=16000, return_tensors="np")
  got = F.fbank(wav.astype(np.float32).astype(np.float64)[..., None])
  got = (got - F.AUDIOSET_MEAN) / (2 * F.AUDIOSET_STD)
  np.testing.assert_allclose(got, np.stack(out["input_values"])[:, : got.shape[1]], atol=1e-5)


def test_equals_a_loop_for_other_sizes_and_leading_axes():
  """The plain definition: no shift by a sample, no fused mean."""
  rng = np.random.default_rng(2)
  wav, win, hop, sr = rng.standard_normal((2, 700, 1)), 150, 64, 8000
  got = F.fbank(wav, sr, 20, win, hop)
  assert got.shape == (2, 9, 20)
  bank = mel.mel_bank(sr, 256, 20, fmin=20, scale="kaldi", norm="none")
  window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(win) / (win - 1))
  for b in range(2):
    for f in range(9):
      x = wav[b, f * hop : f * hop + win, 0]
      x = x - x.mean()
      x = x - 0.97 * np.concatenate([x[:1], x[:-1]])
      power = np.abs(np.fft.rfft(x * window, 256)) ** 2
      np.testing.assert_allclose(got[b, f], np.log(np.maximum(power @ bank, 2**-23)), atol=1e-9)


def test_bank_equals_that_of_transformers_and_is_linear_in_mel():
  *_, want = golden()
  got = mel.mel_bank(16000, 512, 128, fmin=20, scale="kaldi", norm="none")
  np.testing.assert_allclose(got, want, atol=1e-6)
  m = 1127 * np.log(1 + np.arange(257) * 16000 / 512 / 700)
  edges = np.linspace(1127 * np.log(1 + 20 / 700), 1127 * np.log(1 + 8000 / 700), 130)
  np.testing.assert_allclose(got[:, 77], np.interp(m, edges[77:80], [0, 1, 0]), atol=1e-12)


def test_silence_is_the_floor():
  np.testing.assert_allclose(F.fbank(np.full((800, 1), 0.5)), np.log(1.1920929e-7), atol=1e-6)


@pytest.mark.parametrize(
  "wav, kw, message",
  [
    (np.zeros((399, 1)), {}, "399 samples do not fill a frame of 400"),
    (np.zeros((800, 2)), {}, r"expected mono \[..., T, 1\], got shape \(800, 2\)"),
    (np.zeros(800), {}, r"got shape \(800,\)"),
    (np.zeros((800, 1), np.int16), {}, "expected float32 or float64, got int16"),
    (np.zeros((800, 1)), dict(hop=0), "expected hop to be an integer above 0, got 0"),
  ],
)
def test_refusals(wav, kw, message):
  with pytest.raises(ValueError, match=message):
    F.fbank(wav, **kw)


def test_kaldi_bank_has_no_norm():
  with pytest.raises(ValueError, match='scale="kaldi" have norm="none", got \'slaney\''):
    mel.mel_bank(16000, 512, 128, scale="kaldi")
