"""m4a, mp4 and aac through PyAV, with the contract of `datasets.audio`: exact spans by seeking.

A span equals the slice of the whole except where the encoder has replaced a band by noise (AAC's
perceptual noise substitution): the decoder draws that noise anew.
"""

import numpy as np

from big_audio.datasets.errors import DecodeError

# AAC frames overlap their predecessor and may carry longer prediction: decode this much before.
_PREROLL = 8192


def probe(path) -> tuple[int, int, int]:
  """Reads a header: (sr in Hz, samples per channel, channels) of the first audio stream.

  Raises:
    DecodeError: it cannot be read.
    ValueError: PyAV is not installed.
  """
  av = _av(path)
  try:
    with av.open(str(path)) as file:
      stream = _stream(file, path)
      sr, channels = stream.rate, stream.codec_context.channels
      if stream.duration is None or not _seekable(file):
        # Bare AAC has no index; its length is known after decoding.
        frames = sum(frame.samples for frame in file.decode(stream))
      else:
        frames = round(stream.duration * stream.time_base * sr)
  except (av.FFmpegError, OSError) as e:
    raise DecodeError(str(e)) from e
  return sr, frames, channels


def read(path, name: str, start: int, n: int) -> np.ndarray:
  """Samples [start, start + n) of a file at its own rate, f32[n,C].

  Raises:
    DecodeError: the file is damaged there or ends before.
    ValueError: PyAV is not installed.
  """
  av = _av(path)
  out, filled = None, 0
  try:
    with av.open(str(path)) as file:
      stream = _stream(file, path)
      sr = stream.rate
      out = np.zeros((n, stream.codec_context.channels), np.float32)
      seekable = _seekable(file)
      if seekable and start > _PREROLL:
        target = int((start - _PREROLL) / sr / stream.time_base)
        file.seek(target, stream=stream, backward=True)
      to_float = av.AudioResampler(format="fltp")
      at = 0
      for decoded in file.decode(stream):
        if seekable and decoded.pts is not None:
          at = round(decoded.pts * decoded.time_base * sr)
        for frame in to_float.resample(decoded):
          wav = frame.to_ndarray().T  # [samples,C]
          lo, hi = max(at, start), min(at + len(wav), start + n)
          if lo < hi:
            out[lo - start : hi - start] = wav[lo - at : hi - at]
            filled += hi - lo
          at += len(wav)
        if at >= start + n:
          break
  except (av.FFmpegError, OSError) as e:
    raise DecodeError(f'"{name}": {e}') from e
  if filled != n:
    raise DecodeError(f'"{name}": {filled} of {n} samples from {start} could be decoded.')
  return out


def _stream(file, path):
  if not file.streams.audio:
    raise DecodeError(f'"{path}": no audio stream.')
  return file.streams.audio[0]


def _seekable(file) -> bool:
  return file.format.name != "aac"


def _av(path):
  try:
    import av
  except ModuleNotFoundError:
    raise ValueError(f'"{path}" needs PyAV to be decoded: pip install "big_audio[m4a]".') from None
  return av
