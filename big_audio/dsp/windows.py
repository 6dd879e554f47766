"""Windows as cached float64 numpy constants."""

import functools

import numpy as np

from big_audio.dsp.namespace import check_choice, check_positive

MDCT_WINDOWS = ("kbd", "sine", "vorbis")
STFT_WINDOWS = ("blackman", "boxcar", "hamming", "hann", "povey", "sqrt_hann")


@functools.lru_cache(maxsize=64)
def mdct_window(kind: str, hop: int, alpha: float = 4.0) -> np.ndarray:
  """Window of an MDCT, with w[n]^2 + w[n+hop]^2 = 1 (Princen, Johnson, Bradley 1987).

  Args:
    kind: "sine"; "vorbis" (Vorbis I specification, 4.3.1); or "kbd" (Kaiser-Bessel derived,
      as in AAC, ISO/IEC 14496-3).
    hop: half the length.
    alpha: shape of "kbd" (4 and 6 in AAC); larger is wider in frequency with lower far sidelobes.

  Returns:
    float64[2 * hop], read-only.

  Raises:
    ValueError: unknown kind, or a hop that is not a positive integer.
  """
  check_choice("mdct_window: kind", kind, MDCT_WINDOWS)
  check_positive("mdct_window", hop=hop)
  sine = np.sin(np.pi * (np.arange(2 * hop) + 0.5) / (2 * hop))
  if kind == "sine":
    w = sine
  elif kind == "vorbis":
    w = np.sin(np.pi / 2 * sine**2)
  else:
    kaiser = np.kaiser(hop + 1, np.pi * alpha)
    half = np.sqrt(np.cumsum(kaiser[:-1]) / np.sum(kaiser))
    w = np.concatenate([half, half[::-1]])
  w.setflags(write=False)
  return w


@functools.lru_cache(maxsize=64)
def stft_window(kind: str, length: int, periodic: bool = True) -> np.ndarray:
  """Window of an STFT.

  Args:
    kind: "hann", "hamming", "blackman", "boxcar", "sqrt_hann" (power-complementary at half
      overlap) or "povey" (hann^0.85, Kaldi).
    length: in samples.
    periodic: divides the circle by `length` (for analysis, as librosa and torch.stft do) rather
      than by `length - 1` (for filter design; Kaldi's windows).

  Returns:
    float64[length], read-only.

  Raises:
    ValueError: unknown kind, or a length that is not a positive integer.
  """
  check_choice("stft_window: kind", kind, STFT_WINDOWS)
  check_positive("stft_window", length=length)
  phase = 2 * np.pi * np.arange(length) / max(length if periodic else length - 1, 1)
  hann = 0.5 - 0.5 * np.cos(phase)
  w = {
    "hann": hann,
    "hamming": 0.54 - 0.46 * np.cos(phase),
    "blackman": 0.42 - 0.5 * np.cos(phase) + 0.08 * np.cos(2 * phase),
    "boxcar": np.ones(length),
    "sqrt_hann": np.sqrt(np.maximum(hann, 0)),
    "povey": np.maximum(hann, 0) ** 0.85,
  }[kind]
  w.setflags(write=False)
  return w
