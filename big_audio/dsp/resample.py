"""Resampling by a windowed sinc, for arrays that are already in memory or on a device.

Files are resampled while they are read (soxr, `datasets/audio.py`); this is for tensors inside of
jitted code, as when a 44.1 kHz decoder feeds a 16 kHz embedder.
"""

import functools
import math
from typing import Any

import numpy as np

from big_audio.dsp.namespace import check_positive, constant, namespace, pad_axis
from big_audio.dsp.stft import frame

Array = Any
_MAX_KERNEL = 2**26  # numbers, 256 MB in float32


def resample(
  wav: Array, sr_in: int, sr_out: int, *, zeros: int = 64, rolloff: float = 0.9476
) -> Array:
  """Band-limited interpolation at sr_out (Smith, "Digital audio resampling", 1984-2020).

  Polyphase: M input samples give L outputs, L / M = sr_out / sr_in in lowest terms, as one matrix
  product of frames with an [M + 2 W, L] kernel. Output n lies at time n / sr_out; no delay. The
  defaults (those of resampy's "kaiser_best") are flat to 1e-5 up to 0.88 of the lower Nyquist
  frequency, reach -6 dB at 0.95 and keep images and aliases of what lies beyond 1.02 under -100 dB.

  Args:
    wav: f32|f64[..., T, C] at sr_in Hz.
    sr_in: Hz.
    sr_out: Hz.
    zeros: zero crossings of the sinc on each side; the transition narrows as 1 / zeros.
    rolloff: cut-off as a share of the lower Nyquist frequency.

  Returns:
    [..., ceil(T sr_out / sr_in), C]; the input itself if the rates agree.

  Raises:
    ValueError: rates that are not positive integers, or whose ratio needs a kernel above 256 MB.
  """
  xp = namespace("resample", wav)
  check_positive("resample", sr_in=sr_in, sr_out=sr_out, zeros=zeros)
  if not 0 < rolloff <= 1:
    raise ValueError(f"resample: expected 0 < rolloff <= 1, got {rolloff}.")
  if wav.ndim < 2:
    raise ValueError(f"resample: expected [..., T, C], got shape {tuple(wav.shape)}.")
  if sr_in == sr_out:
    return wav
  divisor = math.gcd(sr_in, sr_out)
  up, down = sr_out // divisor, sr_in // divisor
  width = math.ceil(zeros * max(1, down / up) / rolloff)
  if up * (down + 2 * width) > _MAX_KERNEL:
    raise ValueError(
      f"resample: {sr_in} to {sr_out} Hz is {up}/{down} in lowest terms, too fine for a polyphase "
      "kernel. Resample at load (soxr), or choose rates with a common divisor."
    )
  length = wav.shape[-2]
  out = -(-length * up // down)
  frames = -(-out // up)
  x = xp.moveaxis(wav, -1, -2)  # [..., C, T]
  x = pad_axis(x, -1, width, max(frames * down + width - length, 0))
  x = frame(x, down + 2 * width, down)[..., :frames, :]
  y = xp.matmul(x, constant(_kernel(up, down, width, zeros, rolloff), wav))  # [..., C, F, L]
  y = y.reshape(*y.shape[:-2], frames * up)[..., :out]
  return xp.moveaxis(y, -2, -1)


@functools.lru_cache(maxsize=16)
def _kernel(up: int, down: int, width: int, zeros: int, rolloff: float) -> np.ndarray:
  """float64[down + 2 width, up]: weight of input sample j - width in output p."""
  time = np.arange(down + 2 * width)[:, None] - width - np.arange(up) * down / up  # in inputs
  time *= rolloff * min(1, up / down)  # in zero crossings
  window = np.i0(14.769656459379492 * np.sqrt(np.maximum(1 - (time / zeros) ** 2, 0)))
  window *= (np.abs(time) <= zeros) / np.i0(14.769656459379492)
  kernel = np.sinc(time) * window
  return kernel / kernel.sum(0)  # unit gain at 0 Hz in every phase
