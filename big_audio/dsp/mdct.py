"""MDCT, its inverse, and the MDST that completes it to a complex lapped transform (MCLT).

  X[k] = sqrt(2/N) sum_{n<2N} w[n] x[n] cos(pi/N (n + 1/2 + N/2)(k + 1/2)),  0 <= k < N

after Princen, Johnson, Bradley, "Subband/transform coding using filter bank designs based on time
domain aliasing cancellation" (ICASSP 1987), with hop N. Scale and window are the same in both
directions, which makes the transform orthonormal: energies agree (Parseval) and the inverse is
the transpose. The MDST has sin in place of cos; MDCT - i MDST is the MCLT of Malvar (ICASSP 1999),
whose magnitude, unlike that of the MDCT alone, does not flicker with phase.

The signal gets N zeros in front and at least N behind, so the first and last samples too lie under
two windows: F = ceil(T/N) + 1 frames.

A frame folds to N numbers, then a DCT-IV follows: O(N log N) by a complex FFT of N/2 points, or a
matrix product, which wins for small N. A wrong twiddle factor still reconstructs perfectly: the
tests compare with the definition.
"""

import functools
from typing import Any

import numpy as np

from big_audio.dsp.namespace import check_choice, check_positive, constant, namespace, pad_axis
from big_audio.dsp.windows import mdct_window

Array = Any
MATMUL_MAX_HOP = 128  # measured with `python -m big_audio.tools.bench mdct`
METHODS = ("auto", "fft", "matmul")


def num_frames(length: int, hop: int) -> int:
  """Number of MDCT frames of `length` samples: ceil(length / hop) + 1."""
  return -(-length // hop) + 1


def mdct(wav: Array, hop: int, *, window: str = "sine", method: str = "auto") -> Array:
  """MDCT of a signal of any length.

  Args:
    wav: f32|f64[..., T, C].
    hop: N, an even number of samples; also the number of bins.
    window: "sine", "vorbis" or "kbd" (alpha 4).
    method: "fft" (O(N log N)), "matmul" (O(N^2)), or "auto": matmul for N <= 128.

  Returns:
    [..., ceil(T/N) + 1, N, C], same dtype and namespace; bin k is centred at (k + 1/2) sr / 2N Hz.

  Raises:
    ValueError: wrong rank or dtype, odd hop, unknown window or method.
  """
  cos_fold, _ = _analysis(wav, hop, window, "mdct", sine=False)
  return _channels_last(dct4(cos_fold, method=method))


def mclt(
  wav: Array, hop: int, *, window: str = "sine", method: str = "auto"
) -> tuple[Array, Array]:
  """MDCT and MDST of a signal; see `mdct` for arguments and errors.

  Returns:
    (MDCT, MDST), each [..., ceil(T/N) + 1, N, C].
  """
  cos_fold, sin_fold = _analysis(wav, hop, window, "mclt", sine=True)
  xp = namespace("mclt", wav)
  both = dct4(xp.stack([cos_fold, sin_fold]), method=method)
  return _channels_last(both[0]), _channels_last(both[1] * constant(_alternate(hop), wav))


def imdct(mdct: Array, length: int, *, window: str = "sine", method: str = "auto") -> Array:
  """Inverse of `mdct`, trimmed to `length` samples.

  Args:
    mdct: f32|f64[..., F, N, C].
    length: T, in samples; at most (F - 1) N.
    window: as in the forward transform.
    method: as in `mdct`; the two directions need not agree.

  Returns:
    [..., T, C].

  Raises:
    ValueError: wrong rank or dtype, odd N, more samples asked for than there are frames, unknown
      window or method.
  """
  xp = namespace("imdct", mdct)
  if mdct.ndim < 3:
    raise ValueError(f"imdct: expected [..., F, K, C], got shape {tuple(mdct.shape)}.")
  frames, hop = mdct.shape[-3], mdct.shape[-2]
  _check_hop("imdct", hop)
  if not 0 <= length <= (frames - 1) * hop:
    raise ValueError(
      f"imdct: {frames} frames with hop {hop} hold 0 to {max(frames - 1, 0) * hop} samples, "
      f"length={length} was asked for. A signal of T samples has ceil(T/{hop}) + 1 frames."
    )
  u = dct4(xp.moveaxis(mdct, -1, -3), method=method)  # [..., C, F, N]
  # Second half of a frame plus first half of the next one; the outer halves hold only padding.
  # By quarters of `_unfold`, because XLA on a CPU evaluates an unfolded [F, 2N] four times slower.
  h = hop // 2
  u1, u2 = u[..., :-1, :h], u[..., 1:, h:]
  w = constant(mdct_window(window, hop), u)
  left = u2 * w[:h] - u1[..., ::-1] * w[hop : hop + h]
  right = -u2[..., ::-1] * w[h:hop] - u1 * w[hop + h :]
  wav = xp.concatenate([left, right], axis=-1)
  wav = wav.reshape(*wav.shape[:-2], (frames - 1) * hop)[..., :length]
  return xp.moveaxis(wav, -2, -1)


def frame_mdct(frames: Array, *, method: str = "auto") -> Array:
  """MDCT of frames that are windowed already.

  Args:
    frames: f32|f64[..., 2N], N even.
    method: as in `mdct`.

  Returns:
    [..., N].
  """
  return dct4(_fold_cos(*_quarters("frame_mdct", frames)), method=method)


def frame_mdst(frames: Array, *, method: str = "auto") -> Array:
  """MDST of frames [..., 2N] that are windowed already; see `frame_mdct`."""
  u = _fold_sin(*_quarters("frame_mdst", frames))
  return dct4(u, method=method) * constant(_alternate(u.shape[-1]), u)


def frame_imdct(mdct: Array, *, method: str = "auto") -> Array:
  """Transpose of `frame_mdct`: aliased frames [..., 2N] of [..., N], to window and overlap-add."""
  return _unfold(namespace("frame_imdct", mdct), dct4(mdct, method=method))


def dct4(x: Array, *, method: str = "auto") -> Array:
  """Orthonormal DCT-IV over the last axis; it is its own inverse.

  y[k] = sqrt(2/N) sum_n x[n] cos(pi/N (n + 1/2)(k + 1/2)).

  Args:
    x: f32|f64[..., N], N even.
    method: as in `mdct`.

  Returns:
    [..., N].

  Raises:
    ValueError: wrong dtype, odd N, unknown method.
  """
  xp = namespace("dct4", x)
  n = x.shape[-1]
  _check_hop("dct4", n)
  check_choice("dct4: method", method, METHODS)
  if method == "matmul" or (method == "auto" and n <= MATMUL_MAX_HOP):
    return xp.matmul(x, constant(_dct4_matrix(n), x))
  twiddle = constant(dct4_twiddle(n), x)
  pairs = x.reshape(*x.shape[:-1], n // 2, 2)
  z = (pairs[..., 0] + 1j * pairs[..., ::-1, 1]) * twiddle
  z = xp.fft.fft(z) * twiddle
  return xp.stack([z.real, -z.imag[..., ::-1]], axis=-1).reshape(x.shape)


def _analysis(wav: Array, hop: int, window: str, where: str, sine: bool) -> tuple[Array, Array]:
  """Pads, frames, windows and folds [..., T, C] to [..., C, F, N], for cos and (if asked) sin."""
  xp = namespace(where, wav)
  _check_hop(where, hop)
  if wav.ndim < 2:
    raise ValueError(
      f"{where}: expected [..., T, C], got shape {tuple(wav.shape)}. Use wav[..., None] for mono."
    )
  length = wav.shape[-2]
  frames = num_frames(length, hop)
  x = xp.moveaxis(wav, -1, -2)  # [..., C, T]
  x = pad_axis(x, -1, hop, frames * hop - length)
  x = x.reshape(*x.shape[:-1], frames + 1, hop)
  w = constant(mdct_window(window, hop), wav)
  first, second = x[..., :-1, :] * w[:hop], x[..., 1:, :] * w[hop:]  # halves of [..., C, F, 2N]
  h = hop // 2
  a, b, c, d = first[..., :h], first[..., h:], second[..., :h], second[..., h:]
  return _fold_cos(a, b, c, d), _fold_sin(a, b, c, d) if sine else None


def _quarters(where: str, frames: Array) -> tuple[Array, Array, Array, Array]:
  namespace(where, frames)
  if frames.shape[-1] % 4:
    raise ValueError(f"{where}: expected windows of 2N samples, N even, got {frames.shape[-1]}.")
  q = frames.shape[-1] // 4
  return tuple(frames[..., i * q : (i + 1) * q] for i in range(4))


def _fold_cos(a: Array, b: Array, c: Array, d: Array) -> Array:
  xp = a.__array_namespace__()
  return xp.concatenate([-c[..., ::-1] - d, a - b[..., ::-1]], axis=-1)


def _fold_sin(a: Array, b: Array, c: Array, d: Array) -> Array:
  # sin(theta) is -(-1)^k cos(theta) read backwards in time: the cos fold of the reversed frame.
  xp = a.__array_namespace__()
  return xp.concatenate([-b - a[..., ::-1], d[..., ::-1] - c], axis=-1)


def _unfold(xp: Any, u: Array) -> Array:
  h = u.shape[-1] // 2
  u1, u2 = u[..., :h], u[..., h:]
  return xp.concatenate([u2, -u2[..., ::-1], -u1[..., ::-1], -u1], axis=-1)


def _channels_last(x: Array) -> Array:
  return x.__array_namespace__().moveaxis(x, -3, -1)  # [..., C, F, N] -> [..., F, N, C]


def _check_hop(where: str, hop: int) -> None:
  check_positive(where, hop=hop)
  if hop % 2:
    raise ValueError(f"{where}: expected an even hop, got {hop}. Use {hop + 1} or {hop - 1}.")


@functools.lru_cache(maxsize=32)
def dct4_twiddle(n: int) -> np.ndarray:
  """complex128[n / 2]: what the FFT of a DCT-IV is multiplied by, before and after."""
  # (2/n)^(1/4) on each side makes the transform orthonormal.
  return (2 / n) ** 0.25 * np.exp(-1j * np.pi * (np.arange(n // 2) + 1 / 8) / n)


@functools.lru_cache(maxsize=8)
def _dct4_matrix(n: int) -> np.ndarray:
  k = np.arange(n) + 0.5
  return np.sqrt(2 / n) * np.cos(np.pi / n * np.outer(k, k))


@functools.lru_cache(maxsize=32)
def _alternate(n: int) -> np.ndarray:
  return np.where(np.arange(n) % 2, 1.0, -1.0)  # -(-1)^k
