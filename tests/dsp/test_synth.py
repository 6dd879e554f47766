"""Oscillators and strings against their plain, sample-by-sample definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_audio.dsp import synth

SR = 8000
T = np.arange(4000) / SR


def test_phase_is_the_running_sum_from_zero():
  hz = np.linspace(100, 900, 4000)
  want = np.concatenate([[0], np.cumsum(hz[:-1] / SR)])
  np.testing.assert_allclose(synth.phase(hz, SR), want, atol=1e-9)
  constant = synth.phase(np.full(600_000, 440.0, np.float32), 44100)
  # A float32 can say 6000 cycles to 5e-4 and no better; a float32 sum would be off by whole cycles.
  np.testing.assert_allclose(constant[-1], 440 * 599_999 / 44100, atol=1e-3)


def test_harmonics_equal_the_sum_of_sines():
  weights = np.random.default_rng(0).standard_normal(20)
  cycles = synth.phase(np.linspace(50, 200, 4000), SR)
  want = sum(w * np.sin(2 * np.pi * (k + 1) * cycles) for k, w in enumerate(weights))
  np.testing.assert_allclose(synth.harmonics(cycles, weights), want, atol=2e-3)
  assert not synth.harmonics(cycles, weights[:0]).any()
  with pytest.raises(ValueError, match="at most 512"):
    synth.harmonics(cycles, np.ones(513))


def test_saw_is_the_fourier_series_of_a_saw_and_does_not_alias():
  cycles = 100 / SR * np.arange(SR)
  out = synth.saw(cycles, 39)
  want = sum(2 / np.pi / k * np.sin(2 * np.pi * k * cycles) for k in range(1, 40))
  np.testing.assert_allclose(out, want, atol=1e-3)
  odd = np.arange(SR) * 777.0 / SR
  lines = np.abs(np.fft.rfft(synth.saw(odd, 5))) / SR * 2
  harmonic = np.zeros(len(lines), bool)
  harmonic[777 * np.arange(1, 6)] = True
  assert lines[~harmonic].max() < 2e-4 and lines[777 * 5] > 0.1  # no line off the harmonics


def test_fm_and_modal_equal_their_formulas():
  cycles = 440 * T
  want = np.sin(2 * np.pi * cycles + 3 * np.sin(2 * np.pi * 1.41 * cycles))
  np.testing.assert_allclose(synth.fm(cycles, 1.41, 3.0), want, atol=1e-9)
  hz, decay, amps = np.array([300.0, 811.0]), np.array([0.2, 0.1]), np.array([1.0, 0.5])
  want = sum(
    a * np.sin(2 * np.pi * h * T) * np.exp(-T / d) for h, d, a in zip(hz, decay, amps, strict=True)
  )
  np.testing.assert_allclose(synth.modal(T, hz, decay, amps), want, atol=1e-9)


@pytest.mark.parametrize("period,decay_secs", [(10, 0.05), (40, 0.3), (101, 0.02)])
def test_pluck_equals_the_loop(period, decay_secs):
  lo, hi = SR / (period + 1.0), SR / (period - 0.1)  # the pitch whose delay is a whole number
  for _ in range(60):
    hz = (lo + hi) / 2
    lo, hi = (hz, hi) if synth.string_loop(hz, decay_secs, SR)[2] > period else (lo, hz)
  gain, stretch, delay = synth.string_loop(hz, decay_secs, SR)
  assert abs(delay - period) < 1e-6 and gain < 1 and 0 < stretch <= 0.5
  noise = np.random.default_rng(0).standard_normal(period)
  y = np.zeros(4000)
  for t in range(4000):
    y[t] = noise[t] if t < period else 0
    if t >= period:
      y[t] += gain * (1 - stretch) * y[t - period]
    if t > period:
      y[t] += gain * stretch * y[t - period - 1]
  out = synth.pluck(noise, 4000, hz, decay_secs, SR)
  np.testing.assert_allclose(out, y, atol=1e-3 * abs(y).max())


@pytest.mark.parametrize("hz", [97.3, 440.0, 1234.5])
def test_pluck_is_in_tune_and_decays_as_told(hz):
  n = 4 * SR
  noise = np.random.default_rng(1).standard_normal(int(SR / hz))
  y = synth.pluck(noise - noise.mean(), n, hz, 0.5, SR)
  lines = np.abs(np.fft.rfft(y * np.hanning(n)))
  near = slice(int((hz - 20) * 4), int((hz + 20) * 4))
  assert abs((near.start + lines[near].argmax()) / 4 - hz) < 0.3
  level = lambda at: abs(np.sum((y * np.exp(-2j * np.pi * hz * np.arange(n) / SR))[at : at + 800]))
  np.testing.assert_allclose(level(4000) / level(8000), np.e, rtol=0.05)


def test_envelopes():
  t = np.linspace(-0.1, 1, 1101)
  y = synth.decay(t, 0.01, 0.2)
  assert not y[t < 0].any() and y.max() <= 1
  np.testing.assert_allclose(y[np.searchsorted(t, 0.21 - 1e-9)], np.exp(-1), rtol=1e-2)
  g = synth.gate(t, 0.5, 0.1)
  assert (g[t <= 0.5] == 1).all() and abs(g[t >= 0.6]).max() < 1e-12


def test_band_noise_keeps_its_band():
  y = synth.band_noise(np.random.default_rng(0).standard_normal(8192), 1000, 0.3, SR)
  power = np.abs(np.fft.rfft(y)) ** 2
  f = np.fft.rfftfreq(8192, 1 / SR)
  assert power[(f > 500) & (f < 2000)].sum() > 0.999 * power.sum()


def test_jax_and_numpy_agree_and_keep_float32():
  t = T.astype(np.float32)
  noise = np.random.default_rng(0).standard_normal(64).astype(np.float32)
  calls = [
    lambda xp: synth.saw(synth.phase(xp.full(4000, 123.0, "float32"), SR), 20, 0.9),
    lambda xp: synth.fm(xp.asarray(t) * 100, 2, 1.5),
    lambda xp: synth.pluck(xp.asarray(noise), 1000, 125.0, 0.2, SR),
    lambda xp: synth.decay(xp.asarray(t), 0.01, 0.1) * synth.gate(xp.asarray(t), 0.3, 0.1),
    lambda xp: synth.band_noise(xp.asarray(noise), 900.0, 0.5, SR),
  ]
  for call in calls:
    a, b = call(np), jax.jit(lambda call=call: call(jnp))()
    assert a.dtype == np.float32 and b.dtype == np.float32
    np.testing.assert_allclose(a, b, atol=2e-3)
