"""Encoding and decoding while the sound still comes in, bit-equal to the whole recording.

codec = WindowCodec(open_workdir("runs/codec"), core=10)
encoder, decoder = StreamEncoder(codec), StreamDecoder(codec, nfe=1)
for block in microphone:                    # f32[n, C], any n
  play(decoder.push(encoder.push(block)))   # late by codec.latency() + codec.latency(nfe=1)
play(decoder.push(encoder.finish()))
play(decoder.finish(samples=encoder.samples))
"""

import numpy as np


class _Window:
  """A queue of rows with absolute positions; what no window needs any more is dropped."""

  def __init__(self, empty: np.ndarray):
    self.rows, self.at, self._empty = empty, 0, empty

  @property
  def end(self) -> int:
    """Position behind the last row."""
    return self.at + len(self.rows)

  def push(self, rows) -> None:
    self.rows = np.concatenate([self.rows, rows])

  def forget(self, before: int) -> None:
    drop = min(max(0, before - self.at), len(self.rows))
    self.rows, self.at = self.rows[drop:], self.at + drop


class StreamEncoder:
  """Samples in, codes out.

  Args:
    codec: a `WindowCodec`; its core decides about the latency.

  Attributes:
    samples: fed so far.
  """

  def __init__(self, codec):
    self._codec, self._first, self._open = codec, 0, True
    self._queue = _Window(np.zeros((0, codec.channels), np.float32))

  @property
  def samples(self) -> int:
    return self._queue.end

  def push(self, wav) -> np.ndarray:
    """f32[n, C] -> codes int32[m, k] of the tokens that are complete now; m may be 0.

    Raises:
      ValueError: another number of channels, or the stream is finished.
    """
    wav = np.asarray(wav, np.float32)
    if wav.ndim != 2 or wav.shape[1] != self._codec.channels:
      raise ValueError(
        f"StreamEncoder: expected f32[n, {self._codec.channels}], got {list(wav.shape)}."
      )
    if not self._open:
      raise ValueError("StreamEncoder: the stream is finished; make a new one.")
    self._queue.push(wav)
    return self._advance(None)

  def finish(self) -> np.ndarray:
    """The codes of all that is left; together ceil(samples / hop) rows were given then."""
    self._open = False
    return self._advance(self.samples)

  def _advance(self, samples):
    codec, out = self._codec, []
    left, right = codec.context()
    core = codec.core()
    while True:
      if samples is None:
        if (self._first + core + right) * codec.hop > self._queue.end:
          break
      elif self._first >= codec.num_tokens(samples):
        break
      out.append(codec.encode_window(self._first, self._queue.rows, self._queue.at, samples))
      self._first += core
      self._queue.forget((self._first - left) * codec.hop)
    return np.concatenate(out) if out else np.zeros((0, len(codec.levels)), np.int32)


class StreamDecoder:
  """Codes in, samples out.

  Args:
    codec: a `WindowCodec`.
    nfe: evaluations of the refiner; 0 is the deterministic decoder.
    seed: of the noise, in [0, 2^32).
  """

  def __init__(self, codec, *, nfe: int = 1, seed: int = 0):
    codec.check_decoding(nfe, seed)
    self._codec, self._nfe, self._seed, self._first, self._open = codec, nfe, seed, 0, True
    self._queue = _Window(np.zeros((0, len(codec.levels)), np.int32))

  def push(self, codes) -> np.ndarray:
    """Codes int[n, k] -> f32[m, C], the samples that are certain now; m may be 0.

    Raises:
      ValueError: another number of groups, or the stream is finished.
    """
    codes = np.asarray(codes)
    if codes.ndim != 2 or codes.shape[1] != len(self._codec.levels):
      raise ValueError(
        f"StreamDecoder: expected int[n, {len(self._codec.levels)}], got {list(codes.shape)}."
      )
    if not self._open:
      raise ValueError("StreamDecoder: the stream is finished; make a new one.")
    self._queue.push(codes)
    return self._advance(None)

  def finish(self, samples: int) -> np.ndarray:
    """The rest of a recording of so many samples.

    Raises:
      ValueError: the codes that came in are not those of so many samples.
    """
    if self._codec.num_tokens(samples) != self._queue.end:
      raise ValueError(
        f"StreamDecoder: {samples} samples are {self._codec.num_tokens(samples)} tokens, "
        f"{self._queue.end} came in."
      )
    self._open = False
    return self._advance(samples)

  def _advance(self, samples):
    codec, out = self._codec, []
    left, right = codec.context(self._nfe)
    core = codec.core(self._nfe)
    while True:
      # The last token's end is unknown until the stream is finished: a window never ends on it.
      if samples is None:
        if self._first + core + right > self._queue.end:
          break
      elif self._first >= codec.num_tokens(samples):
        break
      out.append(
        codec.decode_window(
          self._first, self._queue.rows, self._queue.at, samples, self._nfe, self._seed
        )
      )
      self._first += core
      self._queue.forget(self._first - left)
    return np.concatenate(out) if out else np.zeros((0, codec.channels), np.float32)
