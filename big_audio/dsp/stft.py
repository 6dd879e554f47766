"""Frames, the short-time Fourier transform and its exact inverse, and power-law compression."""

import functools
from typing import Any

import numpy as np

from big_audio.dsp.namespace import check_choice, check_positive, constant, namespace, pad_axis
from big_audio.dsp.windows import stft_window

Array = Any
PADDINGS = ("center", "same", "valid")
PAD_MODES = ("constant", "reflect")


class TooShort(ValueError):
  """A wave has too few samples to be reflected at its ends."""


def num_frames(length: int, n_fft: int, hop: int, padding: str) -> int:
  """Number of STFT frames of `length` samples; see `stft` for the paddings."""
  check_choice("num_frames: padding", padding, PADDINGS)
  if padding == "same":
    return -(-length // hop)
  covered = length + (2 * (n_fft // 2) if padding == "center" else 0)
  return max(1 + (covered - n_fft) // hop, 0)


def frame(x: Array, size: int, hop: int) -> Array:
  """Cuts the last axis into overlapping frames, dropping a tail that does not fill one.

  Slices of a [F, hop] reshape laid side by side, not a gather: any hop, no index arrays.

  Args:
    x: f32|f64[..., T].
    size: samples of a frame.
    hop: samples from one frame to the next.

  Returns:
    [..., F, size], F = 1 + (T - size) // hop, or 0 frames if T < size.
  """
  xp = namespace("frame", x)
  check_positive("frame", size=size, hop=hop)
  frames = max(1 + (x.shape[-1] - size) // hop, 0)
  if frames == 0:
    return xp.zeros((*x.shape[:-1], 0, size), x.dtype)
  blocks = -(-size // hop)  # a frame spans this many hops
  total = (frames + blocks - 1) * hop
  x = x[..., :total]
  x = pad_axis(x, -1, 0, total - x.shape[-1])
  x = x.reshape(*x.shape[:-1], frames + blocks - 1, hop)
  parts = [x[..., i : i + frames, :] for i in range(blocks)]
  return xp.concatenate(parts, axis=-1)[..., :size]


def overlap_add(frames: Array, hop: int) -> Array:
  """Transpose of `frame`: adds frames [..., F, size] up to [..., (F - 1) hop + size]."""
  xp = namespace("overlap_add", frames)
  check_positive("overlap_add", hop=hop)
  count, size = frames.shape[-2:]
  if count == 0:
    raise ValueError(f"overlap_add: expected at least one frame, got shape {frames.shape}.")
  blocks = -(-size // hop)
  x = pad_axis(frames, -1, 0, blocks * hop - size)
  x = x.reshape(*x.shape[:-1], blocks, hop)
  out = sum(pad_axis(x[..., i, :], -2, i, blocks - 1 - i) for i in range(blocks))
  out = out.reshape(*out.shape[:-2], (count + blocks - 1) * hop)
  return xp.asarray(out)[..., : (count - 1) * hop + size]


def stft(
  wav: Array,
  n_fft: int,
  hop: int,
  *,
  win: int | None = None,
  window: str = "hann",
  padding: str = "center",
  pad_mode: str = "reflect",
) -> Array:
  """Short-time Fourier transform, X[f, k] = sum_n w[n] x[f hop + n - left] exp(-2 pi i k n/n_fft).

  Args:
    wav: f32|f64[..., T, C].
    n_fft: length of a frame and of the FFT, in samples.
    hop: samples from one frame to the next.
    win: length of the window, centred in the frame; default n_fft.
    window: see `windows.stft_window`; periodic.
    padding: "center": frame f is centred on sample f hop (left = n_fft // 2, F = 1 + T // hop for
      even n_fft), as librosa and torch.stft(center=True); "same": left = (n_fft - hop) // 2 and
      F = ceil(T / hop), as in Vocos; "valid": only whole frames, the first at sample 0.
    pad_mode: what lies beyond the edges: "reflect" or "constant" (zeros).

  Returns:
    complex[..., F, n_fft // 2 + 1, C]; not scaled.

  Raises:
    ValueError: wrong rank, dtype, size or name; a signal too short to be reflected or framed.
  """
  xp = namespace("stft", wav)
  frames = windowed_frames(
    wav, n_fft, hop, win=win, window=window, padding=padding, pad_mode=pad_mode
  )
  return xp.moveaxis(xp.fft.rfft(frames, axis=-1), -3, -1)  # [..., C, F, K] -> [..., F, K, C]


def windowed_frames(
  wav: Array,
  n_fft: int,
  hop: int,
  *,
  win: int | None = None,
  window: str = "hann",
  padding: str = "center",
  pad_mode: str = "reflect",
) -> Array:
  """What `stft` transforms: [..., C, F, n_fft]; arguments and errors as there."""
  xp = namespace("stft", wav)
  w = _centred_window(n_fft, hop, win, window)
  check_choice("stft: padding", padding, PADDINGS)
  check_choice("stft: pad_mode", pad_mode, PAD_MODES)
  if wav.ndim < 2:
    raise ValueError(
      f"stft: expected [..., T, C], got shape {tuple(wav.shape)}. Use wav[..., None] for mono."
    )
  length = wav.shape[-2]
  left, right = _edges(length, n_fft, hop, padding)
  if pad_mode == "reflect" and max(left, right) >= length and left + right > 0:
    raise TooShort(
      f"stft: {length} samples are too few to reflect {max(left, right)} at an edge "
      f'(n_fft={n_fft}, padding={padding!r}). Use pad_mode="constant" or a smaller n_fft.'
    )
  if length + left + right < n_fft:
    raise ValueError(
      f"stft: {length} samples do not fill a frame of {n_fft} (padding={padding!r}). "
      'Use padding="center" or a smaller n_fft.'
    )
  x = pad_axis(xp.moveaxis(wav, -1, -2), -1, left, right, pad_mode)  # [..., C, T]
  return frame(x, n_fft, hop) * constant(w, wav)


def istft(
  spec: Array,
  length: int,
  n_fft: int,
  hop: int,
  *,
  win: int | None = None,
  window: str = "hann",
  padding: str = "center",
) -> Array:
  """Least-squares inverse of `stft` (Griffin and Lim 1984, eq. 6): exact for an unmodified STFT.

  Args:
    spec: complex[..., F, n_fft // 2 + 1, C].
    length: T, samples to return.
    n_fft: as in `stft`, like the other arguments.
    hop: see there.
    win: see there.
    window: see there.
    padding: see there.

  Returns:
    [..., T, C], real.

  Raises:
    ValueError: wrong shape or name; or samples which no window covers, so that no inverse exists.
  """
  xp = namespace("istft", spec)
  w = _centred_window(n_fft, hop, win, window)
  check_choice("istft: padding", padding, PADDINGS)
  if spec.ndim < 3 or spec.shape[-2] != n_fft // 2 + 1:
    raise ValueError(
      f"istft: expected [..., F, {n_fft // 2 + 1}, C] for n_fft={n_fft}, got {tuple(spec.shape)}."
    )
  frames = spec.shape[-3]
  left, _ = _edges(length, n_fft, hop, padding)
  gain = _inverse_envelope(w.tobytes(), hop, frames, left, length)
  y = xp.fft.irfft(xp.moveaxis(spec, -1, -3), n=n_fft, axis=-1)  # [..., C, F, n_fft]
  y = overlap_add(y * constant(w, y), hop)[..., left : left + length]
  return xp.moveaxis(y * constant(gain, y), -2, -1)


def compress(x: Array, power: float, *, eps: float = 1e-5) -> Array:
  """Range compression sign(x) |x|^power, linear where |x| < eps so that gradients stay finite.

  The gradient is eps^(power - 1) at zero. Complex numbers keep their phase. `expand` inverts it
  exactly.

  Args:
    x: real or complex, any shape.
    power: in (0, 1].
    eps: where the line takes over, in units of x.

  Raises:
    ValueError: power or eps out of range, wrong dtype.
  """
  _check_power("compress", power, eps)
  xp = namespace("compress", x)
  return x * _power_at_least(xp, x, eps, power - 1)


def expand(y: Array, power: float, *, eps: float = 1e-5) -> Array:
  """Inverse of `compress` with the same power and eps."""
  _check_power("expand", power, eps)
  xp = namespace("expand", y)
  return y * _power_at_least(xp, y, eps**power, 1 / power - 1)


def compress_pair(a: Array, b: Array, power: float, *, eps: float = 1e-5) -> tuple[Array, Array]:
  """`compress` of a + ib (say MDCT and MDST) as two real arrays; the angle is kept."""
  _check_power("compress_pair", power, eps)
  xp = namespace("compress_pair", a)
  gain = xp.maximum(a**2 + b**2, eps**2) ** ((power - 1) / 2)
  return a * gain, b * gain


def expand_pair(a: Array, b: Array, power: float, *, eps: float = 1e-5) -> tuple[Array, Array]:
  """Inverse of `compress_pair` with the same power and eps."""
  _check_power("expand_pair", power, eps)
  xp = namespace("expand_pair", a)
  gain = xp.maximum(a**2 + b**2, eps ** (2 * power)) ** ((1 / power - 1) / 2)
  return a * gain, b * gain


def _power_at_least(xp: Any, x: Array, floor: float, power: float) -> Array:
  """max(|x|, floor)^power."""
  if "complex" in str(x.dtype):
    return xp.maximum(x.real**2 + x.imag**2, floor**2) ** (power / 2)
  return xp.maximum(xp.abs(x), floor) ** power


def _check_power(where: str, power: float, eps: float) -> None:
  if not 0 < power <= 1:
    raise ValueError(f"{where}: expected 0 < power <= 1, got {power}.")
  if not eps > 0:
    raise ValueError(f"{where}: expected eps > 0 (it keeps gradients finite), got {eps}.")


def _edges(length: int, n_fft: int, hop: int, padding: str) -> tuple[int, int]:
  """Samples to add in front and behind."""
  if padding == "center":
    return n_fft // 2, n_fft // 2
  if padding == "same":
    left = (n_fft - hop) // 2
    total = (num_frames(length, n_fft, hop, "same") - 1) * hop + n_fft
    return left, max(total - left - length, 0)
  return 0, 0


@functools.lru_cache(maxsize=64)
def _centred_window(n_fft: int, hop: int, win: int | None, window: str) -> np.ndarray:
  win = n_fft if win is None else win
  check_positive("stft", n_fft=n_fft, hop=hop, win=win)
  if win > n_fft or hop > n_fft:
    raise ValueError(f"stft: expected win and hop <= n_fft={n_fft}, got win={win}, hop={hop}.")
  w = np.zeros(n_fft)
  w[(n_fft - win) // 2 :][:win] = stft_window(window, win)
  w.setflags(write=False)
  return w


@functools.lru_cache(maxsize=64)
def _inverse_envelope(w_bytes: bytes, hop: int, frames: int, left: int, length: int) -> np.ndarray:
  """1 / sum of squared windows over the samples that are returned."""
  w = np.frombuffer(w_bytes)
  total = (frames - 1) * hop + len(w)
  if left + length > total or frames < 1:
    raise ValueError(
      f"istft: {frames} frames end at sample {max(total - left, 0)}, length={length} was asked for."
    )
  envelope = overlap_add(np.broadcast_to(w**2, (frames, len(w))), hop)[left : left + length]
  lost = np.flatnonzero(envelope <= 1e-10 * np.max(w**2))
  if len(lost):
    raise ValueError(
      f"istft: no window covers {len(lost)} of the {length} samples, the first at {lost[0]} "
      f"(n_fft={len(w)}, hop={hop}), so there is no inverse. Use hop <= win / 2 and "
      'padding="center" or "same".'
    )
  return 1 / envelope
