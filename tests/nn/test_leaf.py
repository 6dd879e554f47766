"""LEAF: filters against the mel scale and their spectra, PCEN against librosa, frames, bounds."""

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from big_audio.nn import leaf

SR = 16000


def test_initial_filters_are_those_of_the_mel_scale():
  centre, _, band = leaf.gabor_init(40, SR, 60.0, 7800.0)
  edges = librosa.mel_frequencies(42, fmin=60, fmax=7800, htk=True)
  np.testing.assert_allclose(centre * SR / (2 * np.pi), edges[1:-1], rtol=1e-6)
  # Where the root of a triangle is above half its peak: the triangle above a quarter.
  hz = np.linspace(0, SR / 2, 200001)
  for m in (0, 17, 39):
    lo, mid, hi = edges[m : m + 3]
    triangle = np.interp(hz, [lo, mid, hi], [0, 1, 0], left=0, right=0)
    above = hz[np.sqrt(triangle) >= 0.5]
    np.testing.assert_allclose(band[m], np.ptp(above), rtol=2e-3)
  with pytest.raises(ValueError, match="sr / 2 = 8000 Hz"):
    leaf.gabor_init(40, SR, 60.0, 9000.0)


def test_spectra_of_the_initial_filters():
  centre, width, band = leaf.gabor_init(40, SR, 60.0, 7800.0)
  re, im = leaf.gabor(jnp.asarray(centre), jnp.asarray(width), 1601)  # long enough for all
  n = 1 << 17
  spectrum = np.abs(np.fft.fft(np.asarray(re) + 1j * np.asarray(im), n, axis=0))
  hz = np.fft.fftfreq(n, 1 / SR)
  peak = spectrum.max(0)
  np.testing.assert_allclose(peak, 1, rtol=1e-3)
  np.testing.assert_allclose(hz[spectrum.argmax(0)], centre * SR / (2 * np.pi), atol=SR / n)
  half = np.sum(spectrum >= peak / 2, axis=0) * SR / n
  np.testing.assert_allclose(half, band, rtol=0.01)


def test_pcen_by_librosa():
  x = np.random.default_rng(0).exponential(size=(2, 30, 3)).astype(np.float32)
  kw = dict(gain=0.8, bias=1.5, power=0.4, b=0.1, eps=1e-3)
  want = [
    librosa.pcen(s.T.astype(np.float64), **kw, zi=0.9 * s[:1].T.astype(np.float64)).T for s in x
  ]
  got = jax.jit(leaf.pcen)(x, 0.8, 1.5, 1 / 0.4, 0.1, 1e-3)
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def front(**kw):
  return leaf.Leaf(**{**dict(sr=SR, filters=20, compress="log"), **kw})


def test_a_sine_excites_its_filter_with_a_quarter():
  model = front()
  centre, _, _ = leaf.gabor_init(20, SR, 60.0, 7800.0)
  m = 11
  wav = np.sin(centre[m] * np.arange(4000))[None, :, None].astype(np.float32)
  both = np.concatenate([wav, 0.1 * wav], axis=2)  # two channels
  y, v = jax.jit(model.init_with_output)(jax.random.key(0), both)
  assert y.shape == (1, 25, 20, 2)
  assert {k: p.shape for k, p in v["params"].items()} == dict.fromkeys(
    ("centre", "width", "pool"), (20,)
  )
  middle = np.asarray(y)[0, 12]
  assert np.argmax(middle[:, 0]) == m
  np.testing.assert_allclose(middle[m, 0], 1 + 2 * np.log10(0.25) / 6, atol=2e-3)
  np.testing.assert_allclose(middle[m, 0] - middle[m, 1], 2 * 2 / 6, atol=2e-3)
  assert np.asarray(y).min() >= -1


@pytest.mark.parametrize("hop", [160, 37])
def test_frames_are_centred_at_multiples_of_the_hop(hop):
  model, samples = front(hop=hop, win=401, floor=1e-30), 1500
  wav = np.zeros((1, samples, 1), np.float32)
  wav[0, 3 * hop] = 1
  y, _ = jax.jit(model.init_with_output)(jax.random.key(0), wav)
  assert y.shape[1] == -(-samples // hop)
  y = np.asarray(y)[0, :, -1, 0]
  assert np.argmax(y) == 3
  np.testing.assert_allclose(y[2], y[4], rtol=1e-3)  # the same on both sides


def test_parameters_out_of_bounds_act_as_at_the_bound_and_come_back():
  model = front(filters=4, compress="pcen", hop=80, win=101)
  x = np.random.default_rng(0).uniform(-1, 1, (1, 400, 1)).astype(np.float32)
  params = jax.jit(model.init)(jax.random.key(0), x)["params"]
  bounds = dict(
    centre=(-0.5, 0.0), width=(0.1, 4 * np.sqrt(2 * np.log(2)) / np.pi), pool=(0.9, 0.5),
    alpha=(1.5, 1.0), root=(0.2, 1.0), delta=(-3.0, 1e-3), smooth=(-0.2, 0.0),
  )  # fmt: skip
  assert set(bounds) == set(params)
  run = jax.jit(jax.value_and_grad(lambda p: jnp.sum(model.apply({"params": p}, x) ** 2)))
  for name, (outside, bound) in bounds.items():
    beyond, g = run(params | {name: np.full(4, outside, np.float32)})
    at, _ = run(params | {name: np.full(4, bound, np.float32)})
    np.testing.assert_allclose(beyond, at, rtol=1e-4, err_msg=name)
    assert np.isfinite(beyond) and (name == "centre" or np.abs(g[name]).max() > 0), name


@pytest.mark.parametrize(
  "kw, shape, words",
  [
    (dict(win=100), (1, 400, 1), "odd win"),
    (dict(compress="pcenn"), (1, 400, 1), "pcenn"),
    (dict(), (1, 400), "waves"),
    (dict(fmin=9000.0), (1, 400, 1), "fmin=9000"),
  ],
)
def test_settings_that_do_not_fit(kw, shape, words):
  with pytest.raises(ValueError, match=words):
    jax.eval_shape(front(**kw).init, jax.random.key(0), np.zeros(shape, np.float32))
