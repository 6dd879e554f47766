import jax
import librosa
import numpy as np
import pytest

from big_audio.dsp import distances as D


def _noise(*shape, seed=0):
  return 0.1 * np.random.default_rng(seed).standard_normal(shape)


def _librosa(wav, n):
  return np.abs(librosa.stft(wav, n_fft=n, hop_length=n // 4, pad_mode="constant"))


def test_si_sdr_by_construction():
  rng = np.random.default_rng(0)
  s = rng.standard_normal(4000)
  s -= s.mean()
  noise = rng.standard_normal(4000)
  noise -= noise.mean()
  noise -= s * (noise @ s) / (s @ s)  # orthogonal, as the projection assumes
  noise *= np.linalg.norm(s) / np.linalg.norm(noise)
  for db in (-10, 0, 7, 30):
    x = s + noise * 10 ** (-db / 20)
    for gain, offset in ((1, 0), (-0.2, 0.3), (50, 7)):
      got = D.si_sdr((gain * x + offset)[None, :, None], s[None, :, None] + 0.1)
      np.testing.assert_allclose(got, [db], atol=1e-6)


def test_si_sdr_ends_are_finite():
  s = _noise(1, 500, 1)
  assert D.si_sdr(s, s)[0] > 140 and np.isfinite(D.si_sdr(s, 0 * s))
  # silence is the worst estimate, not one of 0 dB
  np.testing.assert_allclose(D.si_sdr(0 * s, s), -150)


def test_lsd_by_librosa():
  x, y = _noise(5000), _noise(5000, seed=1)
  a, b = (20 * np.log10(_librosa(s, 2048)) for s in (x, y))
  want = np.mean(np.sqrt(np.mean((a - b) ** 2, 0)))
  np.testing.assert_allclose(D.log_spectral_distance(x[:, None], y[:, None]), want, rtol=1e-6)
  # A gain is its size in dB, whatever the spectrum.
  np.testing.assert_allclose(D.log_spectral_distance(x[:, None], 2 * x[:, None]), 6.0206, rtol=1e-4)


@pytest.mark.parametrize("sr", [8000, 44100])
def test_mel_distances_by_librosa(sr):
  x, y = _noise(9000), _noise(9000, seed=1)
  want, dac, spec = 0, 0, 0
  for n, m, m_dac in ((2048, 80, 150), (512, 40, 80)):
    a, b = _librosa(x, n), _librosa(y, n)
    spec += np.mean(np.abs(2 * np.log10(np.maximum(a, 1e-5) / np.maximum(b, 1e-5))))
    spec += np.mean(np.abs(a - b))
    bank = lambda m: librosa.filters.mel(sr=sr, n_fft=n, n_mels=m, dtype=np.float64)
    floor = lambda s: np.log10(np.maximum(s, 1e-5))
    want += np.mean(np.abs(floor(bank(m) @ a) - floor(bank(m) @ b)))
    c, d = bank(m_dac) @ a, bank(m_dac) @ b
    dac += 2 * np.mean(np.abs(floor(c) - floor(d))) + np.mean(np.abs(c - d))
  x, y = x[:, None], y[:, None]
  np.testing.assert_allclose(D.mel_distance(x, y, sr), want, rtol=1e-6)
  zeros = dict(pad_mode="constant")
  np.testing.assert_allclose(D.dac_mel_distance(x, y, sr, **zeros), dac, rtol=1e-6)
  np.testing.assert_allclose(D.dac_stft_distance(x, y, **zeros), spec, rtol=1e-6)


def _pair(sr, n=22050):
  """A fading chirp in noise, and an estimate that is late, softer and has other noise."""
  i = np.arange(n)
  t, noise = i / sr, (i**2 * 7919 % 10007) / 10007 - 0.5
  chirp = lambda phase: np.sin(2 * np.pi * (220 * t + 900 * t**2) + phase)
  x = 0.4 * chirp(0) * np.exp(-3 * t) + 0.05 * noise
  y = 0.36 * chirp(0.3) * np.exp(-2.8 * t) + 0.03 * np.roll(noise, 777)
  return y.astype(np.float32)[:, None], x.astype(np.float32)[:, None]


# descript-audio-codec 1.0.0 (MelSpectrogramLoss with n_mels=[150, 80], window_lengths=[2048, 512];
# the same with its base.yml; MultiScaleSTFTLoss()), auraloss 0.4.0 (MultiResolutionSTFTLoss(),
# -SISDRLoss() in float64), torch 2.13.
@pytest.mark.parametrize(
  "sr, mel, train_mel, stft, mr_stft, si_sdr",
  [
    (44100, 0.991196, 1.482818, 1.755036, 0.924710, 9.641855),
    (24000, 1.012422, 1.542975, 1.750558, 0.940767, 9.242686),
  ],
)
def test_golden_values_of_public_packages(sr, mel, train_mel, stft, mr_stft, si_sdr):
  pair = _pair(sr)
  np.testing.assert_allclose(D.dac_mel_distance(*pair, sr), mel, rtol=1e-4)
  np.testing.assert_allclose(D.dac_train_mel_distance(*pair, sr), train_mel, rtol=1e-4)
  np.testing.assert_allclose(D.dac_stft_distance(*pair), stft, rtol=1e-4)
  np.testing.assert_allclose(D.mr_stft_distance(*pair), mr_stft, rtol=1e-4)
  np.testing.assert_allclose(D.si_sdr(*pair), si_sdr, rtol=1e-4)


def test_mr_stft_by_librosa():
  x, y = _noise(5000), _noise(5000, seed=1)
  want = 0
  for n, hop, win in D.MR_STFT:
    a, b = (
      np.abs(librosa.stft(s, n_fft=n, hop_length=hop, win_length=win, pad_mode="reflect"))
      for s in (x, y)
    )
    want += np.linalg.norm(a - b) / np.linalg.norm(b) + np.mean(np.abs(np.log(a) - np.log(b)))
  np.testing.assert_allclose(D.mr_stft_distance(x[:, None], y[:, None]), want / 3, rtol=1e-4)
  with pytest.raises(ValueError, match=r"too few to reflect.*pad_mode"):
    D.mr_stft_distance(x[:500, None], y[:500, None])


ALL = [
  D.si_sdr,
  D.log_spectral_distance,
  lambda x, y: D.mel_distance(x, y, 8000),
  lambda x, y: D.dac_mel_distance(x, y, 8000, pad_mode="constant"),
  lambda x, y: D.dac_train_mel_distance(x, y, 8000, pad_mode="constant"),
  lambda x, y: D.dac_stft_distance(x, y, pad_mode="constant"),
  lambda x, y: D.mr_stft_distance(x, y, pad_mode="constant"),
]


@pytest.mark.parametrize("fn", ALL)
def test_per_example_channels_and_namespaces(fn):
  x, y = (_noise(3, 3000, 2, seed=i).astype(np.float32) for i in (0, 1))
  got = fn(x, y)
  assert got.shape == (3,) and got.dtype == np.float32
  np.testing.assert_allclose(got[1], fn(x[1], y[1]), rtol=1e-4)
  channels = [fn(x[..., c : c + 1], y[..., c : c + 1]) for c in (0, 1)]
  np.testing.assert_allclose(got, np.mean(channels, 0), rtol=1e-4)
  np.testing.assert_allclose(jax.jit(fn)(x, y), got, rtol=1e-3)
  assert np.all(np.isfinite(fn(0 * x, y))) and np.all(np.isfinite(fn(x, 0 * y)))
  short = fn(x[:, :100], y[:, :100])  # shorter than any window
  assert np.all(np.isfinite(short))


def test_window_for():
  assert D.window_for(44100, 0.0464) == 2048 and D.window_for(8000, 0.0464) == 512


def test_errors():
  x = _noise(100, 1)
  with pytest.raises(ValueError, match="alike, got"):
    D.si_sdr(x, x[:50])
  with pytest.raises(ValueError, match="estimate is float64, reference float32"):
    D.si_sdr(x, x.astype(np.float32))
  with pytest.raises(ValueError, match="2 windows but 1 numbers"):
    D.mel_distance(x, x, 8000, mels=(80,))
