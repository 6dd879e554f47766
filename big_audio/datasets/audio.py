"""A recording that is read only where it is needed.

`AudioFile` knows the length before anything is decoded, so a crop seeks to its span. Rates are
converted while reading (soxr, HQ): the span is read with a margin on both sides, so that a crop
equals the same samples of the converted whole up to the filter's tail (below 1e-4).

wav, flac, ogg, opus and mp3 are decoded by libsndfile; m4a, mp4 and aac by PyAV, which is imported
when such a file is met.
"""

import io
import math
import os
from dataclasses import dataclass

import numpy as np
import soundfile
import soxr

from big_audio.datasets.errors import DecodeError

SNDFILE = frozenset((".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff"))
AV = frozenset((".m4a", ".mp4", ".aac"))
_MARGIN = 256  # samples at the lower of the two rates; soxr's HQ filter reaches about 100


@dataclass(frozen=True)
class AudioFile:
  """An unread recording, with or without conversion of rate and channels.

  Attributes:
    path: a path, or the bytes of a whole file.
    native_sr: Hz in the file.
    frames: samples per channel in the file (from `start`, if given).
    native_channels: channels in the file.
    sr: Hz of what `read` returns; default `native_sr`.
    channels: of what `read` returns: 1 is the mean, n of 1 is a copy; default `native_channels`.
    start: first sample of the file that belongs to the recording, at `native_sr`.
    name: how errors call it; default the path.
  """

  path: str | os.PathLike | bytes
  native_sr: int
  frames: int
  native_channels: int
  sr: int = 0
  channels: int = 0
  start: int = 0
  name: str = ""

  def __post_init__(self):
    set_ = object.__setattr__  # the way to fill defaults of a frozen dataclass
    set_(self, "sr", self.sr or self.native_sr)
    set_(self, "channels", self.channels or self.native_channels)
    set_(self, "name", self.name or str(self.path if not isinstance(self.path, bytes) else "bytes"))
    if self.channels != self.native_channels and 1 not in (self.channels, self.native_channels):
      raise ValueError(
        f'"{self.name}": cannot make {self.channels} channels of {self.native_channels}. '
        f"Use channels=1 or channels={self.native_channels}."
      )

  @classmethod
  def open(cls, path, *, sr: int = 0, channels: int = 0, name: str = "") -> "AudioFile":
    """Reads the header of a file.

    Raises:
      DecodeError: the header cannot be read.
    """
    native_sr, frames, native_channels = probe(path)
    return cls(path, native_sr, frames, native_channels, sr, channels, name=name)

  @property
  def shape(self) -> tuple[int, int]:
    """(T, C) of the whole recording after conversion; T = ceil(frames * sr / native_sr)."""
    return -(-self.frames * self.sr // self.native_sr), self.channels

  def numpy(self) -> np.ndarray:
    """The whole recording, f32[T,C]."""
    return self.read(0, self.shape[0])

  def read(self, start: int, n: int) -> np.ndarray:
    """Samples [start, start + n) after conversion.

    Args:
      start: first sample at `sr`.
      n: number of samples at `sr`.

    Returns:
      f32[n,C] in [-1,1] (lossy codecs and float files may exceed it).

    Raises:
      ValueError: the span is not inside the recording.
      DecodeError: the file is damaged there, shorter than its header says, or not finite.
    """
    total = self.shape[0]
    if start < 0 or n < 0 or start + n > total:
      raise ValueError(
        f'"{self.name}": samples [{start}, {start + n}) are outside of the {total} at {self.sr} Hz.'
      )
    return self._native(start, n) if self.sr == self.native_sr else self._resampled(start, n)

  def _resampled(self, start, n):
    common = math.gcd(self.native_sr, self.sr)
    up, down = self.sr // common, self.native_sr // common
    # Sample k * up of the output lies on sample k * down of the file. Begin there, with a margin.
    margin = -(-_MARGIN * max(1, down / up) // down)
    first = max(0, start // up - int(margin))
    last = min(-(-(start + n) // up) + int(margin), -(-self.frames // down))
    begin, end = first * down, min(last * down, self.frames)
    wav = self._native(begin, end - begin)
    wav = soxr.resample(wav, self.native_sr, self.sr).astype(np.float32, copy=False)
    wav = wav[start - first * up : start - first * up + n]
    # soxr rounds lengths to nearest; shape promises ceil.
    return np.pad(wav, ((0, n - len(wav)), (0, 0))) if len(wav) < n else wav

  def _native(self, start, n):
    wav = _read(self.path, self.name, self.start + start, n, self.native_sr)
    if wav.shape[1] != self.native_channels:
      raise DecodeError(
        f'"{self.name}": {wav.shape[1]} channels, {self.native_channels} when it was indexed.'
      )
    if self.channels == self.native_channels:
      return wav
    if self.channels == 1:
      return wav.mean(1, keepdims=True, dtype=np.float32)
    return np.repeat(wav, self.channels, axis=1)


def probe(path) -> tuple[int, int, int]:
  """Reads a header: (sr in Hz, samples per channel, channels).

  Raises:
    DecodeError: it cannot be read.
  """
  if _is_av(path):
    from big_audio.datasets import audio_av

    return audio_av.probe(path)
  try:
    info = soundfile.info(_openable(path))
  except (soundfile.LibsndfileError, OSError, TypeError) as e:
    raise DecodeError(_reason(e)) from e
  return info.samplerate, info.frames, info.channels


def _read(path, name, start, n, sr) -> np.ndarray:
  if _is_av(path):
    from big_audio.datasets import audio_av

    return audio_av.read(path, name, start, n)
  try:
    with soundfile.SoundFile(_openable(path)) as f:
      if f.samplerate != sr:
        raise DecodeError(f'"{name}": {f.samplerate} Hz, {sr} Hz when it was indexed.')
      if start:
        f.seek(start)
      wav = f.read(n, dtype="float32", always_2d=True)
      integers = f.subtype.startswith("PCM_")
  except (soundfile.LibsndfileError, OSError) as e:
    raise DecodeError(f'"{name}": {_reason(e)}') from e
  if len(wav) != n:
    raise DecodeError(f'"{name}": ends at sample {start + len(wav)} of {start + n}.')
  # The sum is finite exactly when all samples are (audio is far from overflow): no array of bools.
  if not integers and not math.isfinite(float(wav.sum())):
    raise DecodeError(f'"{name}": samples are NaN or infinite.')
  return wav


def _openable(path):
  """Bytes as a file; a name in the system's bytes, since it need not be UTF-8."""
  return io.BytesIO(path) if isinstance(path, bytes) else os.fsencode(path)


def _is_av(path) -> bool:
  return not isinstance(path, bytes) and os.fspath(path).lower().endswith(tuple(AV))


def _reason(e: Exception) -> str:
  return str(getattr(e, "error_string", e)).strip().rstrip(".")
