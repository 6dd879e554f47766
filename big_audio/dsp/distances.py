"""Distances between a reference and an estimate, per example, for evaluation.

All take numpy or jax arrays [..., T, C] of equal shape and return one number for each leading
index, averaged over channels. To train, use `objectives.spectral`, whose gradients are finite.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from big_audio.dsp.mel import magnitude, mel_bank
from big_audio.dsp.namespace import constant, namespace
from big_audio.dsp.stft import stft

Array = Any
DAC_WINDOWS = (2048, 512)
DAC_MELS = (150, 80)
DAC_TRAIN_WINDOWS = (32, 64, 128, 256, 512, 1024, 2048)
DAC_TRAIN_MELS = (5, 10, 20, 40, 80, 160, 320)
# (FFT, hop, window) in samples, of the multi-resolution STFT distance.
MR_STFT = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))


def si_sdr(estimate: Array, reference: Array) -> Array:
  """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 1811.02508, eq. 5).

  Both signals lose their mean first. Identical signals give about 150 dB in float32, silence and
  whatever else has none of the reference -150 dB.

  Args:
    estimate: f32|f64[..., T, C].
    reference: same shape.

  Returns:
    [...], dB.

  Raises:
    ValueError: shapes or types disagree.
  """
  xp = _check("si_sdr", estimate, reference)
  x = estimate - xp.mean(estimate, axis=-2, keepdims=True)
  s = reference - xp.mean(reference, axis=-2, keepdims=True)
  tiny = 1e-20
  gain = xp.sum(x * s, -2, keepdims=True) / (xp.sum(s * s, -2, keepdims=True) + tiny)
  target = gain * s
  signal, noise = xp.sum(target**2, -2), xp.sum((x - target) ** 2, -2)
  # 1e-15 keeps both ends finite; silence has none of the reference and lands at the lower one.
  ratio = signal / (noise + 1e-15 * xp.sum(x**2, -2) + tiny)
  return xp.mean(10 * xp.log10(xp.maximum(ratio, 1e-15)), -1)


def log_spectral_distance(
  estimate: Array, reference: Array, *, window: int = 2048, floor: float = 1e-10
) -> Array:
  """LSD = mean_t sqrt(mean_f (difference in dB)^2) (Gray and Markel 1976).

  Args:
    estimate: f32|f64[..., T, C] in [-1, 1].
    reference: same shape.
    window: Hann window in samples, hop a quarter; see `window_for`.
    floor: least power |X|^2, before the logarithm.

  Returns:
    [...], dB.

  Raises:
    ValueError: shapes or types disagree.
  """
  xp = _check("log_spectral_distance", estimate, reference)
  a, b = (
    10 * xp.log10(xp.maximum(magnitude(_spec(s, window), 2), floor)) for s in (estimate, reference)
  )
  per_frame = xp.sqrt(xp.mean((a - b) ** 2, -2))  # [..., F, C]
  return xp.mean(per_frame, (-2, -1))


def mel_distance(
  estimate: Array,
  reference: Array,
  sr: int,
  *,
  windows: Sequence[int] = (2048, 512),
  mels: Sequence[int] = (80, 40),
  floor: float = 1e-5,
) -> Array:
  """Sum over windows of mean |log10 mel - log10 mel'|, of magnitudes clamped at `floor`.

  Args:
    estimate: f32|f64[..., T, C] in [-1, 1] at sr Hz.
    reference: same shape.
    sr: sampling rate in Hz.
    windows: Hann windows in samples, hop a quarter. The same at every rate, so that numbers of one
      rate compare; those of different rates do not.
    mels: filters for each window (Slaney scale and normalisation, 0 to sr / 2).
    floor: least mel magnitude.

  Returns:
    [...], in decades of amplitude, summed over windows.

  Raises:
    ValueError: shapes, types or lengths disagree.
  """
  xp = _check("mel_distance", estimate, reference)
  _check_lengths("mel_distance", windows, mels)
  total = 0.0
  for window, m in zip(windows, mels, strict=True):
    a, b = (xp.log10(xp.maximum(_mel(s, sr, window, m), floor)) for s in (estimate, reference))
    total = total + xp.mean(xp.abs(a - b), (-3, -2, -1))
  return total


def dac_mel_distance(
  estimate: Array,
  reference: Array,
  sr: int,
  *,
  windows: Sequence[int] = DAC_WINDOWS,
  mels: Sequence[int] = DAC_MELS,
  floor: float = 1e-5,
  log_power: float = 2.0,
  mag_weight: float = 1.0,
  pad_mode: str = "reflect",
) -> Array:
  """Mel loss of descript-audio-codec (`dac/nn/loss.py: MelSpectrogramLoss`) as a metric.

  Sum over windows of mean |log10 mel^2 - log10 mel'^2| + mean |mel - mel'|. Defaults are those of
  its evaluation script; `dac_train_mel_distance` has those of its training configuration.

  Args:
    estimate: f32|f64[..., T, C] in [-1, 1] at sr Hz.
    reference: same shape.
    sr: sampling rate in Hz.
    windows: in samples, hop a quarter.
    mels: filters for each window.
    floor: least mel magnitude.
    log_power: exponent inside of the logarithm.
    mag_weight: of the difference without logarithm.
    pad_mode: beyond the edges: "reflect", as published, needs clips longer than half a window;
      "constant" (zeros) takes any.

  Returns:
    [...].

  Raises:
    ValueError: shapes, types or lengths disagree, or the clips are too short to be reflected.
  """
  xp = _check("dac_mel_distance", estimate, reference)
  _check_lengths("dac_mel_distance", windows, mels)
  total = 0.0
  for window, m in zip(windows, mels, strict=True):
    a, b = (_mel(s, sr, window, m, pad_mode) for s in (estimate, reference))
    log = log_power * (xp.log10(xp.maximum(a, floor)) - xp.log10(xp.maximum(b, floor)))
    total = total + xp.mean(xp.abs(log) + mag_weight * xp.abs(a - b), (-3, -2, -1))
  return total


def dac_train_mel_distance(
  estimate: Array, reference: Array, sr: int, *, pad_mode: str = "reflect"
) -> Array:
  """`dac_mel_distance` as descript-audio-codec trains with it: 7 windows, log magnitudes alone."""
  return dac_mel_distance(
    estimate, reference, sr, windows=DAC_TRAIN_WINDOWS, mels=DAC_TRAIN_MELS, log_power=1.0,
    mag_weight=0.0, pad_mode=pad_mode,
  )  # fmt: skip


def dac_stft_distance(
  estimate: Array,
  reference: Array,
  *,
  windows: Sequence[int] = DAC_WINDOWS,
  floor: float = 1e-5,
  pad_mode: str = "reflect",
) -> Array:
  """STFT loss of descript-audio-codec (`MultiScaleSTFTLoss`): `dac_mel_distance` without mels."""
  xp = _check("dac_stft_distance", estimate, reference)
  total = 0.0
  for window in windows:
    a, b = (magnitude(_spec(s, window, pad_mode)) for s in (estimate, reference))
    log = 2 * (xp.log10(xp.maximum(a, floor)) - xp.log10(xp.maximum(b, floor)))
    total = total + xp.mean(xp.abs(log) + xp.abs(a - b), (-3, -2, -1))
  return total


def mr_stft_distance(
  estimate: Array,
  reference: Array,
  *,
  resolutions: Sequence[tuple[int, int, int]] = MR_STFT,
  floor: float = 1e-8,
  pad_mode: str = "reflect",
) -> Array:
  """Multi-resolution STFT distance (Yamamoto et al. 1910.11480, eq. 6; auraloss's defaults).

  Mean over resolutions of | |X| - |Y| |_F / | |Y| |_F (spectral convergence, Y the reference) and
  mean |ln|X| - ln|Y||. Spectral convergence is of one example; averages over a batch differ from
  those of implementations that take one norm over the batch.

  Args:
    estimate: f32|f64[..., T, C].
    reference: same shape.
    resolutions: (FFT size, hop, window) in samples.
    floor: least power |X|^2.
    pad_mode: see `dac_mel_distance`.

  Returns:
    [...].

  Raises:
    ValueError: see `dac_mel_distance`.
  """
  xp = _check("mr_stft_distance", estimate, reference)
  total = 0.0
  for n_fft, hop, win in resolutions:
    specs = (stft(s, n_fft, hop, win=win, pad_mode=pad_mode) for s in (estimate, reference))
    a, b = (xp.sqrt(xp.maximum(magnitude(s, 2), floor)) for s in specs)  # [..., F, K, C]
    norm = lambda x: xp.sqrt(xp.sum(x**2, (-3, -2)))
    convergence = xp.mean(norm(a - b) / norm(b), -1)
    total = total + convergence + xp.mean(xp.abs(xp.log(a) - xp.log(b)), (-3, -2, -1))
  return total / len(resolutions)


def window_for(sr: int, secs: float) -> int:
  """The power of two nearest to `secs` at `sr` Hz, at least 16 (46 ms is 2048 at 44.1 kHz)."""
  if not sr * secs > 0:
    raise ValueError(f"window_for: expected sr and secs above 0, got {sr} and {secs}.")
  return max(16, 2 ** round(np.log2(sr * secs)))


def _spec(wav: Array, window: int, pad_mode: str = "constant") -> Array:
  # Zeros beyond the edges unless a published measure says otherwise: a clip may be shorter than a
  # window.
  return stft(wav, window, window // 4, pad_mode=pad_mode)


def _mel(wav: Array, sr: int, window: int, n_mels: int, pad_mode: str = "constant") -> Array:
  mag = magnitude(_spec(wav, window, pad_mode))  # [..., F, K, C]
  bank = mel_bank(sr, window, n_mels)
  return namespace("mel", wav).matmul(constant(bank.T, wav), mag)  # [..., F, M, C]


def _check(where: str, estimate: Array, reference: Array) -> Any:
  xp = namespace(where, estimate)
  if estimate.shape != reference.shape or estimate.ndim < 2:
    raise ValueError(
      f"{where}: expected estimate and reference [..., T, C] alike, got {tuple(estimate.shape)} "
      f"and {tuple(reference.shape)}."
    )
  if estimate.dtype != reference.dtype:
    raise ValueError(f"{where}: estimate is {estimate.dtype}, reference {reference.dtype}.")
  return xp


def _check_lengths(where: str, windows: Sequence[int], mels: Sequence[int]) -> None:
  if len(windows) != len(mels):
    raise ValueError(f"{where}: {len(windows)} windows but {len(mels)} numbers of mels.")
