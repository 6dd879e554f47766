"""Random changes of waveforms f32[T,C] and of log-mel features f32[F,M], frames first.

They belong into the preprocessing of training data alone. Those of features are written for a time
axis that comes first: masks of bins hide the same bins in all frames, shifts move frames.
"""

import numpy as np

from big_audio.pp.ops_audio import read_wav
from big_audio.pp.registry import OpError, of_any_length, op, take


@op("mask_fbank")
def mask_fbank(
  bins: int, frames: int, times: int = 1, *, fill: str | float = "mean", key: str = "fbank"
):
  """Hides bands of bins and stretches of frames: SpecAugment (Park et al., 2019), no warping.

  Args:
    bins: a band has 0 to `bins` mel bins (the paper's F), uniform.
    frames: a stretch has 0 to `frames` frames (the paper's T), uniform.
    times: bands, and as many stretches.
    fill: "mean" of the features, or a number.
    key: of the features f32[F,M].

  Raises:
    OpError: the features have fewer bins or frames than may be hidden.
  """
  if bins < 0 or frames < 0 or times < 1:
    raise OpError(f"needs bins, frames >= 0 and times >= 1, got {bins}, {frames}, {times}.")
  if fill != "mean" and (isinstance(fill, str) or not np.isfinite(fill)):
    raise OpError(f'has fill={fill!r}, expected "mean" or a number.')

  def fn(example, rng):
    fbank = _features(example, key)
    out = fbank.copy()
    value = fbank.mean() if fill == "mean" else fill
    for axis, (most, what) in enumerate(((frames, "frames"), (bins, "bins"))):
      size = fbank.shape[axis]
      if most > size:
        raise OpError(f'hides up to {most} {what}, "{key}" has {size}.')
      for _ in range(times):
        width = int(rng.integers(most + 1))
        start = int(rng.integers(size - width + 1))
        span = slice(start, start + width)
        out[span if axis == 0 else (slice(None), span)] = value
    return {**example, key: out}

  return fn


@op("shift_fbank")
def shift_fbank(frames: int, *, key: str = "fbank"):
  """Rolls features f32[F,M] in time by -`frames` to `frames` frames, uniform."""
  if frames < 0:
    raise OpError(f"needs frames >= 0, got {frames}.")

  def fn(example, rng):
    fbank = _features(example, key)
    return {**example, key: np.roll(fbank, int(rng.integers(-frames, frames + 1)), axis=0)}

  return fn


@op("warp_fbank")
def warp_fbank(time: float = 0.0, bins: float = 0.0, *, key: str = "fbank"):
  """Stretches features f32[F,M] in time and moves them along the mels, by linear interpolation.

  On a mel axis a move is about a change of pitch and of the length of a vocal tract; other than
  with `speed` it does not depend on the change of tempo, and costs a tenth.

  Args:
    time: F becomes round(F / u), u uniform over [1 - time, 1 + time].
    bins: the move is uniform over [-bins, bins] mels; edges are repeated.
    key: of the features.
  """
  if not 0 <= time < 1 or bins < 0:
    raise OpError(f"needs 0 <= time < 1 and bins >= 0, got {time} and {bins}.")

  def fn(example, rng):
    of_any_length(example, key)
    fbank = _features(example, key)
    frames, mels = fbank.shape
    count = max(round(frames / rng.uniform(1 - time, 1 + time)), 1)
    rows = np.linspace(0, frames - 1, count)
    columns = np.arange(mels) - rng.uniform(-bins, bins)
    out = _between(_between(fbank, rows, 0), np.clip(columns, 0, mels - 1), 1)
    return {**example, key: out}

  return fn


@op("gain_fbank")
def gain_fbank(db: float, *, key: str = "fbank"):
  """Gain of -`db` to `db` dB, uniform, on log-mels f32[F,M] (natural logarithms of power)."""
  if db < 0:
    raise OpError(f"needs db >= 0, got {db}.")

  def fn(example, rng):
    by = rng.uniform(-db, db) * np.log(10) / 10
    return {**example, key: _features(example, key) + np.float32(by)}

  return fn


@op("noise_fbank")
def noise_fbank(std: float, hi: float | None = None, *, key: str = "fbank"):
  """Adds Gaussian noise to features: deviation `std`, or uniform over [std, hi] for each example.

  In units of the features, so it belongs after `normalise`.
  """
  if std < 0 or (hi is not None and hi < std):
    raise OpError(f"needs 0 <= std <= hi, got {std}, {hi}.")

  def fn(example, rng):
    fbank = _features(example, key)
    deviation = std if hi is None else rng.uniform(std, hi)
    noise = rng.standard_normal(fbank.shape, dtype=np.float32)
    return {**example, key: fbank + np.float32(deviation) * noise}

  return fn


@op("speed")
def speed(lo: float, hi: float, *, key: str = "wav"):
  """Plays f32[T,C] faster by a factor uniform over [lo, hi]: tempo and pitch rise together.

  Resampling to round(T / factor) samples (soxr, HQ); "sr" stays (Ko et al., "Audio Augmentation for
  Speech Recognition", 2015). Crop after it: the length changes.
  """
  if not 0 < lo <= hi:
    raise OpError(f"needs 0 < lo <= hi, got {lo}, {hi}.")

  def fn(example, rng):
    import soxr

    wav = read_wav(of_any_length(example, key))
    factor = rng.uniform(lo, hi)
    return {**example, key: soxr.resample(wav, factor, 1.0).astype(np.float32, copy=False)}

  return fn


@op("add_noise")
def add_noise(lo_db: float, hi_db: float, *, key: str = "wav"):
  """Adds white noise at a ratio of signal to noise that is uniform in dB over [lo_db, hi_db].

  Powers are means over the whole of f32[T,C]; silence has no such ratio and stays silent.
  """
  if hi_db < lo_db:
    raise OpError(f"needs lo_db <= hi_db, got {lo_db} > {hi_db}.")

  def fn(example, rng):
    wav = read_wav(take(example, key))
    rms = float(np.sqrt(np.mean(np.square(wav, dtype=np.float64)))) if wav.size else 0.0
    level = np.float32(rms * 10 ** (-rng.uniform(lo_db, hi_db) / 20))
    return {**example, key: wav + level * rng.standard_normal(wav.shape, dtype=np.float32)}

  return fn


@op("shift")
def shift(secs: float, *, mode: str = "circular", key: str = "wav"):
  """Moves f32[T,C], and its `<key>_mask` with it, by a time uniform over [-secs, secs].

  Args:
    secs: at the example's `sr`.
    mode: "circular": what leaves at one end enters at the other; "pad": silence enters.
    key: where the recording is.
  """
  if secs < 0 or mode not in ("circular", "pad"):
    raise OpError(f'needs secs >= 0 and mode "circular" or "pad", got {secs}, "{mode}".')

  def fn(example, rng):
    out, most = dict(example), round(secs * int(take(example, "sr")))
    by = int(rng.integers(-most, most + 1))
    for name in (key, f"{key}_mask"):
      if name != key and name not in example:
        continue
      x = read_wav(take(example, name))
      moved = np.roll(x, by, axis=0)
      if mode == "pad":
        moved[slice(0, by) if by >= 0 else slice(by, None)] = 0
      out[name] = moved
    return out

  return fn


def _between(x, at, axis):
  """Values of f32 `x` at places of an axis, between neighbours on a line."""
  low = np.floor(at).astype(int)
  high = np.minimum(low + 1, x.shape[axis] - 1)
  share = (at - low).astype(np.float32)
  share = share[:, None] if axis == 0 else share
  return x.take(low, axis) * (1 - share) + x.take(high, axis) * share


def _features(example, key) -> np.ndarray:
  fbank = np.asarray(take(example, key))
  if fbank.ndim != 2 or fbank.dtype != np.float32:
    raise OpError(f'needs features f32[F,M] in "{key}", got {fbank.dtype}{list(fbank.shape)}.')
  return fbank
