"""Integrated loudness after ITU-R BS.1770-4, and its normalisation."""

from typing import Any

import numpy as np

from big_audio.dsp.namespace import constant, namespace
from big_audio.dsp.stft import frame

Array = Any
_CHANNEL_GAIN = (1.0, 1.0, 1.0, 1.41, 1.41)  # L R C Ls Rs
_OFFSET = -0.691  # LUFS; a 997 Hz sine of full scale in one channel reads -3.01
_ABSOLUTE_GATE = -70.0  # LUFS
_RELATIVE_GATE = -10.0  # LU
_RING_SECS = 0.25  # the 38 Hz poles have decayed by exp(-60)


def k_weighting(sr: int) -> tuple[np.ndarray, np.ndarray]:
  """The two biquads of K-weighting, a high shelf and a high pass.

  The analog prototypes (De Man, "Evaluation of implementations of the EBU R128 loudness
  measurement", AES 2018) give the table of BS.1770 at 48 kHz to its printed digits, and by the
  bilinear transform the same curve at any rate.

  Args:
    sr: sampling rate in Hz.

  Returns:
    (b, a), float64[2, 3] each, a[:, 0] = 1.

  Raises:
    ValueError: sr too low for the shelf (below 4 kHz).
  """
  if not sr >= 4000:
    raise ValueError(f"k_weighting: expected sr of 4000 Hz or more, got {sr}.")
  k = np.tan(np.pi * 1681.974450955533 / sr)
  q, high = 0.7071752369554196, 10 ** (3.999843853973347 / 20)
  band = high**0.4996667741545416
  shelf_b = np.array([high + band * k / q + k * k, 2 * (k * k - high), high - band * k / q + k * k])
  shelf_a = np.array([1 + k / q + k * k, 2 * (k * k - 1), 1 - k / q + k * k])
  k, q = np.tan(np.pi * 38.13547087602444 / sr), 0.5003270373238773
  pass_a = np.array([1 + k / q + k * k, 2 * (k * k - 1), 1 - k / q + k * k])
  # The high pass is not normalised to unit gain: BS.1770 prints the numerator 1 -2 1.
  b = np.stack([shelf_b / shelf_a[0], [1.0, -2.0, 1.0]])
  return b, np.stack([shelf_a / shelf_a[0], pass_a / pass_a[0]])


def integrated_loudness(wav: Array, sr: int) -> Array:
  """Gated loudness of a programme, in LUFS.

  Blocks of 400 ms every 100 ms; those below -70 LUFS are dropped, then those more than 10 LU below
  the mean of the rest. The filters are applied by an FFT with room for their tails, which equals
  the recursion to rounding and needs no scan.

  Args:
    wav: f32|f64[..., T, C] in [-1, 1] at sr Hz; C = 1, 2, 3 or 5 (L R C Ls Rs).
    sr: sampling rate in Hz.

  Returns:
    [...]; -inf where every block is below -70 LUFS.

  Raises:
    ValueError: shorter than 0.4 s, another number of channels, wrong dtype, sr below 4 kHz.
  """
  xp = namespace("integrated_loudness", wav)
  if wav.ndim < 2 or wav.shape[-1] not in (1, 2, 3, 5):
    raise ValueError(
      f"integrated_loudness: expected [..., T, C] with C = 1, 2, 3 or 5, got {tuple(wav.shape)}. "
      "Drop the LFE channel of a 5.1 signal."
    )
  length, block, hop = wav.shape[-2], round(0.4 * sr), round(0.1 * sr)
  if length < block:
    raise ValueError(
      f"integrated_loudness: expected 0.4 s ({block} samples) or more, got {length}. "
      "Loudness is undefined for less; measure a longer signal."
    )
  x = xp.moveaxis(wav, -1, -2)  # [..., C, T]
  size = _fast_size(length + round(_RING_SECS * sr))
  x = xp.fft.irfft(xp.fft.rfft(x, n=size) * constant(_response(sr, size), wav), n=size)
  power = xp.mean(frame(x[..., :length], block, hop) ** 2, -1)  # [..., C, blocks]
  gain = constant(np.array(_CHANNEL_GAIN[: wav.shape[-1]]), wav)
  power = xp.sum(power * gain[:, None], -2)
  loud = _lufs(xp, power) > _ABSOLUTE_GATE
  relative = _lufs(xp, _mean_where(xp, power, loud))[..., None] + _RELATIVE_GATE
  return _lufs(xp, _mean_where(xp, power, loud & (_lufs(xp, power) > relative)))


def loudness_gain(wav: Array, sr: int, target_lufs: float) -> Array:
  """Factor [...] that brings a signal to `target_lufs`; 1 where it is silent.

  It does not limit: check the peak of the result. Arguments and errors as `integrated_loudness`.
  """
  xp = namespace("loudness_gain", wav)
  now = integrated_loudness(wav, sr)
  heard = xp.isfinite(now)
  return xp.where(heard, 10 ** ((target_lufs - xp.where(heard, now, target_lufs)) / 20), 1)


def _response(sr: int, size: int) -> np.ndarray:
  """Frequency response of K-weighting at the bins of an rfft of `size`."""
  z = np.exp(-2j * np.pi * np.arange(size // 2 + 1) / size)
  b, a = k_weighting(sr)
  out = np.ones_like(z)
  for i in range(2):
    out *= np.polynomial.polynomial.polyval(z, b[i]) / np.polynomial.polynomial.polyval(z, a[i])
  return out


def _fast_size(n: int) -> int:
  """Least 2^a 3^b 5^c >= n."""
  best = 1 << (n - 1).bit_length()
  five = 1
  while five < best:
    three = five
    while three < best:
      best = min(best, three * (1 << max(0, -(-n // three) - 1).bit_length()))
      three *= 3
    five *= 5
  return best


def _lufs(xp: Any, power: Array) -> Array:
  silent = power <= 0
  return xp.where(silent, -np.inf, _OFFSET + 10 * xp.log10(xp.where(silent, 1, power)))


def _mean_where(xp: Any, x: Array, keep: Array) -> Array:
  count = xp.sum(keep.astype(x.dtype), -1)
  return xp.sum(xp.where(keep, x, 0), -1) / xp.maximum(count, 1)
