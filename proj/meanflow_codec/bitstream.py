"""The codec's file: a header, then the codes of every frame packed to the bit.

  with Writer("a.bac", Header(sample_rate=16000, channels=1, hop=320, levels=((8, 5, 5, 5),) * 2,
                              model_hash=digest, noise_seed=7)) as w:
    w.write(codes)                                    # int[F,G], as often as there is more
    w.samples = 123456                                # exact length, known at the end
  with Reader("a.bac") as r:
    codes = r.read(0, 100)                            # int32[100,G]

The header's layout stands in header.py. numpy and the standard library only; memory does not grow
with the length of the file. A file cannot make a reader allocate: all sizes are checked against the
true size of the file first. Range-coded silence costs next to nothing, so a short file may hold
much: of a hostile one, every 8 bytes can cost the time to decode 4096 frames, and their sound. What
is in memory at a time stays two such blocks and whatever a caller asks for at once.
"""

import dataclasses
import io
import os
import struct
import zlib

import numpy as np

from proj.meanflow_codec.header import (
  BLOCK_FRAMES,
  CRC_AT,
  LEAST_BLOCK_BYTES,
  BitstreamError,
  Header,
  finish_crc,
  parse,
  serialise,
)

__all__ = ["BitstreamError", "Header", "Reader", "Writer", "dumps", "info", "loads"]

_BLOCK_BYTES = 1 << 16
_LENGTH = struct.Struct("<I")


def _need_coder(header, coder, where):
  if not header.range_coded:
    return
  if coder is None:
    raise ValueError(
      f"{where}: a range-coded file needs the coder of the model that its header names."
    )
  if coder.levels != header.levels:
    raise BitstreamError(
      f"{where}: header: levels {header.levels}, but the coder is one for {coder.levels}."
    )


class _Packer:
  """Codes <-> bits, MSB first, for one quantiser."""

  def __init__(self, header):
    bits = header.bits
    self.sizes, self.frame_bits = header.sizes, sum(bits)
    self._group = np.repeat(np.arange(len(bits)), bits)  # [frame_bits]: whose bit it is
    self._shift = np.concatenate([np.arange(b)[::-1] for b in bits])  # and which
    self._first = np.cumsum([0, *bits[:-1]])

  def check(self, codes, first_frame, where):
    """Raises at the first code that is outside [0, prod(levels))."""
    bad = (codes < 0) | (codes >= self.sizes)
    if bad.any():
      f, g = np.argwhere(bad)[0]
      raise BitstreamError(
        f"{where}: code of frame {first_frame + f}, group {g}: expected 0..{self.sizes[g] - 1}, "
        f"got {codes[f, g]}."
      )

  def to_bits(self, codes):
    """int[F,G] -> u8[F * frame_bits] of 0 and 1."""
    return ((codes.astype(np.int64)[:, self._group] >> self._shift) & 1).astype(np.uint8).ravel()

  def to_codes(self, bits):
    """u8[F * frame_bits] of 0 and 1 -> int64[F,G]."""
    values = bits.reshape(-1, self.frame_bits).astype(np.int64) << self._shift
    return np.add.reduceat(values, self._first, axis=1)


class Writer:
  """Writes a codec file in bounded memory; it appears under its name only when complete.

  Use it as a context manager: an exception inside leaves no file behind.

  Args:
    path: the file to make, or a writable and seekable binary file object: written from where it
      stands, and left behind the last byte.
    header: Header; if its `samples` is None, set the writer's `samples` before it closes.
    coder: with `encode(codes int[F, G]) -> bytes`, for a range-coded file (entropy.Coder).
  """

  def __init__(self, path, header, coder=None):
    self._own = not hasattr(path, "write")
    self._path = os.fspath(path) if self._own else getattr(path, "name", "<memory>")
    _need_coder(header, coder, self._path)
    self._header, self._packer, self._coder = header, _Packer(header), coder
    self._waiting, self._payload_bytes = [], 0
    self.samples, self.frames = header.samples, 0
    self._rest, self._crc = np.zeros(0, np.uint8), 0  # up to 7 bits of an unfinished byte
    self._tmp = f"{self._path}.{os.getpid()}.part"
    self._file = open(self._tmp, "wb") if self._own else path  # noqa: SIM115
    self._begin = self._file.tell()
    self._head_bytes = len(serialise(dataclasses.replace(header, samples=0), 0))
    self._file.write(bytes(self._head_bytes))

  def write(self, codes):
    """Appends frames.

    Args:
      codes: int[F,G], code g in [0, prod(levels[g])).

    Raises:
      BitstreamError: another shape or type, or a code out of range; nothing of it is written.
    """
    codes = np.asarray(codes)
    groups = len(self._header.levels)
    if codes.ndim != 2 or codes.shape[1] != groups or codes.dtype.kind not in "iu":
      raise BitstreamError(
        f"{self._path}: expected codes int[F,{groups}], got {codes.dtype}{list(codes.shape)}."
      )
    self._packer.check(codes, self.frames, self._path)
    for i in range(0, len(codes), BLOCK_FRAMES):
      block = codes[i : i + BLOCK_FRAMES]
      if self._header.range_coded:
        self._gather(block)
      else:
        self._put_bits(np.concatenate([self._rest, self._packer.to_bits(block)]))
    self.frames += len(codes)

  def _gather(self, codes):
    """Range codes every whole block of BLOCK_FRAMES."""
    codes = np.concatenate([*self._waiting, codes])
    while len(codes) >= BLOCK_FRAMES:
      self._put_block(codes[:BLOCK_FRAMES])
      codes = codes[BLOCK_FRAMES:]
    self._waiting = [codes]

  def _put_block(self, codes):
    data = self._coder.encode(codes)
    self._put(_LENGTH.pack(len(data)) + data)

  def _put_bits(self, bits):
    whole = len(bits) // 8 * 8
    data, self._rest = np.packbits(bits[:whole]).tobytes(), bits[whole:]
    self._put(data)

  def _put(self, data):
    self._crc = zlib.crc32(data, self._crc)
    self._payload_bytes += len(data)
    self._file.write(data)

  def close(self):
    """Writes the last byte and the header, then gives the file its name.

    Raises:
      BitstreamError: `samples` is not set, or frames written != ceil(samples / hop).
    """
    if self._file is None:
      return
    try:
      if self.samples is None:
        raise BitstreamError(f"{self._path}: the number of samples was never set.")
      header = dataclasses.replace(self._header, samples=self.samples)
      if self.frames != header.frames:
        raise BitstreamError(
          f"{self._path}: {header.samples} samples at hop {header.hop}: expected {header.frames} "
          f"frames, got {self.frames}."
        )
      if any(map(len, self._waiting)):
        self._put_block(np.concatenate(self._waiting))
      self._put_bits(np.concatenate([self._rest, np.zeros(-len(self._rest) % 8, np.uint8)]))
      size = self._payload_bytes
      if size < header.least_bytes:  # no reader would take it
        raise BitstreamError(
          f"{self._path}: the coder gave {size} bytes for {self.frames} frames, expected >= "
          f"{header.least_bytes}."
        )
      raw = serialise(header, size, finish_crc(self._crc, serialise(header, size)))
      self._file.seek(self._begin)
      self._file.write(raw)
      self._file.seek(self._begin + len(raw) + size)
      self._file.flush()
      if self._own:
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._tmp, self._path)
      self._file = None
    except BaseException:
      self.abort()
      raise

  def abort(self):
    """Drops what was written; a file that had the name before stays as it was."""
    if self._file is not None and self._own:
      self._file.close()
      if os.path.exists(self._tmp):
        os.remove(self._tmp)
    self._file = None

  def __enter__(self):
    return self

  def __exit__(self, kind, *_):
    self.abort() if kind else self.close()


class Reader:
  """Opens a codec file: the header, all sizes and the CRC32 are checked here, codes when read.

  Args:
    source: path, or the file's bytes.
    coder: with `decode(bytes, frames) -> codes`, to read codes of a range-coded file.

  Attributes:
    header: Header with exact samples.
    frames: int.
    payload_bytes: int.

  Raises:
    BitstreamError: not a codec file, truncated, or changed.
    OSError: the file cannot be read.
  """

  def __init__(self, source, coder=None):
    self._coder = coder
    in_memory = isinstance(source, (bytes, bytearray, memoryview))
    self._where = "<memory>" if in_memory else os.fspath(source)
    self._file = io.BytesIO(source) if in_memory else open(source, "rb")  # noqa: SIM115
    try:
      self.size = self._file.seek(0, os.SEEK_END)
      self._file.seek(0)
      self.header, raw = parse(self._file, self.size, self._where)
      self.frames = self.header.frames
      self._packer, self._begin = _Packer(self.header), len(raw)
      self.payload_bytes = self.size - len(raw)
      self._check_crc(raw)
      self._decoded: dict[int, np.ndarray] = {}  # the last two blocks: windows cross their border
      if self.header.range_coded:
        self._blocks = self._find_blocks()
    except BaseException:
      self.close()
      raise

  def _check_crc(self, raw):
    crc, last = 0, b""
    while block := self._file.read(_BLOCK_BYTES):
      crc, last = zlib.crc32(block, crc), block
    crc, expected = finish_crc(crc, raw), int.from_bytes(raw[CRC_AT], "little")
    if crc != expected:
      raise BitstreamError(
        f"{self._where}: CRC32 at byte 12: expected {expected:08x}, got {crc:08x}: the file was "
        "changed or damaged."
      )
    spare = 0 if self.header.range_coded else -self.frames * self._packer.frame_bits % 8
    if spare and last[-1] & ((1 << spare) - 1):
      raise BitstreamError(f"{self._where}: last byte: expected {spare} zero bits, got {last[-1]}.")

  def read(self, start=0, n=None):
    """Codes of frames start .. start + n (None: to the end).

    Returns:
      int32[n,G].

    Raises:
      BitstreamError: a code outside its range, or the file has changed since it was opened.
      ValueError: frames that the file does not have.
    """
    n = self.frames - start if n is None else n
    if start < 0 or n < 0 or start + n > self.frames:
      raise ValueError(
        f"{self._where}: expected frames in 0..{self.frames}, got {start}..{start + n}."
      )
    _need_coder(self.header, self._coder, self._where)
    out = np.empty((n, len(self.header.levels)), np.int32)
    if self.header.range_coded:
      for b in range(start // BLOCK_FRAMES, -(-(start + n) // BLOCK_FRAMES) if n else 0):
        first = b * BLOCK_FRAMES
        codes = self._coded_block(b)[max(0, start - first) : start + n - first]
        at = max(0, first - start)
        out[at : at + len(codes)] = codes
      return out
    for i in range(0, n, BLOCK_FRAMES):
      out[i : i + BLOCK_FRAMES] = self._block(start + i, min(BLOCK_FRAMES, n - i))
    return out

  def _find_blocks(self):
    """[(first byte, bytes)] of every range-coded block."""
    at, found = self._begin, []
    for b in range(-(-self.frames // BLOCK_FRAMES)):
      self._file.seek(at)
      raw = self._file.read(_LENGTH.size)
      size = _LENGTH.unpack(raw)[0] if len(raw) == _LENGTH.size else -1
      at += _LENGTH.size
      least = LEAST_BLOCK_BYTES - _LENGTH.size
      if not least <= size <= self.size - at:
        raise BitstreamError(
          f"{self._where}: block {b} at byte {at}: expected {least}..{self.size - at} bytes, got "
          f"{size}."
        )
      found.append((at, size))
      at += size
    if at != self.size:
      raise BitstreamError(f"{self._where}: expected the blocks to end at {self.size}, got {at}.")
    return found

  def _coded_block(self, b):
    if b not in self._decoded:
      at, size = self._blocks[b]
      self._file.seek(at)
      frames = min(BLOCK_FRAMES, self.frames - b * BLOCK_FRAMES)
      try:
        codes = self._coder.decode(self._file.read(size), frames)
      except ValueError as e:
        raise BitstreamError(f"{self._where}: block {b} at byte {at}: {e}") from None
      self._packer.check(codes, b * BLOCK_FRAMES, self._where)
      self._decoded = {k: v for k, v in self._decoded.items() if abs(k - b) == 1} | {b: codes}
    return self._decoded[b]

  def _block(self, start, n):
    first, bits = start * self._packer.frame_bits, n * self._packer.frame_bits
    begin, end = first // 8, -(-(first + bits) // 8)
    self._file.seek(self._begin + begin)
    data = self._file.read(end - begin)
    if len(data) != end - begin:
      raise BitstreamError(
        f"{self._where}: byte {self._begin + begin}: expected {end - begin} bytes, got "
        f"{len(data)}: the file was cut after it was opened."
      )
    unpacked = np.unpackbits(np.frombuffer(data, np.uint8))
    codes = self._packer.to_codes(unpacked[first % 8 : first % 8 + bits])
    self._packer.check(codes, start, self._where)
    return codes

  def blocks(self, n=BLOCK_FRAMES):
    """Yields int32[<=n,G] until the end: a file of any length in bounded memory."""
    for start in range(0, self.frames, n):
      yield self.read(start, min(n, self.frames - start))

  def close(self):
    """Closes the file."""
    self._file.close()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()


def dumps(codes, header, coder=None):
  """The file of `codes` int[F,G] as bytes; the same bytes as `Writer` puts on disk."""
  buffer = io.BytesIO()
  with Writer(buffer, header, coder) as w:
    w.write(codes)
  return buffer.getvalue()


def loads(data, coder=None):
  """(header, codes int32[F,G]) of a whole file in memory."""
  with Reader(data, coder) as r:
    return r.header, r.read()


def info(path):
  """What a file says about itself, after all checks of `Reader`.

  Args:
    path: the file, or its bytes.

  Returns:
    dict: coding ("packed" or "range"), sample_rate (Hz), channels, samples, secs, hop, frames,
    levels, bits_per_frame, model_hash (hex), noise_seed, header_bytes, payload_bytes, packed_bytes
    (what the payload has or would have packed), bytes, and kbps = bytes * 8 / secs / 1000 with the
    header, payload_kbps and packed_kbps without (None for a file of no samples); saving = 1 -
    payload_bytes / packed_bytes, the share that range coding took off (0 for a packed file).
  """
  with Reader(path) as r:
    h = r.header
    secs = h.samples / h.sample_rate

    def kbps(size):
      return size * 8 / secs / 1000 if secs else None

    return {
      "coding": "range" if h.range_coded else "packed",
      "sample_rate": h.sample_rate,
      "channels": h.channels,
      "samples": h.samples,
      "secs": secs,
      "hop": h.hop,
      "frames": h.frames,
      "levels": [list(g) for g in h.levels],
      "bits_per_frame": sum(h.bits),
      "model_hash": h.model_hash.hex(),
      "noise_seed": h.noise_seed,
      "header_bytes": r.size - r.payload_bytes,
      "payload_bytes": r.payload_bytes,
      "packed_bytes": h.packed_bytes,
      "bytes": r.size,
      "kbps": kbps(r.size),
      "payload_kbps": kbps(r.payload_bytes),
      "packed_kbps": kbps(h.packed_bytes),
      "saving": 1 - r.payload_bytes / h.packed_bytes if h.packed_bytes else 0.0,
    }
