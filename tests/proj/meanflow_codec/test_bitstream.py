"""The codec's file against a plain bit string, hostile headers, and files longer than memory."""

import dataclasses
import math
import os
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proj.meanflow_codec import bitstream
from proj.meanflow_codec.bitstream import BitstreamError, Header, Reader, Writer
from tests.proj.meanflow_codec.test_damage import make_coder, reseal

HASH = bytes(range(16))


def make_header(levels=((8, 5, 5, 5), (3,), (8, 8, 8, 6, 5)), frames=11, hop=320, **kw):
  samples = frames * hop - (hop // 2 if frames else 0)
  return Header(16000, 1, hop, levels, HASH, noise_seed=2**64 - 1, samples=samples, **kw)


def make_codes(header, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, header.sizes, (header.frames, len(header.sizes)))


def plain_payload(codes, header):
  """The definition, with Python strings."""
  text = ""
  for frame in codes:
    for code, levels in zip(frame, header.levels, strict=True):
      text += format(code, f"0{math.ceil(math.log2(math.prod(levels)))}b")
  text += "0" * (-len(text) % 8)
  return bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))


def test_payload_is_the_definition():
  header = make_header()
  assert header.bits == (10, 2, 14)
  codes = make_codes(header)
  data = bitstream.dumps(codes, header)
  payload = plain_payload(codes, header)
  assert data[-header.packed_bytes :] == payload and len(payload) == math.ceil(11 * 26 / 8)
  head = data[: -len(payload)]
  crc = zlib.crc32(payload + head[:12] + head[16:])
  assert struct.unpack_from("<8sHHI", data) == (b"BAcodec\x1a", 1, 0, crc)


@pytest.mark.parametrize("levels,bits", [((2,), 1), ((8,), 3), ((9,), 4), ((8, 8), 6), ((3,), 2)])
def test_powers_of_two_take_no_spare_bit(levels, bits):
  assert make_header((levels,)).bits == (bits,)


def test_bytes_of_version_1_never_change():
  header = make_header(levels=((8, 5, 5, 5),), frames=4)
  data = bitstream.dumps([[0], [999], [1], [512]], header)
  assert data.hex() == (
    "4241636f6465631a" "0100" "0000" "ebe31894" "5b000000"  # magic, version, flags, CRC, header
    "803e0000" "40010000" "01000000"  # 16000 Hz, hop 320, 1 channel
    "6004000000000000" "0400000000000000"  # 1120 samples, 4 frames
    "ffffffffffffffff" "000102030405060708090a0b0c0d0e0f"  # seed, model
    "0500000000000000" "0100" "04" "0800" "0500" "0500" "0500"  # payload bytes, 1 group
    "003e700600"  # 0000000000 1111100111 0000000001 1000000000
  )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
  levels=st.lists(
    st.lists(st.integers(2, 17), min_size=1, max_size=5).map(tuple), min_size=1, max_size=5
  ),
  frames=st.integers(0, 40),
  cuts=st.lists(st.integers(0, 40), max_size=4),
  seed=st.integers(0, 99),
)
def test_round_trip_and_any_chunking_gives_the_same_bytes(levels, frames, cuts, seed):
  header = make_header(tuple(levels), frames)
  codes = make_codes(header, seed)
  data = bitstream.dumps(codes, header)
  assert len(data) - header.packed_bytes == 82 + sum(1 + 2 * len(g) for g in levels)
  got_header, got = bitstream.loads(data)
  assert got_header == header and got.dtype == np.int32
  np.testing.assert_array_equal(got, codes)
  buffer = bitstream.io.BytesIO()
  with Writer(buffer, dataclasses.replace(header, samples=None)) as w:
    for a, b in zip([0, *sorted(cuts)], [*sorted(cuts), frames], strict=True):
      w.write(codes[a:b])
    w.samples = header.samples
  assert buffer.getvalue() == data


def test_random_access_across_blocks(tmp_path, monkeypatch):
  monkeypatch.setattr(bitstream, "BLOCK_FRAMES", 16)
  header = make_header(frames=100)
  codes = make_codes(header)
  with Writer(tmp_path / "a", header) as w:
    w.write(codes)
  assert (tmp_path / "a").read_bytes() == bitstream.dumps(codes, header)
  with Reader(tmp_path / "a") as r:
    for start, n in [(0, 100), (3, 50), (17, 1), (99, 1), (40, 0), (100, 0)]:
      np.testing.assert_array_equal(r.read(start, n), codes[start : start + n])
    np.testing.assert_array_equal(np.concatenate(list(r.blocks(7))), codes)
    for start, n in [(-1, 2), (0, 101), (50, -1)]:
      with pytest.raises(ValueError, match=r"expected frames in 0\.\.100"):
        r.read(start, n)


@pytest.mark.parametrize(
  "at,fmt,value,message",
  [
    (8, "H", 2, "version at byte 8: expected 1, got 2"),
    (10, "H", 4, "flags at byte 10: expected 0 or 1, got 4"),
    (16, "I", 2**31, "header bytes at byte 16"),
    (20, "I", 0, "expected sample_rate in 1"),
    (24, "I", 0, "expected hop in 1"),
    (28, "I", 0, "expected channels in 1"),
    (32, "Q", 2**64 - 1, "expected samples in 0"),
    (32, "Q", 1, r"frames at byte 40: expected ceil\(1 / 320\), got 11"),
    (40, "Q", 2**60, "frames at byte 40"),
    (72, "Q", 2**62, "file size"),
    (80, "H", 0, "groups at byte 80"),
    (80, "H", 2**15, "groups at byte 80"),
    (80, "H", 200, "levels of group 3 at byte"),
    (82, "B", 0, "levels of group 0 at byte 82"),
    (82, "B", 255, "levels of group 0 at byte 82"),
    (83, "H", 1, r"levels\[0\] in 2"),
    (83, "H", 65535, "payload bytes at byte 72"),
  ],
)
def test_a_hostile_header_with_a_valid_crc(at, fmt, value, message):
  header = make_header()
  data = bytearray(bitstream.dumps(make_codes(header), header))
  struct.pack_into("<" + fmt, data, at, value)
  tracemalloc.start()
  with pytest.raises(BitstreamError, match=message):
    Reader(reseal(bytes(data)))
  assert tracemalloc.get_traced_memory()[1] < 1 << 20
  tracemalloc.stop()


def test_a_hostile_payload_with_a_valid_crc():
  header = make_header(levels=((8, 5, 5, 5),), frames=4)
  good = bitstream.dumps([[1], [2], [3], [4]], header)
  head = len(good) - header.packed_bytes
  bits = "".join(format(c, "010b") for c in (1, 2, 1000, 4))
  bad = good[:head] + bytes(int(bits[i : i + 8], 2) for i in range(0, 40, 8))
  with Reader(reseal(bad)) as r:
    np.testing.assert_array_equal(r.read(0, 2), [[1], [2]])
    with pytest.raises(BitstreamError, match=r"frame 2, group 0: expected 0..999, got 1000"):
      r.read(1, 2)
  header = make_header(levels=((8, 5, 5, 5),), frames=1)
  bad = bitstream.dumps([[5]], header)
  bad = reseal(bad[:-1] + bytes([bad[-1] | 1]))
  with pytest.raises(BitstreamError, match="expected 6 zero bits"):
    Reader(bad)


def test_other_files(tmp_path):
  for content, message in [
    (b"", "magic"),
    (b"RIFF....WAVE", "magic at byte 0: expected b'BAcodec"),
    (b"BAcod", "file size"),
  ]:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(BitstreamError, match=message):
      Reader(tmp_path / "x")
  with pytest.raises(FileNotFoundError):
    Reader(tmp_path / "none")


@pytest.mark.parametrize(
  "codes,message",
  [
    (np.zeros((2, 3)), "expected codes int"),
    (np.zeros((2, 2), int), r"int\[F,3\], got int64\[2, 2\]"),
    ([[0, 3, 0]], r"frame 0, group 1: expected 0..2, got 3"),
    ([[-1, 0, 0]], r"group 0: expected 0..999, got -1"),
  ],
)
def test_writer_refuses_codes(tmp_path, codes, message):
  with pytest.raises(BitstreamError, match=message), Writer(tmp_path / "a", make_header()) as w:
    w.write(codes)
  assert list(tmp_path.iterdir()) == []


def test_a_file_appears_complete_or_not_at_all(tmp_path):
  path, header = tmp_path / "a", make_header()
  path.write_bytes(b"before")
  with pytest.raises(RuntimeError), Writer(path, header) as w:
    w.write(make_codes(header))
    raise RuntimeError
  short = pytest.raises(BitstreamError, match="expected 11 frames, got 10")
  with short, Writer(path, header) as w:
    w.write(make_codes(header)[:10])
  unset = dataclasses.replace(header, samples=None)
  with pytest.raises(BitstreamError, match="never set"), Writer(path, unset) as w:
    w.write(make_codes(header))
  assert path.read_bytes() == b"before" and os.listdir(tmp_path) == ["a"]
  with Writer(path, header) as w:
    w.write(make_codes(header))
    assert path.read_bytes() == b"before"
  assert bitstream.info(path)["frames"] == 11 and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize(
  "change,message",
  [
    (dict(levels=()), "levels in 1..1024 groups, got 0"),
    (dict(levels=((),)), r"levels\[0\] in 1..16 levels, got 0"),
    (dict(levels=((65535, 65535),)), "as a product"),
    (dict(hop=0), "hop in 1"),
    (dict(hop=1.5), "hop must be an int, got 1.5"),
    (dict(noise_seed=-1), "noise_seed in 0"),
    (dict(model_hash=b"short"), "16 bytes"),
    (dict(samples=-1), "samples in 0"),
  ],
)
def test_header_checks(change, message):
  with pytest.raises(BitstreamError, match=message):
    dataclasses.replace(make_header(), **change)


def test_info_counts_every_byte(tmp_path):
  header = Header(16000, 2, 320, ((8, 5, 5, 5),) * 4, HASH, samples=16000 * 10 + 1)
  with Writer(tmp_path / "a", header) as w:
    w.write(make_codes(header))
  got = bitstream.info(tmp_path / "a")
  size = os.path.getsize(tmp_path / "a")
  assert got["frames"] == 501 and got["bits_per_frame"] == 40 and got["channels"] == 2
  assert got["bytes"] == size == got["header_bytes"] + 501 * 5
  assert got["kbps"] == pytest.approx(size * 8 / (160001 / 16000) / 1000)
  assert got["kbps"] > got["payload_kbps"] == pytest.approx(501 * 40 * 16 / 160001)
  empty = bitstream.info(bitstream.dumps(np.zeros((0, 1), int), make_header(((2,),), frames=0)))
  assert empty["samples"] == empty["payload_bytes"] == 0 and empty["kbps"] is None
  assert empty["packed_kbps"] is None and empty["saving"] == 0


def test_info_of_a_range_coded_file():
  coder = make_coder(((4, 4), (4,)), favour=0)
  header = Header(8000, 1, 160, coder.levels, HASH, samples=160 * 800, range_coded=True)
  codes = np.zeros((800, 2), int)
  got = bitstream.info(bitstream.dumps(codes, header, coder))
  assert got["packed_bytes"] == 800 * 6 // 8 and got["packed_kbps"] == pytest.approx(0.3)
  assert got["payload_kbps"] == pytest.approx(0.3 * (1 - got["saving"]))
  assert 0.9 < got["saving"] == 1 - got["payload_bytes"] / 600
  packed = bitstream.dumps(codes, dataclasses.replace(header, range_coded=False))
  got = bitstream.info(packed)
  assert got["saving"] == 0 and got["packed_kbps"] == got["payload_kbps"]


def test_long_silence_of_a_confident_prior(tmp_path):
  """Two blocks of 8 bytes: nothing that a writer makes may be refused by a reader."""
  coder, frames = make_coder(((8,),), favour=0, sure=20.0), 4096 + 104
  header = Header(8000, 1, 160, coder.levels, HASH, samples=160 * frames, range_coded=True)
  codes = np.zeros((frames, 1), int)
  with Writer(tmp_path / "a", header, coder) as w:
    for i in range(0, frames, 999):
      w.write(codes[i : i + 999])
  got = bitstream.info(tmp_path / "a")
  assert got["payload_bytes"] == 2 * 8 and got["packed_bytes"] == frames * 3 // 8
  with Reader(tmp_path / "a", coder) as r:
    np.testing.assert_array_equal(r.read(), codes)


def test_a_writer_makes_nothing_that_its_reader_refuses(tmp_path):
  """A coder whose blocks are too short leaves the file that had the name."""
  path, coder = tmp_path / "a", make_coder(((8,),))
  coder.encode = lambda codes: b""
  header = Header(8000, 1, 160, coder.levels, HASH, samples=160 * 5, range_coded=True)
  path.write_bytes(b"before")
  short = pytest.raises(BitstreamError, match="gave 4 bytes for 5 frames, expected >= 8")
  with short, Writer(path, header, coder) as w:
    w.write(np.zeros((5, 1), int))
  assert path.read_bytes() == b"before" and os.listdir(tmp_path) == ["a"]


def test_an_empty_block_with_a_valid_crc():
  coder = make_coder(((8,),))
  header = Header(8000, 1, 160, coder.levels, HASH, samples=160 * 5000, range_coded=True)
  good = bitstream.dumps(np.zeros((5000, 1), int), header, coder)
  head = struct.unpack_from("<I", good, 16)[0]
  bad = bytearray(good[:head] + struct.pack("<IIIII", 0, 12, 0, 0, 0))
  struct.pack_into("<Q", bad, 72, 20)
  with pytest.raises(BitstreamError, match="block 0 at byte 89: expected 4..16 bytes, got 0"):
    Reader(reseal(bytes(bad)), coder)


def test_a_writer_begins_where_its_file_object_stands():
  header = make_header()
  data, f = bitstream.dumps(make_codes(header), header), bitstream.io.BytesIO(b"x" * 4000)
  f.seek(10)
  for _ in range(2):
    with Writer(f, header) as w:
      w.write(make_codes(header))
  end = 10 + 2 * len(data)
  assert f.tell() == end
  assert f.getvalue() == b"x" * 10 + 2 * data + b"x" * (4000 - end)


def test_an_hour_in_bounded_memory(tmp_path):
  header = Header(24000, 1, 320, ((8, 5, 5, 5),) * 8, HASH, samples=24000 * 3600)
  assert header.frames == 270000
  chunk = make_codes(dataclasses.replace(header, samples=320 * 4500))
  whole = np.tile(chunk.astype(np.int16), (30, 1))
  tracemalloc.start()
  with Writer(tmp_path / "a", header) as w:
    w.write(whole)  # half of it in one piece, half in many
    for _ in range(30):
      w.write(chunk)
  with Reader(tmp_path / "a") as r:
    assert sum(np.array_equal(b, chunk) for b in r.blocks(4500)) == 60
    np.testing.assert_array_equal(r.read(4500, len(whole)), whole)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 32 << 20, f"{peak / 2**20:.1f} MB at the peak"
  assert os.path.getsize(tmp_path / "a") == 270000 * 10 + 82 + 8 * 9
