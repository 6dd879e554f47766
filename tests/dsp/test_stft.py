"""STFT, inverse, mel banks and compression against librosa, scipy and their definitions."""

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from big_audio.dsp import mel as L
from big_audio.dsp import stft as S
from big_audio.dsp.windows import STFT_WINDOWS, stft_window


def _noise(*shape, dtype=np.float64, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("size, hop, length", [(8, 2, 31), (8, 3, 31), (7, 7, 50), (4, 6, 23)])
def test_frame_and_overlap_add_are_transposes(size, hop, length):
  x = _noise(2, length)
  frames = S.frame(x, size, hop)
  starts = range(0, length - size + 1, hop)
  np.testing.assert_array_equal(frames, np.stack([x[:, s : s + size] for s in starts], 1))
  other = _noise(*frames.shape, seed=1)
  back = S.overlap_add(other, hop)
  used = back.shape[-1]
  np.testing.assert_allclose(np.sum(frames * other), np.sum(x[:, :used] * back))


def test_frame_of_too_short_a_signal_is_empty():
  assert S.frame(_noise(2, 3), 4, 2).shape == (2, 0, 4)


@pytest.mark.parametrize("pad_mode", ["reflect", "constant"])
@pytest.mark.parametrize("win, hop", [(256, 64), (200, 80)])
def test_centred_equals_librosa(pad_mode, win, hop):
  wav = _noise(2, 1001)
  want = librosa.stft(wav, n_fft=256, hop_length=hop, win_length=win, pad_mode=pad_mode)
  got = S.stft(np.moveaxis(wav, 0, 1), 256, hop, win=win, pad_mode=pad_mode)  # C = 2
  assert got.shape == (S.num_frames(1001, 256, hop, "center"), 129, 2)
  np.testing.assert_allclose(np.moveaxis(got, -1, 0), np.swapaxes(want, 1, 2), atol=1e-10)


def test_valid_and_same_start_where_they_say():
  wav = _noise(1000)
  w = stft_window("hann", 128)
  valid = S.stft(wav[:, None], 128, 32, padding="valid")[..., 0]
  assert len(valid) == S.num_frames(1000, 128, 32, "valid") == 28
  np.testing.assert_allclose(valid[3], np.fft.rfft(w * wav[96:224]), atol=1e-12)
  same = S.stft(wav[:, None], 128, 32, padding="same")[..., 0]
  assert len(same) == S.num_frames(1000, 128, 32, "same") == 32
  np.testing.assert_allclose(same[3], np.fft.rfft(w * wav[48:176]), atol=1e-12)


@pytest.mark.parametrize("padding", ["center", "same"])
@pytest.mark.parametrize("length", [700, 701, 763])
@pytest.mark.parametrize("n_fft, hop", [(128, 32), (320, 80), (96, 40)])
def test_inverse_is_exact_for_any_length(padding, length, n_fft, hop):
  wav = _noise(2, length, 2, dtype=np.float32)
  spec = S.stft(wav, n_fft, hop, padding=padding)
  assert spec.dtype == np.complex64
  back = S.istft(spec, length, n_fft, hop, padding=padding)
  assert back.dtype == np.float32
  np.testing.assert_allclose(back, wav, atol=3e-5)


def test_inverse_of_a_modified_stft_is_the_least_squares_one():
  spec = _noise(9, 17, 1) + 1j * _noise(9, 17, 1, seed=1)
  spec[:, [0, -1]] = spec[:, [0, -1]].real  # an rfft has real ends
  length, n_fft, hop = 64, 32, 8
  best = S.istft(spec, length, n_fft, hop)
  forward = lambda x: S.stft(x, n_fft, hop, pad_mode="constant")

  def error(x):
    weight = np.full((17, 1), 2.0)
    weight[[0, -1]] = 1  # the other half of the spectrum
    return np.sum(weight * np.abs(forward(x) - spec) ** 2)

  step = 1e-3 * _noise(length, 1, seed=2)
  # In the frames' padding too the least-squares signal is free, so only probe inner samples.
  step[:32] = step[-32:] = 0
  base = error(best)
  slope = (error(best + step) - error(best - step)) / 2
  assert abs(slope) < 1e-9 * base


def test_inverse_that_cannot_exist_is_refused():
  spec = S.stft(_noise(1000, 1), 128, 32, padding="valid")
  with pytest.raises(ValueError, match="no window covers 1 of the 900 samples, the first at 0"):
    S.istft(spec, 900, 128, 32, padding="valid")
  with pytest.raises(ValueError, match="length=2000 was asked"):
    S.istft(spec, 2000, 128, 32)


@pytest.mark.parametrize("htk", [True, False])
@pytest.mark.parametrize("norm", ["slaney", "none"])
@pytest.mark.parametrize(
  "sr, n_fft, n_mels, fmin, fmax", [(8000, 512, 40, 0, None), (44100, 2048, 80, 30, 16000)]
)
def test_mel_bank_equals_librosa(htk, norm, sr, n_fft, n_mels, fmin, fmax):
  kwargs = dict(sr=sr, n_fft=n_fft, n_mels=n_mels, fmin=fmin, fmax=fmax, dtype=np.float64)
  want = librosa.filters.mel(htk=htk, norm="slaney" if norm == "slaney" else None, **kwargs)
  scale = "htk" if htk else "slaney"
  got = L.mel_bank(sr, n_fft, n_mels, fmin=fmin, fmax=fmax, scale=scale, norm=norm)
  np.testing.assert_allclose(got.T, want, atol=1e-12)


@pytest.mark.parametrize("scale", L.SCALES)
def test_mel_scale_inverts(scale):
  hz = np.array([0, 440, 999, 1000, 1001, 8000.0])
  np.testing.assert_allclose(L.mel_to_hz(L.hz_to_mel(hz, scale), scale), hz, atol=1e-9)


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_mel_spectrogram_equals_librosa(power):
  wav = _noise(2000)
  want = librosa.feature.melspectrogram(
    y=wav, sr=16000, n_fft=256, hop_length=64, n_mels=20, power=power, pad_mode="reflect"
  )
  got = L.mel_spectrogram(wav[:, None], 16000, 256, 64, 20, power=power)
  assert got.shape == (32, 20, 1)
  np.testing.assert_allclose(got[..., 0].T, want, rtol=1e-6)


def test_numpy_equals_jitted_jax():
  wav = _noise(1, 1000, 2, dtype=np.float32)
  run = lambda x: (
    S.stft(x, 128, 32, padding="same"),
    S.istft(S.stft(x, 128, 32), 1000, 128, 32),
    L.mel_spectrogram(x, 8000, 128, 32, 10),
  )
  for a, b in zip(run(wav), jax.jit(run)(wav), strict=True):
    assert a.dtype == b.dtype and isinstance(a, np.ndarray)
    np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("kind", STFT_WINDOWS)
def test_windows_equal_scipy(kind):
  from scipy.signal import get_window

  want = {"povey": get_window("hann", 50) ** 0.85, "sqrt_hann": np.sqrt(get_window("hann", 50))}
  want = want[kind] if kind in want else get_window(kind, 50)
  np.testing.assert_allclose(stft_window(kind, 50), want, atol=1e-8)


def test_compress_is_the_power_law_and_inverts():
  x = np.array([-2.0, -1e-3, -1e-7, 0, 1e-9, 1e-5, 0.3, 40])
  y = S.compress(x, 0.3)
  loud = np.abs(x) >= 1e-5
  np.testing.assert_allclose(y[loud], (np.sign(x) * np.abs(x) ** 0.3)[loud])
  np.testing.assert_allclose(S.expand(y, 0.3), x, rtol=1e-12)
  assert np.all(np.diff(y) >= 0)  # monotonic through the joint
  z = x * np.exp(0.7j)
  np.testing.assert_allclose(S.compress(z, 0.3), y * np.exp(0.7j))
  np.testing.assert_allclose(S.expand(S.compress(z, 0.3), 0.3), z, rtol=1e-12)
  a, b = S.compress_pair(z.real, z.imag, 0.3)
  np.testing.assert_allclose(a + 1j * b, S.compress(z, 0.3))
  c, d = S.expand_pair(a, b, 0.3)
  np.testing.assert_allclose(c + 1j * d, z, rtol=1e-12)


def test_gradients_at_silence_are_finite():
  zero = jnp.zeros((512, 1))
  mel = lambda x: jnp.sum(L.mel_spectrogram(x, 8000, 128, 32, 10))
  comp = lambda x: jnp.sum(jnp.abs(S.compress(x, 0.3)))
  pair = lambda x: jnp.sum(S.compress_pair(x, x, 0.3)[0])
  spec = lambda x: jnp.sum(jnp.abs(S.compress(S.stft(x, 128, 32), 0.3).real))
  for fn in (mel, comp, pair, spec):
    assert np.all(np.isfinite(jax.jit(jax.grad(fn))(zero)))
  # Away from zero the slope is that of the power law.
  np.testing.assert_allclose(jax.grad(lambda x: S.compress(x, 0.3))(0.5), 0.3 * 0.5**-0.7, 1e-6)


def test_errors():
  wav = np.zeros((100, 1))
  with pytest.raises(ValueError, match="100 samples are too few to reflect 128"):
    S.stft(wav, 256, 64)
  with pytest.raises(ValueError, match="do not fill a frame of 256"):
    S.stft(wav, 256, 64, padding="valid")
  with pytest.raises(ValueError, match="Did you mean 'center'"):
    S.stft(wav, 64, 16, padding="centre")
  with pytest.raises(ValueError, match="Did you mean 'hann'"):
    S.stft(wav, 64, 16, window="han")
  with pytest.raises(ValueError, match="win and hop <= n_fft=64"):
    S.stft(wav, 64, 16, win=65)
  with pytest.raises(ValueError, match=r"wav\[..., None\]"):
    S.stft(wav[:, 0], 64, 16)
  with pytest.raises(ValueError, match=r"expected .*33, C"):
    S.istft(np.zeros((3, 32, 1), complex), 10, 64, 16)
  with pytest.raises(ValueError, match="sr/2 = 4000 Hz, got fmin=0, fmax=8000"):
    L.mel_bank(8000, 512, 40, fmax=8000)
  with pytest.raises(ValueError, match="0 < power <= 1, got 2"):
    S.compress(wav, 2)
