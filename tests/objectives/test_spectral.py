import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
from scipy import fft

from big_audio.objectives import spectral as P

SMALL = dict(mel_windows=(128, 256), mels=(16, 32), stft_windows=(128,))  # quick to compile
LOSSES = {
  "wave": lambda x, y, m=None: P.wave_l1(x, y, m),
  "mel": lambda x, y, m=None: P.mel_l1(x, y, 8000, windows=(128, 512), mels=(16, 64), mask=m),
  "stft": lambda x, y, m=None: P.stft_l1(x, y, windows=(128, 512), mask=m),
  "multi": lambda x, y, m=None: P.multi_scale_spectral(x, y, windows=(64, 512), mask=m),
  "loudness": lambda x, y, m=None: P.loudness_l1(x, y, 8000, mask=m),
  "mdct": lambda x, y, m=None: P.mdct_l1(x, y, windows=(64, 256), mask=m),
  "all": lambda x, y, m=None: P.reconstruction(x, y, 8000, mask=m, **SMALL)[0],
}


def _noise(*shape, seed=0):
  return 0.1 * np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _librosa(wav, n_fft):
  return np.abs(librosa.stft(wav, n_fft=n_fft, hop_length=n_fft // 4, pad_mode="constant"))


def test_values_by_librosa():
  x, y = _noise(2, 1000, 1), _noise(2, 1000, 1, seed=1)
  for b in range(2):
    a, c = (_librosa(s[b, :, 0].astype(np.float64), 256) for s in (x, y))
    bank = librosa.filters.mel(sr=8000, n_fft=256, n_mels=20, dtype=np.float64)
    want = np.mean(np.abs(np.log10(bank @ a + 1e-5) - np.log10(bank @ c + 1e-5)))
    got = P.mel_l1(x, y, 8000, windows=(256,), mels=(20,))[b]
    np.testing.assert_allclose(got, want, rtol=1e-4)
    unit = np.sqrt(np.sum(librosa.filters.get_window("hann", 256) ** 2))
    want = np.mean(np.abs((a / unit) ** 0.3 - (c / unit) ** 0.3))
    np.testing.assert_allclose(P.stft_l1(x, y, windows=(256,))[b], want, rtol=1e-3)
    short = [_librosa(s[b, :, 0].astype(np.float64), 64) for s in (x, y)]
    want = (np.mean(np.abs(a - c)) + np.mean(np.abs(short[0] - short[1]))) / 2
    got = P.multi_scale_spectral(x, y, windows=(256, 64))[b]
    np.testing.assert_allclose(got, want, rtol=1e-3)
    bank = librosa.filters.mel(sr=8000, n_fft=256, n_mels=24, norm=None, dtype=np.float64)
    diff = (bank @ (a / unit) ** 2) ** 0.23 - (bank @ (c / unit) ** 2) ** 0.23
    want = np.mean(np.where(diff > 0, 3 * diff, -diff))
    np.testing.assert_allclose(P.loudness_l1(x, y, 8000, excess=3)[b], want, rtol=1e-4)
    np.testing.assert_allclose(P.wave_l1(x, y)[b], np.mean(np.abs(x - y)[b]), rtol=1e-5)


def test_compressed_mdct_by_scipy():
  x, y = _noise(2, 500, 2), _noise(2, 500, 2, seed=1)
  n, window = 32, np.sin(np.pi / 64 * (np.arange(64) + 0.5))

  def frames(wav):
    padded = np.pad(wav, (n, 2 * n))
    for f in range(500 // n + 1):  # centred on 0, 32, ... 480
      a, b, c, d = np.split(window * padded[f * n : (f + 2) * n], 4)
      coefs = fft.dct(np.concatenate([-c[::-1] - d, a - b[::-1]]), type=4, norm="ortho")
      yield np.sign(coefs) * np.abs(coefs) ** 0.3

  loss = jax.jit(lambda x, y: P.mdct_l1(x, y, windows=(64,)))
  got = loss(x, y)
  for b in range(2):
    a, c = (np.array([list(frames(s[b, :, k])) for k in range(2)]) for s in (x, y))
    np.testing.assert_allclose(got[b], np.mean(np.abs(a - c)), rtol=1e-4)
  # A change of sign, which magnitudes do not hear, costs twice what silence does.
  np.testing.assert_allclose(loss(x, -x), 2 * loss(x, 0 * x), rtol=1e-5)


def test_excess_costs_more_than_lack():
  quiet, loud = _noise(1, 2000, 1), 2 * _noise(1, 2000, 1)
  np.testing.assert_allclose(
    P.loudness_l1(loud, quiet, 8000),
    2 * P.loudness_l1(quiet, loud, 8000),
    rtol=1e-4,
  )


@pytest.mark.parametrize("name", LOSSES)
def test_per_example_zero_at_equality_and_finite_gradients(name):
  loss = jax.jit(LOSSES[name])
  x, y = _noise(3, 800, 2), _noise(3, 800, 2, seed=1)
  value = loss(x, y)
  assert value.shape == (3,) and value.dtype == jnp.float32 and np.all(value > 0)
  np.testing.assert_allclose(loss(x, x), 0, atol=1e-6)
  np.testing.assert_allclose(loss(x[1:2], y[1:2])[0], value[1], rtol=1e-4)
  grad = jax.jit(jax.grad(lambda x, y: jnp.sum(LOSSES[name](x, y))))
  silence = np.zeros_like(x)
  for pred in (silence, x):
    for target in (silence, y):
      assert np.all(np.isfinite(grad(pred, target)))
  assert np.max(np.abs(grad(x, y))) > 0


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("length", [640, 677])
def test_padding_behind_a_mask_changes_nothing(name, length):
  x, y = _noise(2, 1024, 1), _noise(2, 1024, 1, seed=1)
  mask = np.arange(1024)[None] < np.array([[length], [0]])
  loss = jax.jit(LOSSES[name])
  got = loss(x, y, mask)
  alone = loss(x[:1, :length], y[:1, :length])
  np.testing.assert_allclose(got[0], alone[0], rtol=1e-5)
  np.testing.assert_allclose(got[1], 0)  # no signal at all
  full = loss(x, y, np.ones((2, 1024), bool))
  np.testing.assert_allclose(full, loss(x, y), rtol=1e-5)


def test_the_sum_is_of_its_parts():
  x, y = _noise(1, 2000, 1), _noise(1, 2000, 1, seed=1)
  total, parts = jax.jit(lambda x, y: P.reconstruction(x, y, 8000, **SMALL))(x, y)
  single = {
    "wave": P.wave_l1(x, y),
    "mel": P.mel_l1(x, y, 8000, windows=(128, 256), mels=(16, 32)),
    "stft": P.stft_l1(x, y, windows=(128,)),
    "loudness": P.loudness_l1(x, y, 8000),
  }
  for name, value in single.items():
    np.testing.assert_allclose(parts[name], value, rtol=1e-4)
  np.testing.assert_allclose(total, sum(P.WEIGHTS[k] * v for k, v in single.items()), rtol=1e-4)
  total, parts = P.reconstruction(x, y, 8000, weights={"wave": 2.0})
  assert list(parts) == ["wave"]
  np.testing.assert_allclose(total, 2 * parts["wave"])
  total, parts = P.reconstruction(x, y, 8000, weights={"mdct": 3.0}, mdct_windows=(64,))
  np.testing.assert_allclose(total, 3 * P.mdct_l1(x, y, windows=(64,)))


def test_the_order_of_weights_and_zeros_change_nothing():
  x, y = _noise(4, 2000, 1), _noise(4, 2000, 1, seed=1)
  want, parts = jax.jit(lambda x, y: P.reconstruction(x, y, 8000, **SMALL))(x, y)
  weights = dict(sorted({**P.WEIGHTS, "mdct": 0.0}.items()))
  got, same = jax.jit(lambda x, y: P.reconstruction(x, y, 8000, weights=weights, **SMALL))(x, y)
  np.testing.assert_array_equal(got, want)
  assert set(same) == set(parts) == set(P.WEIGHTS)


def test_descent_from_near_silence_finds_the_level():
  # A floor that cuts off the gradient below it could never start.
  y = _noise(1, 1024, 1)
  x = 1e-4 * _noise(1, 1024, 1, seed=1)
  grad = jax.jit(jax.grad(lambda g: P.reconstruction(g * x, y, 8000, **SMALL)[0].sum()))
  assert grad(1.0) < 0


def test_errors():
  x = _noise(1, 800, 1)
  with pytest.raises(ValueError, match=r"\[B, T, C\] alike"):
    P.wave_l1(x, x[:, :-1])
  with pytest.raises(ValueError, match=r"expected mask \(1, 800\), got \(1, 4\)"):
    P.wave_l1(x, x, np.ones((1, 4), bool))
  with pytest.raises(ValueError, match="leaves some of 80 mel filters without a bin"):
    P.mel_l1(x, x, 8000, windows=(128,), mels=(80,))
  with pytest.raises(ValueError, match="2 windows but 1 numbers"):
    P.mel_l1(x, x, 8000, windows=(128, 256), mels=(16,))
  with pytest.raises(ValueError, match="expected weights >= 0 for some of"):
    P.reconstruction(x, x, 8000, weights={"mle": 1.0})
  for weights in ({}, {"mel": 0.0}, {"mel": 1.0, "wave": -1.0}):
    with pytest.raises(ValueError, match="one of them above 0"):
      P.reconstruction(x, x, 8000, weights=weights)
  with pytest.raises(ValueError, match="mdct_l1.*multiples of 4, got 102"):
    P.mdct_l1(x, x, windows=(102,))
  with pytest.raises(ValueError, match="multiples of 4, got 102"):
    P.stft_l1(x, x, windows=(102,))
