"""Damaged and forged files, by the thousand: an error that names the file, or codes in range."""

import math
import struct
import tracemalloc

import numpy as np
import pytest

from proj.meanflow_codec import bitstream, codec, entropy
from proj.meanflow_codec.bitstream import BitstreamError, Header, Reader
from proj.meanflow_codec.header import finish_crc

ONE, THREE = ((4, 4, 4, 4, 4),), ((4, 4, 4, 4, 4), (4, 4, 2), (3,))
FRAMES, HOP = 8, 160  # their bits fill whole bytes: a forged payload has no wrong spare bits
KINDS = [(coding, groups) for coding in ("packed", "range") for groups in (ONE, THREE)]
NAMES = [f"{coding}-{len(groups)}" for coding, groups in KINDS]
MOST_MEMORY = 4 << 20  # bytes, for files of about 150
# Where the fields stand, from the docstring of header.py.
FIELDS = {
  8: "H", 10: "H", 16: "I", 20: "I", 24: "I", 28: "I", 32: "Q", 40: "Q", 48: "Q", 56: "16s",
  72: "Q", 80: "H",
}  # fmt: skip


def make_coder(groups, seed=0, favour=None, sure=5.0):
  """A range coder with a prior of random weights, or one that is `sure` (nats) of `favour`."""
  rng, sizes, units, context = np.random.default_rng(seed), [n for g in groups for n in g], 4, 2
  d, n = len(sizes), max(sizes)
  shapes = dict(
    hidden_in=(context + 1, d, n, d, units), hidden_bias=(d, units),
    hidden_mix=(d, units, d, units), out=(d, units, n), out_in=(context + 1, d, n, d, n),
    out_bias=(d, n),
  )  # fmt: skip
  scale = 0.3 if favour is None else 0.0
  params = {k: scale * rng.standard_normal(s) for k, s in shapes.items()}
  if favour is not None:
    params["out_bias"][:, favour] = sure
  return entropy.Coder(entropy.IntegerPrior(params, groups))


def make_file(coding, groups):
  """(bytes, coder or None)."""
  coder = make_coder(groups) if coding == "range" else None
  header = Header(
    8000, 1, HOP, groups, bytes(range(16)), 7, FRAMES * HOP - 3, range_coded=coding == "range"
  )
  codes = np.random.default_rng(1).integers(0, header.sizes, (FRAMES, len(groups)))
  return bitstream.dumps(codes, header, coder), coder


def flip(data, rng):
  bad = bytearray(data)
  for at in rng.integers(0, len(data), rng.integers(1, 9)):
    bad[at] ^= int(rng.integers(1, 256))
  return bytes(bad)


def cut(data, rng):
  """Loses its end, its beginning or something between."""
  a, b = sorted(rng.integers(0, len(data) + 1, 2))
  return [data[:a], data[b:], data[:a] + data[b:]][rng.integers(3)]


def insert(data, rng):
  at = rng.integers(len(data) + 1)
  return data[:at] + rng.bytes(rng.integers(1, 40)) + data[at:]


def swap(data, rng):
  """Two blocks change places."""
  n = int(rng.integers(1, len(data) // 3))
  a = int(rng.integers(0, len(data) - 2 * n + 1))
  b = int(rng.integers(a + n, len(data) - n + 1))
  return data[:a] + data[b : b + n] + data[a + n : b] + data[a : a + n] + data[b + n :]


def repeat(data, rng):
  """A block overwrites another, or comes twice."""
  a, b = sorted(rng.integers(0, len(data) + 1, 2))
  at = int(rng.integers(len(data)))
  return [data[:b] + data[a:], data[:at] + data[a:b] + data[at + b - a :]][rng.integers(2)]


def blank(data, rng):
  """As lost sectors are read."""
  a, b = sorted(rng.integers(0, len(data) + 1, 2))
  return data[:a] + bytes([rng.choice([0, 255])]) * (b - a) + data[b:]


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_no_damage_passes(kind, tmp_path):
  """Ten thousand in all, beside every single bit and every length of each file."""
  data, coder = make_file(*kind)
  path, rng = tmp_path / "a.bac", np.random.default_rng(0)
  bits = [
    data[:i] + bytes([data[i] ^ 1 << k]) + data[i + 1 :] for i in range(len(data)) for k in range(8)
  ]
  lengths = [data[:i] for i in range(len(data))] + [data + b"\0", data + data]
  damages = [flip, cut, insert, swap, repeat, blank]
  random = (damages[i % len(damages)](data, rng) for i in range(2600))
  found = 0
  tracemalloc.start()
  for bad in (*bits, *lengths, *random):
    if bad == data:
      continue
    path.write_bytes(bad)
    with pytest.raises(BitstreamError) as e, Reader(path, coder) as r:
      r.read()
    assert str(e.value).startswith(f"{path}: ")
    found += 1
  assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
  tracemalloc.stop()
  assert found > len(bits) + len(lengths) + 2500
  path.write_bytes(data)
  with Reader(path, coder) as r:
    assert r.read().shape == (FRAMES, len(kind[1]))


def reseal(data):
  """What a hostile writer would do: make the CRC fit."""
  head = struct.unpack_from("<I", data, 16)[0]
  head = min(head, len(data))
  crc = finish_crc(bitstream.zlib.crc32(data[head:]), data[:head])
  return data[:12] + struct.pack("<I", crc) + data[16:]


def a_number(fmt, true, rng):
  """An evil value for a field, or any."""
  most = 2 ** (8 * struct.calcsize(fmt)) - 1
  options = [0, 1, true - 1, true + 1, 2 * true, 5 * true, most, most // 2, rng.integers(0, 2**16)]
  return int(np.clip(options[rng.integers(len(options))], 0, most))


def forge(data, rng):
  """Some fields, the table of levels or the payload changed, sizes made to agree, and resealed."""
  bad, head = bytearray(data), struct.unpack_from("<I", data, 16)[0]
  for _ in range(rng.integers(1, 3)):
    kind = rng.integers(5)
    if kind == 0:
      at = int(rng.choice(list(FIELDS)))
      fmt = FIELDS[at]
      true = 0 if fmt == "16s" else struct.unpack_from("<" + fmt, bad, at)[0]
      value = rng.bytes(16) if fmt == "16s" else a_number(fmt, true, rng)
      struct.pack_into("<" + fmt, bad, at, value)
    elif kind == 1:  # a length, and the number of frames that belongs to it
      hop = max(1, struct.unpack_from("<I", bad, 24)[0])
      samples = a_number("Q", FRAMES * HOP, rng)
      struct.pack_into("<QQ", bad, 32, samples, -(-samples // hop))
    elif kind == 2:
      bad[rng.integers(82, head)] = rng.integers(256)
    else:  # another payload, of the same length or not; mostly with the length of its block
      n = len(bad) - head if kind == 3 else 4 * int(rng.integers(0, 30))
      bad[head:] = rng.bytes(n)
      if data[10] and n >= 4 and rng.random() < 0.8:
        struct.pack_into("<I", bad, head, n - 4)
      struct.pack_into("<Q", bad, 72, n)
  return reseal(bytes(bad))


@pytest.mark.parametrize(
  "kind", [*KINDS[:2], *(pytest.param(k, marks=pytest.mark.slow) for k in KINDS[2:])], ids=NAMES
)
def test_a_forged_file_is_refused_or_has_codes_in_range(kind, tmp_path):
  data, coder = make_file(*kind)
  path, rng, read = tmp_path / "a.bac", np.random.default_rng(2), 0
  tracemalloc.start()
  for _ in range(600 if coder is None else 300):
    path.write_bytes(forge(data, rng))
    try:
      with Reader(path, coder) as r:
        assert r.payload_bytes >= (r.header.packed_bytes if coder is None else 8)
        assert r.frames <= 4096 * r.payload_bytes // 8
        codes = r.read()
    except ValueError as e:  # a BitstreamError, or that a reader of packed files has no coder
      assert isinstance(e, BitstreamError) or "needs the coder" in str(e)
      assert str(e).startswith(f"{path}: ")
      continue
    read += 1
    assert codes.shape == (r.frames, len(r.header.levels))
    assert ((codes >= 0) & (codes < r.header.sizes)).all()
  assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
  tracemalloc.stop()
  assert 15 < read < 500


class Silence:
  """Stands in for a `WindowCodec`: decodes anything of its own kind to silence."""

  sr, channels, hop, model_hash, rates = 8000, 1, HOP, bytes(range(16)), (1, 3)

  def __init__(self, levels, coder):
    self.levels, self.coder = levels, coder

  def with_groups(self, groups):
    assert groups in self.rates
    return self

  def decode_stream(self, read, samples, *, nfe, seed):
    if not 0 <= seed < 2**32:
      raise ValueError(f"seed must lie in [0, 2^32), got {seed}.")
    for start in range(0, math.ceil(samples / HOP), 4):
      codes = read(start, min(4, math.ceil(samples / HOP) - start))
      yield np.zeros((min(len(codes) * HOP, samples - start * HOP), 1), np.float32)


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_decoding_a_forged_file(kind, tmp_path):
  """Through the command's own function: a sound, or an error with the name and nothing left."""
  data, coder = make_file(*kind)
  path, out, rng = tmp_path / "a.bac", tmp_path / "a.wav", np.random.default_rng(3)
  mine, written = Silence(kind[1], coder), 0
  evil = [bytearray(data) for _ in range(3)]
  struct.pack_into("<Q", evil[0], 48, 2**32)  # a seed that no decoder takes
  struct.pack_into("<I", evil[1], 20, 8001)
  struct.pack_into("<I", evil[2], 28, 2)
  for bad in (*(reseal(bytes(e)) for e in evil), *(forge(data, rng) for _ in range(150))):
    path.write_bytes(bad)
    try:
      codec.decode_file(mine, str(path), str(out))
    except ValueError as e:
      assert str(path) in str(e)
      assert [p.name for p in tmp_path.iterdir()] == ["a.bac"]
      continue
    written += 1
    out.unlink()
  assert written < 100
