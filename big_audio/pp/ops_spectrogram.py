"""Operations on spectrograms kept as pictures: u8[H,W,C], row 0 the lowest frequency.

Such a picture was stretched from its own least to its own largest level, which beside it are
`spec_scale` f32[2] in dB. The level of the sound is in these two numbers alone.
"""

import numpy as np

from big_audio.pp.registry import OpError, op, take


@op("spec_db")
def spec_db(lo: float = -80.0, hi: float = 20.0, *, key: str = "image", scale: str = "spec_scale"):
  """Picture -> dB by its own scale, then [lo, hi] dB -> [-1, 1], as f32[H,W,C]; beyond is cut.

  One level looks the same in every example, as in a spectrogram of a fixed range. Only planes that
  are spectrograms may be passed: not envelopes.
  """
  if not lo < hi:
    raise OpError(f"needs lo < hi, got {lo} and {hi}.")

  def fn(example, rng):
    db = _db(example, key, scale)
    return {**example, key: np.clip(2 * (db - lo) / (hi - lo) - 1, -1, 1).astype(np.float32)}

  return fn


@op("spec_numbers")
def spec_numbers(*, scale: str = "spec_scale", to: str = "aux"):
  """`spec_scale` -> f32[3] under `to`: least and largest level in dB, log10 of their distance.

  The distance of the two is inverse to the decay time of a sound that only decays.
  """

  def fn(example, rng):
    lo, hi = _scale(example, scale)
    return {**example, to: np.float32([lo, hi, np.log10(max(hi - lo, 1e-3))])}

  return fn


@op("decay_time")
def decay_time(
  frame_secs: float, *, key: str = "image", scale: str = "spec_scale", to: str = "decay_time"
):
  """log10 of the time (s) in which the sound falls to 1/e, as f32[1] under `to`, in [-3, 1].

  A line through the logarithm of each frame's summed magnitude, from the loudest frame on, weighted
  by the magnitude; its slope is -1/time. A sound that does not fall has 1.

  Args:
    frame_secs: from one column to the next.
    key: of the picture; its first plane is taken.
    scale: of its least and largest level in dB.
    to: where the number goes.
  """
  if not frame_secs > 0:
    raise OpError(f"needs frame_secs > 0, got {frame_secs}.")

  def fn(example, rng):
    level = np.sum(10 ** (_db(example, key, scale)[..., 0] / 20), axis=0)  # [W]
    level = level[np.argmax(level) :]
    t, w, y = np.arange(len(level)) * frame_secs, level, np.log(level)
    mean = lambda x: np.sum(w * x) / np.sum(w)
    spread = mean((t - mean(t)) ** 2)
    slope = mean((t - mean(t)) * (y - mean(y))) / spread if spread > 0 else 0.0
    secs = -1 / slope if slope < 0 else np.inf
    return {**example, to: np.float32([np.clip(np.log10(secs), -3, 1)])}

  return fn


@op("spec_augment")
def spec_augment(
  rows: int, columns: int, *, times: int = 1, fill: float | str = "mean", key: str = "image"
):
  """SpecAugment (Park et al. 2019): bands of frequencies and stretches of time are blotted out.

  Args:
    rows: widest band, in rows; each has 0 to `rows`, uniformly.
    columns: longest stretch, in columns, likewise.
    times: how many of each.
    fill: what stands there: "mean" of the picture or a number.
    key: of a picture [H,W,C].

  Raises:
    ValueError: a band wider than the picture.
  """
  if min(rows, columns, times) < 0 or not (fill == "mean" or isinstance(fill, int | float)):
    raise OpError('needs rows, columns and times >= 0, and fill="mean" or a number.')

  def fn(example, rng):
    x = np.asarray(take(example, key))
    if x.ndim != 3 or rows > x.shape[0] or columns > x.shape[1]:
      raise OpError(f'needs "{key}" as [H,W,C] of at least {rows} x {columns}, got {x.shape}.')
    out = x.copy()
    blot = x.mean() if fill == "mean" else fill
    for _ in range(times):
      n = int(rng.integers(rows + 1))
      at = int(rng.integers(x.shape[0] - n + 1))
      out[at : at + n] = blot
      n = int(rng.integers(columns + 1))
      at = int(rng.integers(x.shape[1] - n + 1))
      out[:, at : at + n] = blot
    return {**example, key: out}

  return fn


def _scale(example, scale):
  values = np.asarray(take(example, scale), np.float64)
  if values.shape != (2,) or not np.all(np.isfinite(values)) or values[0] > values[1]:
    raise OpError(f'needs "{scale}" as (least, largest) level in dB, got {values}.')
  return values


def _db(example, key, scale):
  x = np.asarray(take(example, key))
  if x.dtype != np.uint8 or x.ndim != 3:
    raise OpError(
      f'needs "{key}" as u8[H,W,C], got {x.dtype}{list(x.shape)}. Put it before value_range.'
    )
  lo, hi = _scale(example, scale)
  return lo + (hi - lo) / 255 * x.astype(np.float64)
