"""Operations on waveforms: `wav` f32[T,C] in [-1,1] at `sr` Hz, or an unread file.

Sources hand over recordings as `datasets.audio.AudioFile`. `crop` reads its span by seeking; any
other operation reads the whole recording, so `crop` belongs first.
"""

import numpy as np

from big_audio.pp.registry import OpError, of_any_length, op, take


@op("crop")
def crop(
  secs: float | None = None, *, samples: int | None = None, mode: str = "random",
  short: str = "refuse", key: str = "wav",
):  # fmt: skip
  """Takes a span of fixed length out of a recording, and of its `<key>_mask` if it has one.

  Args:
    secs: length in seconds at the example's `sr`; or
    samples: length in samples.
    mode: `random` (uniform over all positions), `centre` or `start`.
    short: what becomes of a recording that is shorter: "refuse", or "keep" it as it is, for
      operations behind that take any length.
    key: where the recording is.

  Returns:
    the operation; it leaves f32[samples,C] under `key`.

  Raises:
    OpError: the recording is shorter than the span.
  """
  _one_length(secs, samples)
  if mode not in ("random", "centre", "start"):
    raise OpError(f'has mode="{mode}", expected "random", "centre" or "start".')
  if short not in ("refuse", "keep"):
    raise OpError(f'has short="{short}", expected "refuse" or "keep".')

  def fn(example, rng):
    wav = take(example, key)
    n, total = _length(example, secs, samples), wav.shape[0]
    if total < n and short == "keep":
      return example
    if total < n:
      fix = _call("pad", secs, samples, key)
      raise OpError(f'needs {n} samples, {_who(example, total)}. Use "{fix}|crop(...)".')
    start = 0
    if mode == "random":
      start = int(rng.integers(total - n + 1))
    elif mode == "centre":
      start = (total - n) // 2
    span = wav.read(start, n) if hasattr(wav, "read") else wav[start : start + n]
    mask = f"{key}_mask"
    cut = {mask: example[mask][start : start + n]} if mask in example else {}
    return {**example, key: span, **cut}

  return fn


@op("pad")
def pad(
  secs: float | None = None, *, samples: int | None = None, mode: str = "end", key: str = "wav",
  mask: bool = False,
):  # fmt: skip
  """Appends silence up to a length; a recording that is long enough stays as it is (and unread).

  Args:
    secs: length in seconds at the example's `sr`; or
    samples: length in samples.
    mode: where the silence goes: `end`, `start`, `centre` (half on each side) or `random`.
    key: where the recording is.
    mask: also writes `<key>_mask` bool[T], false where there is nothing but padding: what models
      and measures then leave out. Keep it; only `crop` may follow.
  """
  _one_length(secs, samples)
  if mode not in ("end", "start", "centre", "random"):
    raise OpError(f'has mode="{mode}", expected "end", "start", "centre" or "random".')

  def fn(example, rng):
    wav = of_any_length(example, key)
    total = wav.shape[0]
    missing = _length(example, secs, samples) - total
    if missing <= 0:  # a view of one number, however long the recording is
      return {**example, f"{key}_mask": np.broadcast_to(True, total)} if mask else example
    before = {"end": 0, "start": missing, "centre": missing // 2}.get(mode)
    if before is None:
      before = int(rng.integers(missing + 1))
    sides = (before, missing - before)
    more = {f"{key}_mask": np.pad(np.ones(total, bool), sides)} if mask else {}
    return {**example, key: np.pad(read_wav(wav), (sides, (0, 0))), **more}

  return fn


@op("channels")
def channels(n: int, *, key: str = "wav"):
  """Any number of channels -> 1 (the mean), or one channel -> n (repeated)."""

  def fn(example, rng):
    wav = read_wav(take(example, key))
    c = wav.shape[1]
    if c == n:
      return {**example, key: wav}
    if n == 1:
      return {**example, key: wav.mean(1, keepdims=True, dtype=np.float32)}
    if c == 1:
      return {**example, key: np.repeat(wav, n, axis=1)}
    raise OpError(f'cannot make {n} channels of {c}. Use "mono|channels({n})".')

  return fn


@op("mono")
def mono(*, key: str = "wav"):
  """f32[T,C] -> f32[T,1], the mean over channels."""
  return channels(1, key=key)


@op("stereo")
def stereo(*, key: str = "wav"):
  """f32[T,1] -> f32[T,2], repeated; f32[T,2] stays."""
  return channels(2, key=key)


@op("gain")
def gain(lo_db: float, hi_db: float | None = None, *, key: str = "wav"):
  """Multiplies by a gain: `lo_db` dB, or uniform in dB over [lo_db, hi_db]; never clips."""
  if hi_db is not None and hi_db < lo_db:
    raise OpError(f"needs lo_db <= hi_db, got {lo_db} > {hi_db}.")

  def fn(example, rng):
    db = lo_db if hi_db is None else rng.uniform(lo_db, hi_db)
    return {**example, key: read_wav(take(example, key)) * np.float32(10 ** (db / 20))}

  return fn


@op("rms_normalise")
def rms_normalise(db: float = -20.0, *, peak: float = 1.0, key: str = "wav"):
  """Scales to an RMS of `db` dBFS, less where a sample would exceed `peak`; silence stays."""

  def fn(example, rng):
    wav = read_wav(take(example, key))
    rms, top = float(np.sqrt(np.mean(np.square(wav)))), float(np.abs(wav).max(initial=0))
    if rms == 0:
      return {**example, key: wav}
    return {**example, key: wav * np.float32(min(10 ** (db / 20) / rms, peak / top))}

  return fn


@op("peak_normalise")
def peak_normalise(peak: float = 1.0, *, key: str = "wav"):
  """Scales so that the largest magnitude is `peak`; silence stays."""

  def fn(example, rng):
    wav = read_wav(take(example, key))
    top = float(np.abs(wav).max(initial=0))
    return {**example, key: wav * np.float32(peak / top) if top > 0 else wav}

  return fn


@op("to_float")
def to_float(*, key: str = "wav"):
  """Integer PCM [T] or [T,C] (u8, i16 or i32) -> f32[T,C] in [-1,1]; float becomes f32[T,C]."""

  def fn(example, rng):
    wav = read_wav(take(example, key))
    if wav.ndim not in (1, 2):
      raise OpError(f"needs [T] or [T,C], got shape {wav.shape}.")
    if wav.dtype.kind == "f":
      wav = wav.astype(np.float32)
    elif wav.dtype == np.uint8:
      wav = (wav.astype(np.float32) - 128) / 128
    elif wav.dtype in (np.int16, np.int32):
      wav = (wav / -float(np.iinfo(wav.dtype).min)).astype(np.float32)
    else:
      raise OpError(f"knows u8, i16, i32 and floats, got {wav.dtype}.")
    return {**example, key: wav[:, None] if wav.ndim == 1 else wav}

  return fn


@op("resample")
def resample(sr: int, *, key: str = "wav"):
  """f32[T,C] at the example's `sr` -> f32[round(T*new/old),C] at `sr` Hz (soxr, HQ)."""

  def fn(example, rng):
    import soxr

    wav, old = read_wav(of_any_length(example, key)), int(take(example, "sr"))
    wav = wav if old == sr else soxr.resample(wav, old, sr)
    return {**example, key: wav, "sr": sr}

  return fn


@op("require_sr")
def require_sr(sr: int, *, key: str = "wav"):
  """Lets a recording pass only if it has the rate `sr` (Hz): for models that are made for one."""

  def fn(example, rng):
    take(example, key)
    if (got := int(take(example, "sr"))) != sr:
      raise OpError(
        f'got "{example.get("id", "the example")}" at {got} Hz. Make the model for {got} Hz, or '
        f"resample: sr={sr} of the source, or resample({sr}) before this operation."
      )
    return example

  return fn


@op("decode_audio")
def decode_audio(key: str = "encoded", *, to: str = "wav"):
  """Bytes of a whole wav, flac, ogg or mp3 file -> an unread recording `to`, and its `sr`."""

  def fn(example, rng):
    from big_audio.datasets.audio import AudioFile

    data = take(example, key)
    if not isinstance(data, bytes):
      raise OpError(f'needs the bytes of an audio file in "{key}", got {type(data).__name__}.')
    file = AudioFile.open(data, name=str(example.get("id", key)))
    rest = {k: v for k, v in example.items() if k != key}
    of_any_length({**rest, to: file}, to)
    return {**rest, to: file, "sr": file.sr}

  return fn


def read_wav(wav) -> np.ndarray:
  """The array of a recording, read if it is not."""
  return wav.numpy() if hasattr(wav, "read") else np.asarray(wav)


def _one_length(secs, samples):
  if (secs is None) == (samples is None):
    raise OpError("needs a length: either secs or samples.")
  if (secs if samples is None else samples) <= 0:
    raise OpError("needs a length above zero.")


def _length(example, secs, samples) -> int:
  return int(samples) if secs is None else round(secs * int(take(example, "sr")))


def _who(example, total) -> str:
  sr = example.get("sr")
  secs = f" ({total / int(sr):.1f} s)" if sr else ""
  return f'"{example.get("id", "the example")}" has {total}{secs}'


def _call(name, secs, samples, key) -> str:
  length = f"samples={samples}" if secs is None else f"secs={secs}"
  return f"{name}({length})" if key == "wav" else f"{name}({length}, key={key!r})"
