"""The MDCT against its definition, scipy and its own inverse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft

from big_audio.dsp import mdct as M
from big_audio.dsp.windows import MDCT_WINDOWS, mdct_window


def _noise(*shape, dtype=np.float64, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def _definition(wav, hop, window, fn):
  """The sum of the docstring, frame by frame, for [T]."""
  w, n, k = mdct_window(window, hop), np.arange(2 * hop), np.arange(hop)
  basis = np.sqrt(2 / hop) * fn(np.pi / hop * np.outer(k + 0.5, n + 0.5 + hop / 2))
  frames = -(-len(wav) // hop) + 1
  padded = np.zeros((frames + 1) * hop)
  padded[hop : hop + len(wav)] = wav
  return np.stack([basis @ (w * padded[f * hop : (f + 2) * hop]) for f in range(frames)])


@pytest.mark.parametrize("hop", [2, 6, 64, 256])
@pytest.mark.parametrize("method", ["fft", "matmul"])
@pytest.mark.parametrize("window", MDCT_WINDOWS)
def test_equals_the_definition(hop, method, window):
  wav = _noise(5 * hop + 1)
  cos, sin = M.mclt(wav[:, None], hop, window=window, method=method)
  assert cos.shape == (7, hop, 1)
  np.testing.assert_allclose(cos[..., 0], _definition(wav, hop, window, np.cos), atol=1e-11)
  np.testing.assert_allclose(sin[..., 0], _definition(wav, hop, window, np.sin), atol=1e-11)
  only = M.mdct(wav[:, None], hop, window=window, method=method)
  np.testing.assert_allclose(only, cos, atol=1e-12)


@pytest.mark.parametrize("method", ["fft", "matmul", "auto"])
def test_dct4_equals_scipy(method):
  x = _noise(3, 5, 320)
  np.testing.assert_allclose(
    M.dct4(x, method=method), scipy.fft.dct(x, type=4, norm="ortho"), atol=1e-12
  )


@pytest.mark.parametrize("length", [0, 1, 255, 256, 257, 12345])
@pytest.mark.parametrize("hop", [64, 256, 320])
def test_perfect_reconstruction_of_any_length_in_float32(length, hop):
  wav = _noise(2, length, 2, dtype=np.float32)  # loud up to both edges
  for window in MDCT_WINDOWS:
    coef = M.mdct(wav, hop, window=window)
    assert coef.shape == (2, M.num_frames(length, hop), hop, 2) and coef.dtype == np.float32
    back = M.imdct(coef, length, window=window)
    assert back.shape == wav.shape and back.dtype == np.float32
    if length:
      err = np.max(np.abs(back - wav)) ** 2  # the worst sample, not the mean
      assert 10 * np.log10(np.mean(wav**2) / err) > 110
      assert 10 * np.log10(np.mean(wav**2) / np.mean((back - wav) ** 2)) >= 120


def test_perfect_reconstruction_under_jit():
  wav = _noise(2, 12345, 2, dtype=np.float32)
  back = jax.jit(lambda x: M.imdct(M.mdct(x, 256), 12345))(wav)
  assert 10 * np.log10(np.mean(wav**2) / np.mean((back - wav) ** 2)) >= 120


@pytest.mark.parametrize("method", ["fft", "matmul"])
def test_parseval_and_transpose(method):
  wav, other = _noise(1, 1000, 1), _noise(1, 17, 64, 1, seed=1)
  coef = M.mdct(wav, 64, method=method)
  np.testing.assert_allclose(np.sum(coef**2), np.sum(wav**2), rtol=1e-12)
  back = M.imdct(other, 1000, method=method)
  np.testing.assert_allclose(np.sum(coef * other), np.sum(wav * back), rtol=1e-10)


def test_mclt_magnitude_does_not_flicker_with_phase():
  n = np.arange(4096)
  spread = {}
  for name in ("mdct", "mclt"):
    energy = []
    for phase in np.linspace(0, np.pi, 7):
      cos, sin = M.mclt(np.sin(2 * np.pi * 0.0521 * n + phase)[:, None], 128)
      power = cos[8, :, 0] ** 2 + (sin[8, :, 0] ** 2 if name == "mclt" else 0)
      energy.append(np.max(power))
    spread[name] = np.max(energy) / np.min(energy)
  assert spread["mclt"] < 1.05 and spread["mdct"] > 1.5


@pytest.mark.parametrize("hop", [64, 512])
def test_numpy_equals_jitted_jax_and_keeps_dtype(hop):
  wav = _noise(2, 3001, 2, dtype=np.float32)
  a, b = M.mclt(wav, hop)
  assert isinstance(a, np.ndarray) and a.dtype == np.float32
  c, d = jax.jit(lambda x: M.mclt(x, hop))(wav)
  np.testing.assert_allclose(a, c, atol=2e-5)
  np.testing.assert_allclose(b, d, atol=2e-5)
  back = jax.jit(lambda x: M.imdct(x, 3001))(c)
  np.testing.assert_allclose(M.imdct(a, 3001), back, atol=2e-5)


def test_channels_and_batch_entries_are_independent():
  wav = _noise(3, 500, 2)
  coef = M.mdct(wav, 32)
  for b in range(3):
    for c in range(2):
      np.testing.assert_allclose(M.mdct(wav[b, :, c : c + 1], 32)[..., 0], coef[b, ..., c])


@pytest.mark.parametrize("method", ["fft", "matmul"])
def test_gradients(method):
  # Orthonormal: the gradient of half the energy is the signal itself, and the jvp is the transform.
  wav = jnp.asarray(_noise(1, 777, 2, dtype=np.float32))
  forward = lambda x: M.mdct(x, 64, method=method)
  grad = jax.grad(lambda x: 0.5 * jnp.sum(forward(x) ** 2))(wav)
  np.testing.assert_allclose(grad, wav, atol=1e-5)
  tangent = jnp.asarray(_noise(1, 777, 2, dtype=np.float32, seed=3))
  np.testing.assert_allclose(jax.jvp(forward, (wav,), (tangent,))[1], forward(tangent), atol=1e-5)
  round_trip = lambda x: M.imdct(forward(x), 777, method=method)
  np.testing.assert_allclose(jax.vjp(round_trip, wav)[1](tangent)[0], tangent, atol=1e-5)


@pytest.mark.parametrize("method", ["fft", "matmul"])
def test_frame_functions(method):
  frames = _noise(4, 128)
  n, k = np.arange(128), np.arange(64)
  angle = np.pi / 64 * np.outer(n + 0.5 + 32, k + 0.5)
  scale = np.sqrt(2 / 64)
  np.testing.assert_allclose(
    M.frame_mdct(frames, method=method), scale * frames @ np.cos(angle), atol=1e-12
  )
  np.testing.assert_allclose(
    M.frame_mdst(frames, method=method), scale * frames @ np.sin(angle), atol=1e-12
  )
  coef = _noise(4, 64)
  np.testing.assert_allclose(
    M.frame_imdct(coef, method=method), scale * coef @ np.cos(angle).T, atol=1e-12
  )


@pytest.mark.parametrize("kind", MDCT_WINDOWS)
def test_windows_are_power_complementary_symmetric_and_distinct(kind):
  w = mdct_window(kind, 256)
  np.testing.assert_allclose(w[:256] ** 2 + w[256:] ** 2, 1, atol=1e-12)
  np.testing.assert_allclose(w, w[::-1], atol=1e-12)
  others = [mdct_window(k, 256) for k in MDCT_WINDOWS if k != kind]
  assert all(np.max(np.abs(w - o)) > 0.01 for o in others)


def test_kbd_equals_scipy():
  from scipy.signal.windows import kaiser_bessel_derived

  np.testing.assert_allclose(
    mdct_window("kbd", 128), kaiser_bessel_derived(256, beta=4 * np.pi), atol=1e-12
  )


def test_errors():
  wav = np.zeros((100, 1), np.float32)
  with pytest.raises(ValueError, match=r"even hop, got 63. Use 64 or 62"):
    M.mdct(wav, 63)
  with pytest.raises(ValueError, match="above 0, got 0"):
    M.mdct(wav, 0)
  with pytest.raises(ValueError, match=r"above 0, got 64\.0"):
    M.mdct(wav, 64.0)
  with pytest.raises(ValueError, match=r"\[..., T, C\].*wav\[..., None\]"):
    M.mdct(wav[:, 0], 64)
  with pytest.raises(ValueError, match="Did you mean 'vorbis'"):
    M.mdct(wav, 64, window="vorbiss")
  with pytest.raises(ValueError, match="'auto', 'fft', 'matmul'"):
    M.mdct(wav, 64, method="scan")
  with pytest.raises(ValueError, match="float32 or float64, got int16"):
    M.mdct(wav.astype(np.int16), 64)
  with pytest.raises(ValueError, match="numpy or jax array, got list"):
    M.mdct([[0.0]], 64)
  with pytest.raises(ValueError, match="0 to 128 samples, length=129"):
    M.imdct(np.zeros((3, 64, 1)), 129)
  with pytest.raises(ValueError, match="2N samples, N even, got 126"):
    M.frame_mdct(np.zeros((1, 126)))
