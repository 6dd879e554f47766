"""Small pictures: values, splits, and idx files that lie."""

import gzip
import struct

import numpy as np
import pytest

from big_audio.datasets import digits, mnist


def test_digits():
  parts = {s: digits.Source(s) for s in digits.SPLITS}
  assert sum(map(len, parts.values())) == 1797
  ids = [{p[i]["id"] for i in range(len(p))} for p in parts.values()]
  assert len(set.union(*ids)) == 1797
  e = parts["train"][0]
  assert e["image"].shape == (8, 8, 1) and e["image"].dtype == np.float32
  images = np.stack([e["image"] for e in map(parts["test"].__getitem__, range(300))])
  assert images.min() == -1 and images.max() == 1
  assert {parts["test"][i]["label"] for i in range(100)} == set(range(10))
  with pytest.raises(ValueError, match="Did you mean train"):
    digits.Source("trian")


def test_no_digit_is_seen_by_two_of_codec_embedder_and_measurement():
  names = ("codec", "embed", "validation", "test")
  parts = [digits.Source(s) for s in names]
  ids = [{p[i]["id"] for i in range(len(p))} for p in parts]
  assert sum(map(len, ids)) == 1797 == len(set.union(*ids))
  train = digits.Source("train")
  assert ids[0] | ids[1] == {train[i]["id"] for i in range(len(train))}
  assert min(map(len, ids[:2])) > 550


def idx(shape, data=None, magic=b"\0\0\x08"):
  data = bytes(np.prod(shape)) if data is None else data
  return magic + bytes([len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + data


@pytest.fixture
def folder(tmp_path):
  pixels = np.arange(20 * 4 * 4, dtype=np.uint8).tobytes()
  (tmp_path / "images-idx3-ubyte.gz").write_bytes(gzip.compress(idx((20, 4, 4), pixels)))
  (tmp_path / "labels-idx1-ubyte").write_bytes(idx((20,), bytes(range(10)) * 2))
  return tmp_path


def test_mnist_reads_plain_and_compressed_files(folder):
  s = mnist.Source(str(folder), "all")
  assert len(s) == 20 and s[13]["label"] == 3 and s[13]["id"] == "images-idx3-ubyte/13"
  want = np.arange(13 * 16, 14 * 16).astype(np.uint8).reshape(4, 4, 1) / 127.5 - 1
  np.testing.assert_allclose(s[13]["image"], want, atol=1e-6)
  half = {"a": 0.5, "b": 0.5}
  parts = [mnist.Source(str(folder), x, splits=half) for x in "ab"]
  assert len(parts[0]) + len(parts[1]) == 20


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(
  "data,message",
  [
    (idx((20, 4, 4), magic=b"\0\0\x0d"), "expected an idx file of bytes with 3"),
    (idx((20, 16)), r"got 00 00 08 02"),
    (b"", "got"),
    (b"PK\3\4" * 50, "got 50 4b 03 04"),
    (idx((4_000_000_000, 4000, 4000), b"12345678"), "more than the file can hold"),
    (idx((20, 4, 4), b"123"), r"more than the file can hold|= 320 bytes, the file has only 3"),
    (idx((2, 4, 4), bytes(33)), "the file has more"),
  ],
)
def test_hostile_files(folder, data, message, compress):
  (folder / "images-idx3-ubyte.gz").unlink()
  name = "images-idx3-ubyte" + (".gz" if compress else "")
  (folder / name).write_bytes(gzip.compress(data) if compress else data)
  with pytest.raises(ValueError, match=message):
    mnist.Source(str(folder), "all")


def test_files_that_are_missing_damaged_or_do_not_belong_together(folder):
  path = folder / "images-idx3-ubyte.gz"
  path.write_bytes(path.read_bytes()[:40])
  with pytest.raises(ValueError, match="cannot be read"):
    mnist.Source(str(folder), "all")
  path.write_bytes(gzip.compress(idx((19, 4, 4))))
  with pytest.raises(ValueError, match=r"19 pictures .* 20 labels"):
    mnist.Source(str(folder), "all")
  path.unlink()
  with pytest.raises(ValueError, match=r"no images-idx3-ubyte or .*It has labels-idx1-ubyte"):
    mnist.Source(str(folder), "all")


def test_real_mnist(data_dir):
  s = mnist.Source(str(data_dir / "mnist"), "all")
  assert len(s) == 8000 and s[0]["image"].shape == (28, 28, 1)
  names = ("codec", "embed", "validation", "test")
  parts = [mnist.Source(str(data_dir / "mnist"), n) for n in names]
  ids = [{p[i]["id"] for i in range(len(p))} for p in parts]
  assert sum(map(len, ids)) == 8000 == len(set.union(*ids)) and min(map(len, ids[:2])) > 3000
  assert [s[i]["label"] for i in range(5)] == [7, 2, 1, 0, 4]  # as the public test file begins
