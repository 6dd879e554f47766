r"""Oscillators, envelopes and plucked strings, vectorised over time.

All take and return arrays of one namespace (numpy or jax, see `dsp.namespace`); oscillators work on
a phase in cycles, so that any glide or vibrato is a cumulative sum of f/sr.

A sawtooth is summed from its harmonics below the Nyquist frequency: it does not alias. A plucked
string is the Karplus-Strong loop solved in the frequency domain instead of sample by sample: exact
fractional delays (in tune at every pitch) and no Python loop.
"""

import math
from typing import Any

import numpy as np

from big_audio.dsp.namespace import namespace

Array = Any
_TABLE = 4096  # samples of one period; its linear interpolation is 70 dB down at 200 harmonics


def phase(hz: Array, sr: float) -> Array:
  """Phase in cycles of an oscillator, starting at 0.

  Args:
    hz: f[...,T] frequency at each sample.
    sr: samples per second.

  Returns:
    f[...,T], the same dtype.
  """
  xp = namespace("synth.phase", hz)
  steps = hz / sr
  # In float64 where numpy has it: the sum of float32 steps drifts audibly within seconds.
  if xp is np:
    return (np.cumsum(steps, axis=-1, dtype=np.float64) - steps).astype(hz.dtype)
  return xp.cumsum(steps, axis=-1) - steps


def harmonics(cycles: Array, weights: Array) -> Array:
  """Sum of sines at whole multiples: sum_k weights[k-1] sin(2 pi k cycles).

  Args:
    cycles: f[T] phase in cycles.
    weights: f[K] amplitude of harmonics 1..K.

  Returns:
    f[T].

  Raises:
    ValueError: more than 512 harmonics.
  """
  xp = namespace("synth.harmonics", cycles)
  count = weights.shape[0]
  if count > _TABLE // 8:
    raise ValueError(f"synth.harmonics: at most {_TABLE // 8} harmonics, got {count}.")
  # One period from its spectrum (a sine is -i/2 at its line), then linear interpolation: the same
  # cost for any number of harmonics.
  lines = xp.concatenate([xp.zeros(1, weights.dtype), weights]) * (-0.5j * _TABLE)
  period = xp.fft.irfft(lines, _TABLE).astype(cycles.dtype)
  at = (cycles - xp.floor(cycles)) * _TABLE
  left = xp.minimum(at.astype("int32"), _TABLE - 1)  # rounding may reach the end of the period
  low = xp.take(period, left)
  return low + (at - left.astype(at.dtype)) * (xp.take(xp.roll(period, -1), left) - low)


def saw(cycles: Array, count: int, brightness: float = 1.0) -> Array:
  """Band-limited sawtooth, sum_{k=1..count} (2/pi) brightness^(k-1) / k sin(2 pi k cycles).

  Args:
    cycles: f[T] phase in cycles.
    count: harmonics; below Nyquist if count < sr / (2 max hz).
    brightness: in (0,1]; 1 is the sawtooth, less rolls the harmonics off.

  Returns:
    f[T], about [-1,1] (and Gibbs' 18 % beyond).
  """
  k = np.arange(1, count + 1)
  weights = 2 / math.pi * brightness ** (k - 1) / k
  return harmonics(cycles, weights.astype(str(cycles.dtype)))


def fm(cycles: Array, ratio: float, index: Array) -> Array:
  """Two-operator FM: sin(2 pi cycles + index sin(2 pi ratio cycles)) (Chowning, 1973).

  Args:
    cycles: f[T] phase of the carrier in cycles.
    ratio: modulator by carrier frequency.
    index: f[T] or a number, modulation index in radians.

  Returns:
    f[T] in [-1,1].
  """
  xp = namespace("synth.fm", cycles)
  tau = 2 * math.pi
  modulator = ratio * cycles
  return xp.sin(
    tau * (cycles - xp.floor(cycles)) + index * xp.sin(tau * (modulator - xp.floor(modulator)))
  )


def modal(t: Array, hz: Array, decay_secs: Array, amps: Array) -> Array:
  """Decaying partials: sum_m amps[m] sin(2 pi hz[m] t) exp(-t / decay_secs[m]).

  Args:
    t: f[T] seconds.
    hz: f[M].
    decay_secs: f[M] time to fall to 1/e.
    amps: f[M].

  Returns:
    f[T].
  """
  xp = namespace("synth.modal", t)
  cycles = hz[:, None] * t
  rings = xp.sin(2 * math.pi * (cycles - xp.floor(cycles)))
  return xp.einsum("m,mt->t", amps, rings * xp.exp(-t / decay_secs[:, None]))


def pluck(excitation: Array, n: int, hz: float, decay_secs: float, sr: float) -> Array:
  r"""Karplus-Strong string, y[t] = x[t] + g ((1-s) y[t-D] + s y[t-D-1]).

  Karplus and Strong (1983) have s = 1/2, g = 1; the fractional delay D and the stretched decay
  s < 1/2 are of Jaffe and Smith (1983): plain averaging would end high notes within milliseconds.
  The loop is applied on the circle |z| = r > 1 and undone by r^t, which pushes what wraps around
  in the DFT 80 dB down; in float32 the end of the sound carries an error of -70 dB of its peak.

  Args:
    excitation: f[L] what sets the string in motion, usually one period of noise without mean.
    n: samples to return.
    hz: fundamental, below sr/2.
    decay_secs: the fundamental falls to 1/e in this time; harmonics fall faster.
    sr: samples per second.

  Returns:
    f[n].
  """
  xp = namespace("synth.pluck", excitation)
  gain, stretch, delay = string_loop(hz, decay_secs, sr)
  size = 1 << (n + math.ceil(sr / hz) - 1).bit_length()
  radius = 10 ** (4 / size)  # r^size = 1e4
  # float64: w * delay reaches thousands of radians.
  w = 2 * math.pi / size * np.arange(size // 2 + 1)
  average = (1 - stretch) + stretch / radius * np.exp(-1j * w)
  response = 1 / (1 - gain * radius**-delay * np.exp(-1j * delay * w) * average)
  ramp = (radius ** np.arange(n)).astype(str(excitation.dtype))
  short = excitation[:n]
  spectrum = xp.fft.rfft(short / ramp[: short.shape[0]], size)
  spectrum = spectrum * response.astype(str(spectrum.dtype))
  return xp.fft.irfft(spectrum, size)[:n].astype(excitation.dtype) * ramp


def string_loop(hz: float, decay_secs: float, sr: float) -> tuple[float, float, float]:
  """(g, s, D) of `pluck`'s loop for a fundamental of `hz` that falls to 1/e in `decay_secs`."""
  w = 2 * math.pi * hz / sr
  keep = math.exp(-1 / (hz * decay_secs))  # of the fundamental, per period
  # |1-s + s e^-jw|^2 = 1 - 2 s (1-s) (1 - cos w) must not fall below keep^2, or g would exceed 1.
  room = 0.8 * (1 - keep**2) / (2 * (1 - math.cos(w)))
  stretch = (1 - math.sqrt(1 - min(4 * room, 1.0))) / 2
  real, imag = 1 - stretch + stretch * math.cos(w), stretch * math.sin(w)
  return keep / math.hypot(real, imag), stretch, sr / hz - math.atan2(imag, real) / w


def decay(t: Array, attack_secs: float, decay_secs: float) -> Array:
  """Percussive envelope: a raised-cosine attack, then exp(-t / decay_secs); 0 before t = 0.

  Args:
    t: f[T] seconds since the onset (may be negative).
    attack_secs: above 0.
    decay_secs: above 0.

  Returns:
    f[T] in [0,1].
  """
  xp = namespace("synth.decay", t)
  rise = 0.5 - 0.5 * xp.cos(math.pi * xp.clip(t / attack_secs, 0, 1))
  return rise * xp.exp(-xp.maximum(t - attack_secs, 0) / decay_secs)


def gate(t: Array, off_secs: float, release_secs: float) -> Array:
  """1 until `off_secs`, then a raised-cosine fall to 0 over `release_secs`; f[T] -> f[T]."""
  xp = namespace("synth.gate", t)
  return 0.5 + 0.5 * xp.cos(math.pi * xp.clip((t - off_secs) / release_secs, 0, 1))


def band_noise(noise: Array, hz: float, width: float, sr: float) -> Array:
  """Noise through a bell of log frequency: gain exp(-(log2(f/hz)/width)^2 / 2), in the spectrum.

  Args:
    noise: f[T].
    hz: centre.
    width: in octaves.
    sr: samples per second.

  Returns:
    f[T].
  """
  xp = namespace("synth.band_noise", noise)
  size = noise.shape[0]
  f = np.maximum(np.fft.rfftfreq(size, 1 / sr), 1e-3)
  gain = np.exp(-0.5 * (np.log2(f / hz) / width) ** 2).astype(str(noise.dtype))
  return xp.fft.irfft(xp.fft.rfft(noise) * gain, size).astype(noise.dtype)
