import jax
import numpy as np
import pytest
import scipy.signal
import soxr

from big_audio.dsp.resample import resample

RATES = [(44100, 16000), (16000, 44100), (8000, 16000), (48000, 44100), (11025, 8000)]


def _tones(sr, secs, top_hz, seed=0):
  """Eight tones below top_hz, as a function of time: the value at any rate is known."""
  rng = np.random.default_rng(seed)
  hz, phase = rng.uniform(20, top_hz, 8), rng.uniform(0, 6, 8)
  t = np.arange(round(sr * secs)) / sr
  return np.sum(0.1 * np.sin(2 * np.pi * hz * t[:, None] + phase), -1)


@pytest.mark.parametrize("sr_in, sr_out", RATES)
def test_passband_is_exact_away_from_the_edges(sr_in, sr_out):
  top = 0.88 * min(sr_in, sr_out) / 2
  y = resample(_tones(sr_in, 0.3, top)[:, None], sr_in, sr_out)[:, 0]
  want = _tones(sr_out, 0.4, top)
  assert len(y) == -(-round(sr_in * 0.3) * sr_out // sr_in)
  inner = slice(len(y) // 4, -len(y) // 4)
  assert np.max(np.abs(y[inner] - want[: len(y)][inner])) < 1e-5


@pytest.mark.parametrize("sr_in, sr_out", RATES)
def test_agrees_with_soxr_and_scipy(sr_in, sr_out):
  rng = np.random.default_rng(0)
  x = rng.standard_normal(round(0.4 * sr_in))
  # Noise below every filter's transition, so that only correct interpolation is compared.
  taps = scipy.signal.firwin(801, 0.8 * min(sr_in, sr_out) / 2, fs=sr_in, window=("kaiser", 12))
  x = scipy.signal.lfilter(taps, 1, x)
  y = resample(x[:, None], sr_in, sr_out)[:, 0]
  up, down = np.array([sr_out, sr_in]) // np.gcd(sr_out, sr_in)
  long = 200 * max(up, down)  # scipy's own filter droops: 46 dB here
  fir = scipy.signal.firwin(2 * long + 1, 0.92 / max(up, down), window=("kaiser", 12))
  for other in (
    soxr.resample(x, sr_in, sr_out, quality="VHQ"),
    scipy.signal.resample_poly(x, up, down, window=fir),
  ):
    assert abs(len(other) - len(y)) <= 1
    inner = slice(len(y) // 4, -len(y) // 4)
    error = np.mean((other[: len(y)][inner] - y[: len(other)][inner]) ** 2)
    assert 10 * np.log10(np.mean(y[inner] ** 2) / error) > 60


def test_stopband_and_images():
  x = np.sin(2 * np.pi * 8200 * np.arange(44100) / 44100)  # beyond 8 kHz
  y = resample(x[:, None], 44100, 16000)[500:-500]
  assert 20 * np.log10(np.sqrt(2 * np.mean(y**2))) < -100
  x = np.sin(2 * np.pi * 3000 * np.arange(8000) / 8000)
  y = resample(x[:, None], 8000, 32000)[2000:-2000, 0]
  spectrum = np.abs(np.fft.rfft(y * np.blackman(len(y))))
  hz = np.fft.rfftfreq(len(y), 1 / 32000)
  assert 20 * np.log10(np.max(spectrum[hz > 4100]) / np.max(spectrum)) < -100


def test_constant_keeps_its_value_and_nothing_is_delayed():
  y = resample(np.ones((4000, 1)), 44100, 16000)
  np.testing.assert_allclose(y[300:-300], 1, atol=1e-7)
  click = np.zeros((441, 1))
  click[147] = 1
  assert np.argmax(resample(click, 44100, 48000)) == 160


def test_shapes_namespaces_and_gradients():
  x = np.random.default_rng(0).standard_normal((2, 3, 1001, 2)).astype(np.float32)
  y = resample(x, 44100, 48000)
  assert y.shape == (2, 3, 1090, 2) and y.dtype == np.float32
  np.testing.assert_allclose(resample(x[1, 2, :, 1:], 44100, 48000), y[1, 2, :, 1:], atol=1e-5)
  jitted = jax.jit(lambda x: resample(x, 44100, 48000))
  np.testing.assert_allclose(jitted(x), y, atol=1e-5)
  _, tangent = jax.jvp(jitted, (x,), (x,))  # linear
  np.testing.assert_allclose(tangent, y, atol=1e-5)
  assert resample(x, 8000, 8000) is x
  for length in (0, 1, 2):
    assert resample(x[..., :length, :], 44100, 16000).shape[-2] == -(-length * 160 // 441)


def test_errors():
  x = np.zeros((10, 1))
  with pytest.raises(ValueError, match=r"44100 to 44099 Hz is 44099/44100 .*Resample at load"):
    resample(x, 44100, 44099)
  with pytest.raises(ValueError, match=r"sr_out to be an integer above 0, got 16000.0"):
    resample(x, 44100, 16000.0)
  with pytest.raises(ValueError, match="0 < rolloff <= 1"):
    resample(x, 44100, 16000, rolloff=2)
  with pytest.raises(ValueError, match=r"expected \[..., T, C\]"):
    resample(x[:, 0], 44100, 16000)
