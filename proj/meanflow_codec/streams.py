"""Encoding and decoding while the sound still comes in, bit-equal to the whole recording.

codec = WindowCodec(open_workdir("runs/codec"), core=10)
encoder, decoder = StreamEncoder(codec), StreamDecoder(codec, nfe=1)
for block in microphone:                    # f32[n, C], any n
  play(decoder.push(encoder.push(block)))   # late by codec.latency() + codec.latency(nfe=1)
play(decoder.push(encoder.finish()))
play(decoder.finish(samples=encoder.samples))

`pipe` does that with 16-bit samples of two files, a microphone and a loudspeaker for instance.
"""

import time
from collections.abc import Callable
from typing import BinaryIO

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


def to_pcm(wav: np.ndarray) -> np.ndarray:
  """f32[n, C] in [-1, 1] -> int16[n, C], rounded; what lies beyond full scale is clipped."""
  return np.clip(np.round(wav * 32768), -32768, 32767).astype(np.int16)


def pipe(
  codec,
  source: BinaryIO,
  sink: BinaryIO,
  *,
  nfe: int = 1,
  seed: int = 0,
  say: Callable[[str], None] = lambda text: None,
) -> dict:
  """Codes and decodes 16-bit samples as they come, until `source` ends.

  Args:
    codec: a `WindowCodec`; its core decides about the latency.
    source: buffered; s16le, channels interleaved, at the codec's rate.
    sink: the same, as many samples; each block is written and flushed as soon as it is known.
    nfe: evaluations of the refiner; 0 is the deterministic decoder.
    seed: of the noise, in [0, 2^32).
    say: takes a line before the first sample is read, and one at the end.

  Returns:
    {"samples", "payload_bits": of the packed codes, "secs": time spent computing}.

  Raises:
    ValueError: the bytes end inside a sample.
  """
  encoder, decoder = StreamEncoder(codec), StreamDecoder(codec, nfe=nfe, seed=seed)
  wide, spent, tokens = 2 * codec.channels, 0.0, 0
  # Compiles: the first samples would wait for it.
  codec.decode(codec.encode(np.zeros((codec.hop, codec.channels), np.float32)), codec.hop, nfe=nfe)
  say(
    f"{codec.sr} Hz, {codec.channels} channel(s), s16le; {codec.kbps:g} kbps; nfe {nfe}; latency "
    f"{codec.latency():.2f} s to encode and {codec.latency(nfe):.2f} s to decode"
  )

  def put(wav):
    sink.write(to_pcm(wav).astype("<i2").tobytes())
    sink.flush()

  while data := source.read(codec.hop * wide):
    if len(data) % wide:  # only the last block is shorter than asked for
      raise ValueError(
        f"stream: the input ends inside a sample: expected a multiple of {wide} bytes (16 bit, "
        f"{codec.channels} channel(s)), got {encoder.samples * wide + len(data)}."
      )
    begin = time.perf_counter()
    wav = np.frombuffer(data, "<i2").reshape(-1, codec.channels).astype(np.float32) / 32768
    codes = encoder.push(wav)
    out = decoder.push(codes)
    spent, tokens = spent + time.perf_counter() - begin, tokens + len(codes)
    put(out)
  begin = time.perf_counter()
  codes = encoder.finish()
  out = np.concatenate([decoder.push(codes), decoder.finish(encoder.samples)])
  spent, tokens = spent + time.perf_counter() - begin, tokens + len(codes)
  put(out)
  secs = encoder.samples / codec.sr
  bits = tokens * round(codec.kbps * 1000 * codec.hop / codec.sr)
  if secs:
    say(
      f"{secs:.2f} s, {bits / secs / 1000:.3f} kbps of codes, computed {secs / spent:.2g} times as "
      "fast as it came"
    )
  return {"samples": encoder.samples, "payload_bits": bits, "secs": spent}
