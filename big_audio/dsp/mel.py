"""Mel scales, triangular filter banks and mel spectrograms."""

import functools
from typing import Any

import numpy as np

from big_audio.dsp.namespace import check_choice, check_positive, constant, namespace
from big_audio.dsp.stft import windowed_frames

Array = Any
SCALES = ("htk", "kaldi", "slaney")


def hz_to_mel(hz: np.ndarray, scale: str = "slaney") -> np.ndarray:
  """Hz to mel: "htk" is 2595 log10(1 + f/700), "kaldi" 1127 ln(1 + f/700); "slaney" is linear up to
  1 kHz, then logarithmic.
  """
  check_choice("hz_to_mel: scale", scale, SCALES)
  hz = np.asarray(hz, np.float64)
  if scale == "htk":
    return 2595 * np.log10(1 + hz / 700)
  if scale == "kaldi":
    return 1127 * np.log1p(hz / 700)
  log = 15 + np.log(np.maximum(hz, 1e-3) / 1000) * 27 / np.log(6.4)
  return np.where(hz < 1000, hz * 3 / 200, log)


def mel_to_hz(mel: np.ndarray, scale: str = "slaney") -> np.ndarray:
  """Inverse of `hz_to_mel`."""
  check_choice("mel_to_hz: scale", scale, SCALES)
  mel = np.asarray(mel, np.float64)
  if scale == "htk":
    return 700 * (10 ** (mel / 2595) - 1)
  if scale == "kaldi":
    return 700 * np.expm1(mel / 1127)
  return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))


@functools.lru_cache(maxsize=64)
def mel_bank(
  sr: int,
  n_fft: int,
  n_mels: int,
  *,
  fmin: float = 0.0,
  fmax: float | None = None,
  scale: str = "slaney",
  norm: str = "slaney",
) -> np.ndarray:
  """Triangular filters equally spaced in mel (Slaney, Auditory Toolbox 1998; librosa.filters.mel).

  Args:
    sr: sampling rate in Hz.
    n_fft: FFT size, in samples.
    n_mels: number of filters M.
    fmin: lower edge of the first filter, in Hz.
    fmax: upper edge of the last filter, in Hz; default sr / 2.
    scale: "slaney" or "htk", with triangles in Hz; "kaldi", with triangles in mel.
    norm: "slaney" (each filter has unit area in Hz) or "none" (peak 1; the only one of "kaldi").

  Returns:
    float64[n_fft // 2 + 1, M], read-only. Filters narrower than a bin may be all zero, as in
    librosa.

  Raises:
    ValueError: unknown scale or norm, sizes below one, or not 0 <= fmin < fmax <= sr / 2; a norm
      with "kaldi".
  """
  check_choice("mel_bank: norm", norm, ("none", "slaney"))
  check_positive("mel_bank", n_fft=n_fft, n_mels=n_mels)
  if scale == "kaldi" and norm != "none":
    raise ValueError(f'mel_bank: triangles of scale="kaldi" have norm="none", got {norm!r}.')
  fmax = sr / 2 if fmax is None else fmax
  if not 0 <= fmin < fmax <= sr / 2:
    raise ValueError(
      f"mel_bank: expected 0 <= fmin < fmax <= sr/2 = {sr / 2:g} Hz, got fmin={fmin:g}, "
      f"fmax={fmax:g}."
    )
  edges = np.linspace(hz_to_mel(fmin, scale), hz_to_mel(fmax, scale), n_mels + 2)
  bins = np.arange(n_fft // 2 + 1)[:, None] * sr / n_fft  # [K,1] Hz
  if scale == "kaldi":
    bins = hz_to_mel(bins, scale)
  else:
    edges = mel_to_hz(edges, scale)
  low, mid, high = edges[:-2], edges[1:-1], edges[2:]
  bank = np.maximum(0, np.minimum((bins - low) / (mid - low), (high - bins) / (high - mid)))
  if norm == "slaney":
    bank = bank * 2 / (high - low)
  bank.setflags(write=False)
  return bank


def mel_spectrogram(
  wav: Array,
  sr: int,
  n_fft: int,
  hop: int,
  n_mels: int,
  *,
  win: int | None = None,
  window: str = "hann",
  padding: str = "center",
  pad_mode: str = "reflect",
  power: float = 1.0,
  fmin: float = 0.0,
  fmax: float | None = None,
  scale: str = "slaney",
  norm: str = "slaney",
) -> Array:
  """Mel spectrogram sum_k bank[k, m] |X[f, k]|^power, without logarithm.

  Args:
    wav: f32|f64[..., T, C].
    sr: sampling rate in Hz.
    n_fft: see `stft.stft`, like hop, win, window, padding, pad_mode.
    hop: see there.
    n_mels: see `mel_bank`, like fmin, fmax, scale, norm.
    win: see `stft.stft`.
    window: see there.
    padding: see there.
    pad_mode: see there.
    power: 1 for magnitude, 2 for power. Gradients at silence are finite for both.
    fmin: see `mel_bank`.
    fmax: see there.
    scale: see there.
    norm: see there.

  Returns:
    [..., F, M, C].

  Raises:
    ValueError: see `stft.stft` and `mel_bank`.
  """
  xp = namespace("mel_spectrogram", wav)
  bank = mel_bank(sr, n_fft, n_mels, fmin=fmin, fmax=fmax, scale=scale, norm=norm)
  frames = windowed_frames(
    wav, n_fft, hop, win=win, window=window, padding=padding, pad_mode=pad_mode
  )
  mel = xp.matmul(magnitude(xp.fft.rfft(frames, axis=-1), power), constant(bank, wav))
  return xp.moveaxis(mel, -3, -1)  # [..., C, F, M] -> [..., F, M, C]


def magnitude(spec: Array, power: float = 1.0) -> Array:
  """|spec|^power; |0| gets gradient zero instead of the nan of a plain root."""
  xp = namespace("magnitude", spec)
  square = spec.real**2 + spec.imag**2
  if power == 2:
    return square
  # The double where keeps 0 * inf out of the backward pass; forward values are exact.
  silent = square == 0
  root = xp.where(silent, 1, square) ** (power / 2)
  return xp.where(silent, 0, root)
