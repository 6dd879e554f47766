"""The head of a codec file: what a decoder has to know, and how it is written.

Layout, little endian, no padding:

  0   8s  magic                   32  u64 samples of one channel, exact
  8   u16 version                 40  u64 frames = ceil(samples / hop)
  10  u16 flags                   48  u64 noise seed
  12  u32 CRC32                   56  16s model hash
  16  u32 header bytes            72  u64 payload bytes
  20  u32 sample rate, Hz         80  u16 groups G, then for each group:
  24  u32 hop, samples a frame            u8 n, n x u16 FSQ levels
  28  u32 channels
  --  payload: for every frame, for every group, its code with ceil(log2(prod(levels))) bits, most
      significant bit first, without gaps; the last byte is filled with zero bits.
      With flag 1 (range coding, entropy.py): for every block of 4096 frames, u32 bytes and the
      range coder's words of four bytes, one or more.

A code is one mixed-radix number: with levels (8, 5, 5, 5) it is below 1000 and takes 10 bits. The
CRC32 is that of the payload followed by the header without the CRC field: in this order it can be
computed while codes stream out and the header, written last, is covered too.
"""

import dataclasses
import math
import operator
import struct
import zlib

import numpy as np

MAGIC = b"BAcodec\x1a"  # 0x1a ends `type` on DOS and is no text: a habit of PNG
VERSION = 1
MAX_GROUPS, MAX_LEVELS, MAX_CODES = 1024, 16, 1 << 31  # codes fit int32

_FIXED = struct.Struct("<8sHHIIIIIQQQ16sQH")
CRC_AT = slice(12, 16)
RANGE_CODED = 1  # the only flag
BLOCK_FRAMES = 4096  # of a range-coded block; a multiple of 8: packed ones start on whole bytes
# Its length and one word. Nothing more can be asked for: a symbol that the prior is sure of costs
# about 2^-15 bits (frequencies are integers that sum to 2^16), a block of them less than a word.
LEAST_BLOCK_BYTES = 8


class BitstreamError(ValueError):
  """A file, header or code that is not what the format says: where, expected, got."""


@dataclasses.dataclass(frozen=True)
class Header:
  """What a decoder has to know.

  Attributes:
    sample_rate: int, Hz.
    channels: int.
    hop: int, samples (of each channel) a frame.
    levels: one tuple of FSQ levels per group, e.g. ((8, 5, 5, 5),) * 4 for 4 x 10 bits a frame.
      A plain codebook of n entries is (n,), n <= 65535.
    model_hash: 16 bytes that name the model.
    noise_seed: int in [0, 2^64), seed of the decoder's noise.
    samples: int, exact length of each channel; None while writing if not known yet.
    range_coded: whether codes are range coded; then writer and reader need a coder.
  """

  sample_rate: int
  channels: int
  hop: int
  levels: tuple
  model_hash: bytes
  noise_seed: int = 0
  samples: int | None = None
  range_coded: bool = False

  def __post_init__(self):
    _check("levels", len(self.levels), 1, MAX_GROUPS, "groups")
    object.__setattr__(self, "levels", tuple(tuple(map(int, g)) for g in self.levels))
    for name, low, high in [
      ("sample_rate", 1, 2**32 - 1),
      ("channels", 1, 2**16),
      ("hop", 1, 2**32 - 1),
      ("noise_seed", 0, 2**64 - 1),
    ]:
      object.__setattr__(self, name, _check(name, getattr(self, name), low, high))
    if self.samples is not None:
      object.__setattr__(self, "samples", _check("samples", self.samples, 0, 2**63))
    for i, group in enumerate(self.levels):
      _check(f"levels[{i}]", len(group), 1, MAX_LEVELS, "levels")
      for level in group:
        _check(f"levels[{i}]", level, 2, 2**16 - 1)
      _check(f"levels[{i}]", math.prod(group), 2, MAX_CODES, "as a product")
    if not isinstance(self.model_hash, bytes) or len(self.model_hash) != 16:
      raise BitstreamError(f"header: model_hash must be 16 bytes, got {self.model_hash!r}.")

  @property
  def sizes(self):
    """Codes per group: int64[G]."""
    return np.array([math.prod(g) for g in self.levels], np.int64)

  @property
  def bits(self):
    """Bits of each group's code: tuple of G ints."""
    return tuple((math.prod(g) - 1).bit_length() for g in self.levels)

  @property
  def frames(self):
    """ceil(samples / hop)."""
    return -(-self.samples // self.hop)

  @property
  def packed_bytes(self):
    """Bytes of all codes, packed; a range-coded payload is shorter, mostly."""
    return -(-self.frames * sum(self.bits) // 8)

  @property
  def least_bytes(self):
    """Bytes that a payload has at least; packed: exactly."""
    if not self.range_coded:
      return self.packed_bytes
    return -(-self.frames // BLOCK_FRAMES) * LEAST_BLOCK_BYTES


def _check(name, value, low, high, unit=""):
  try:
    value = operator.index(value)
  except TypeError:
    raise BitstreamError(f"header: {name} must be an int, got {value!r}.") from None
  if not low <= value <= high:
    unit = f" {unit}" if unit else ""
    raise BitstreamError(f"header: expected {name} in {low}..{high}{unit}, got {value}.")
  return value


def serialise(header, payload_bytes, crc=0):
  """The header as bytes, with this checksum in it."""
  table = b"".join(struct.pack(f"<B{len(g)}H", len(g), *g) for g in header.levels)
  fixed = _FIXED.pack(
    MAGIC,
    VERSION,
    RANGE_CODED if header.range_coded else 0,
    crc,
    _FIXED.size + len(table),
    header.sample_rate,
    header.hop,
    header.channels,
    header.samples,
    header.frames,
    header.noise_seed,
    header.model_hash,
    payload_bytes,
    len(header.levels),
  )
  return fixed + table


def finish_crc(payload_crc, raw_header):
  """The CRC32 of payload and header, from that of the payload."""
  return zlib.crc32(raw_header[CRC_AT.stop :], zlib.crc32(raw_header[: CRC_AT.start], payload_crc))


def parse(f, size, where):
  """Reads and checks a header: (Header, its raw bytes). Nothing is trusted before it is checked."""

  def need(ok, what, expected, got):
    if not ok:
      raise BitstreamError(f"{where}: {what}: expected {expected}, got {got}.")

  raw = f.read(_FIXED.size)
  need(raw[:8] == MAGIC[: len(raw)] and raw, "magic at byte 0", MAGIC, raw[:8])
  need(len(raw) == _FIXED.size, "file size (truncated?)", f">= {_FIXED.size} bytes", size)
  _, version, flags, _, head, rate, hop, chans, samples, frames, seed, digest, payload, groups = (
    _FIXED.unpack(raw)
  )
  need(version == VERSION, "version at byte 8", VERSION, version)
  need(flags in (0, RANGE_CODED), "flags at byte 10", f"0 or {RANGE_CODED}", flags)
  need(1 <= groups <= MAX_GROUPS, "groups at byte 80", f"1..{MAX_GROUPS}", groups)
  most = _FIXED.size + groups * (1 + 2 * MAX_LEVELS)
  need(_FIXED.size < head <= most, "header bytes at byte 16", f"{_FIXED.size + 1}..{most}", head)
  need(head + payload == size, "file size (truncated?)", f"{head} + {payload} bytes", size)
  raw += f.read(head - _FIXED.size)
  at, levels = _FIXED.size, []
  for i in range(groups):
    n = raw[at] if at < len(raw) else 0
    need(1 <= n <= MAX_LEVELS, f"levels of group {i} at byte {at}", f"1..{MAX_LEVELS}", n)
    need(at + 1 + 2 * n <= len(raw), f"levels of group {i} at byte {at}", "them in the header", n)
    levels.append(struct.unpack_from(f"<{n}H", raw, at + 1))
    at += 1 + 2 * n
  need(at == head, "header bytes at byte 16", at, head)
  try:
    header = Header(rate, chans, hop, tuple(levels), digest, seed, samples, bool(flags))
  except BitstreamError as e:
    raise BitstreamError(f"{where}: {e}") from None
  need(frames == header.frames, "frames at byte 40", f"ceil({samples} / {hop})", frames)
  if header.range_coded:
    least = header.least_bytes
    need(payload >= least, "payload bytes at byte 72", f">= {least}", payload)
  else:
    need(payload == header.packed_bytes, "payload bytes at byte 72", header.packed_bytes, payload)
  return header, raw
