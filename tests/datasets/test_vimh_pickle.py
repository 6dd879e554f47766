"""Pickled VIMH files: same content as the binary ones, and nothing in them is run."""

import io
import os
import pickle
import struct
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from big_audio.datasets import vimh_meta, vimh_pickle, vimh_records
from tests.datasets import vimh_bytes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return vimh_bytes.folder(tmp_path_factory.mktemp("vimh") / "set")


def content(folder, name="train", **changes):
  """The dict that a pickle of the data set holds, from bytes that others parsed."""
  items = vimh_bytes.read(folder)[0][name]
  h, w, c = items[0][:3]
  out = {
    "data": np.array([np.array(i[5], np.uint8).reshape(-1) for i in items]),
    "vimh_labels": [[len(i[4]), *(v for pair in i[4] for v in pair)] for i in items],
    "scale_factors": np.array([i[3] for i in items], np.float32),
    "height": h,
    "width": w,
    "channels": c,
    "image_size": h * w * c,
  } | changes
  return {k: v for k, v in out.items() if v is not None}


def read(folder, tmp_path, thing, name="train", protocol=4):
  path = tmp_path / f"{name}_batch"
  path.write_bytes(thing if isinstance(thing, bytes) else pickle.dumps(thing, protocol=protocol))
  m = vimh_meta.read(folder)
  return vimh_pickle.read(path, m, getattr(m, name))


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("key", vimh_pickle.LABELS)
def test_same_as_binary(folder, tmp_path, key, protocol):
  want = vimh_records.open_records(folder / "train", m := vimh_meta.read(folder), m.train)
  made = content(folder)
  made[key] = made.pop("vimh_labels")
  got = read(folder, tmp_path, made, protocol=protocol)
  np.testing.assert_array_equal(got.raw, want.raw)
  np.testing.assert_array_equal(got.scale, want.scale)
  for i in range(len(want)):
    np.testing.assert_array_equal(got.image(i), want.image(i))


def test_heads_are_in_the_order_of_ids(folder, tmp_path):
  rows = content(folder)["vimh_labels"]
  turned = [[3, 2, r[6], 0, r[2], 1, r[4]] for r in rows]
  got = read(folder, tmp_path, content(folder, vimh_labels=turned))
  assert got.labels.tolist() == [[r[2], r[4], r[6]] for r in rows]


@pytest.mark.parametrize("labels", ["tuples", "arrays", "numbers", "array"])
def test_other_ways_of_writing_labels(folder, tmp_path, labels):
  rows = content(folder)["vimh_labels"]
  other = dict(
    tuples=[tuple(r) for r in rows],
    arrays=[np.array(r) for r in rows],
    numbers=[[np.uint8(v) for v in r] for r in rows],
    array=np.array(rows, np.int32),
  )[labels]
  got = read(folder, tmp_path, content(folder, vimh_labels=other))
  assert got.labels.tolist() == [[r[2], r[4], r[6]] for r in rows]


def test_orders_of_bytes_and_axes(folder, tmp_path):
  made = content(folder)
  made["scale_factors"] = made["scale_factors"].astype(">f8")
  want = made["data"]
  made["data"] = np.asfortranarray(want)
  got = read(folder, tmp_path, made)
  np.testing.assert_array_equal(got.raw["pixels"].reshape(8, -1), want)
  np.testing.assert_array_equal(got.scale, made["scale_factors"].astype(np.float32))


def test_older_pickles_without_scale_factors(tmp_path):
  folder = vimh_bytes.folder(tmp_path / "old", old=True)
  got = read(folder, tmp_path, content(folder, scale_factors=None))
  assert got.scale is None and got.raw.dtype.itemsize == 6 + 1 + 6 + 24
  np.testing.assert_array_equal(
    got.raw, vimh_records.open_records(folder / "train", vimh_meta.read(folder), 8).raw
  )


RAN = []


class Calls:
  """Pickles as a call of something."""

  def __init__(self, fn, *args):
    self.fn, self.args = fn, args

  def __reduce__(self):
    return self.fn, self.args


def effect(*args):
  RAN.append(args)


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("fn,args,name", [
  (os.system, ("touch /tmp/never",), "posix.system"),
  (eval, ("1",), "eval"),
  (effect, (1,), "effect"),
  (getattr, (1, "x"), "getattr"),
  (np.load, ("x",), "numpy.load|numpy.*load"),
  (np.zeros, (10**12,), "numpy.*zeros"),
])  # fmt: skip
def test_calls_are_refused_by_name_and_not_made(folder, tmp_path, fn, args, name, protocol):
  for thing in (Calls(fn, *args), content(folder, extra=[Calls(fn, *args)])):
    if protocol < 3 and isinstance(thing, dict):
      thing = {"extra": thing["extra"]}  # protocols 1 and 2 have no bytes
    with pytest.raises(ValueError, match=rf"wants to call .*({name}).* not run"):
      read(folder, tmp_path, thing, protocol=protocol)
  assert not RAN


def array(shape, dtype="u1", data=b"", first=(0,), state=True):
  """A pickle {"data": array} whose parts are as given."""
  make = np.array([0], np.uint8).__reduce__()[0]

  class Liar:
    def __reduce__(self):
      kind = np.dtype(dtype)
      return make, (np.ndarray, first, b"b"), ((1, shape, kind, False, data) if state else None)

  return pickle.dumps({"data": Liar(), "vimh_labels": []}, protocol=4)


def memory(op, size):
  return b"\x80\x04" + op + struct.pack("<Q", size) + b"x."


@pytest.mark.parametrize("thing,message", [
  (array((10**12,)), "damaged.*claims another shape"),
  (array((-1,)), "damaged.*claims another shape"),
  (array((2**62, 4)), "damaged.*claims another shape"),
  (array(2), "unexpected place"),
  (array(("a",)), "unexpected place"),
  (array((1,), data=[1]), "unexpected place"),
  (array((1,), dtype="f8", data=b"123"), "damaged"),
  (array((0,), first=(10**12,)), "asks for memory"),
  (pickle.dumps(np.zeros(2), protocol=4), "expected a dict"),
  (pickle.dumps({"data": np.array([None, "x"], object)}, protocol=4), "an array of 'O8'"),
  (pickle.dumps({"data": np.zeros(2, "V8")}, protocol=4), "an array of 'V8'"),
  (pickle.dumps({"data": np.zeros(2, "u1,f4")}, protocol=4), "an array of 'V5'"),
  (pickle.dumps({"data": np.zeros(2, "M8[s]")}, protocol=4), "an array of 'M8'"),
  (memory(b"\x8e", 2**40), "damaged"),  # BINBYTES8
  (memory(b"\x96", 2**40), "damaged"),  # BYTEARRAY8
  (memory(b"\x8d", 2**40), "damaged"),  # BINUNICODE8
  (b"\x80\x04}r\xff\xff\xff\xff.", "no data in the pickle; it has nothing"),  # LONG_BINPUT
  (b"\x80\x04}(\x8c\x01xK\x01u}\x92.", "instruction NEWOBJ_EX"),
  (b"\x80\x04}\x82\x01.", "instruction EXT1"),
  (b"Pabc\n.", "instruction PERSID"),
  (b"\x80\x04(\x8c\x05posix\x8c\x06system\x93.", "posix.system"),
  (b"cposix\nsystem\n.", "posix.system"),
  (b"(S'x'\niposix\nsystem\n.", "instruction"),
  (b"\x80\x04})" + b"\x85" * 60_000 + b"K\x01s.", "a tuple in an unexpected place"),
  (b"\x80\x04]" + b"]" * 30_000 + b"a" * 30_000 + b".", "expected a dict"),
  (b"\x80\x04)" + b"\x85" * 60_000 + b"\x94\x8c\x01xh\x00\x93.", "a tuple in an unexpected place"),
  (b"\x80\x04\x8c\x05numpy)" + b"\x85" * 60_000 + b"\x93.", "a tuple in an unexpected place"),
  (b"\x80\x04\x8c\x05numpy\x8c\x05dtype\x93)" + b"\x85" * 60_000 + b"\x85R.",
   "a tuple in an unexpected place"),
  (array((1, 1, 1, 1, 1), data=b"x"), "claims another shape"),
  (b"", "damaged"),
  (b"PK\3\4", "damaged"),
  (b".", "damaged"),
  (b"\x80\x04}.x", "1 bytes follow the end"),
  (bytes(200_000), "at most"),
])  # fmt: skip
def test_hostile_pickles(folder, tmp_path, thing, message):
  with pytest.raises(ValueError, match=message) as e:
    read(folder, tmp_path, thing)
  assert str(tmp_path) in str(e.value) and len(str(e.value)) < 1000


def test_one_array_in_many_places_takes_no_memory(folder, tmp_path):
  big = np.zeros(30_000, np.uint8)
  thing = content(folder, vimh_labels=[big] * 1000)
  tracemalloc.start()
  try:
    with pytest.raises(ValueError, match="a list of 8 items, got list of 1000"):
      read(folder, tmp_path, thing)
    assert tracemalloc.get_traced_memory()[1] < 10e6  # as numbers these are 240 MB
  finally:
    tracemalloc.stop()


def test_references_to_a_small_array_take_no_memory(folder, tmp_path):
  row = np.arange(300, 300 + 511)
  thing = pickle.dumps(content(folder, vimh_labels=[row] * 8, more=[row] * 10_000), protocol=4)
  tracemalloc.start()
  try:
    with pytest.raises(ValueError, match="item 0 must be 7 bytes.*got Array"):
      read(folder, tmp_path, thing)
    assert tracemalloc.get_traced_memory()[1] < 10e6  # as lists these are 40 MB
  finally:
    tracemalloc.stop()


@pytest.mark.parametrize("bits,axes", [(60_000, 300), (6_000_000, 4)])
def test_shapes_of_huge_numbers_are_refused_at_once(bits, axes):
  thing = array(tuple((1 << bits) - i for i in range(1, axes + 1)))
  start = time.process_time()
  with pytest.raises(ValueError, match="claims another shape"):
    vimh_pickle.load(thing, "x")
  assert time.process_time() - start < 0.5


@pytest.mark.parametrize("changes,message", [
  (dict(data=None), "no data in the pickle; it has vimh_labels"),
  (dict(vimh_labels=None), "no vimh_labels or labels"),
  (dict(data=[1, 2]), r"data must be uint8\[n, 24\], got list of 2"),
  (dict(data=np.zeros((8, 24), np.float32)), "got float32"),
  (dict(data=np.zeros((8, 2, 3, 4), np.uint8)), "got uint8"),
  (dict(data=np.zeros((7, 24), np.uint8)), r"uint8\[7, 24\], but .* promises 8 items"),
  (dict(data=np.zeros((8, 25), np.uint8)), r"uint8\[8, 25\]"),
  (dict(height=4), "height is 4, but .* says 3"),
  (dict(image_size=10**5000), "image_size is int, but .* says 24"),
  (dict(width=np.arange(3)), "width is int64"),
  (dict(scale_factors=None), "no scale_factors, but"),
  (dict(scale_factors=np.zeros((8, 3), np.float32)), r"scale_factors must be float32\[8, 2\]"),
  (dict(scale_factors=np.full((8, 2), np.nan)), "record 0 has the range spec_min=nan.*7 more"),
  (dict(vimh_labels=[]), "a list of 8 items, got list of 0"),
  (dict(vimh_labels=[[3, 0, 1, 1, 2, 2]] * 8), "item 0 must be 7 bytes"),
  (dict(vimh_labels=[[3, 0, 1, 1, 2, 2, 256]] * 8), "item 0 must be 7 bytes"),
  (dict(vimh_labels=[[3, 0, 1, 1, 2, 2, 0.5]] * 8), "item 0 must be 7 bytes"),
  (dict(vimh_labels=[np.array([3, 0, 1, 1, 2, 2, -1])] * 8), "item 0 must be 7 bytes"),
  (dict(vimh_labels=[np.array([3, 0, 1, 1, 2, 2, 0.5])] * 8), "item 0 must be 7 bytes"),
  (dict(vimh_labels=np.array(7)), "a list of 8 items"),
  (dict(vimh_labels=[[2, 0, 1, 1, 2, 2, 5]] * 8), "record 0 has 2 labels"),
  (dict(vimh_labels=[[3, 0, 1, 9, 2, 2, 5]] * 8), "record 0 has the unknown parameter id 9"),
  (dict(vimh_labels=[[3, 0, 1, 0, 2, 2, 5]] * 8), "record 0 repeats a parameter id"),
])  # fmt: skip
def test_content_that_does_not_fit(folder, tmp_path, changes, message):
  with pytest.raises(ValueError, match=message) as e:
    read(folder, tmp_path, content(folder, **changes))
  assert str(tmp_path) in str(e.value)


def test_every_other_length_is_refused(folder):
  data = pickle.dumps(content(folder), protocol=4)
  for keep in range(len(data)):
    with pytest.raises(ValueError, match="damaged"):
      vimh_pickle.load(data[:keep], "x")


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_damage_never_raises_anything_else(folder, data):
  raw = bytearray(pickle.dumps(content(folder), protocol=4))
  for _ in range(data.draw(st.integers(1, 4))):
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
  try:
    found = vimh_pickle.load(bytes(raw), "x")
  except ValueError as e:
    assert str(e).startswith("x: ")
  else:
    assert isinstance(found, dict)


def test_what_is_written_is_what_anyone_reads(folder):
  m = vimh_meta.read(folder)
  vimh_pickle.write(out := io.BytesIO(), m, vimh_records.open_records(folder / "test", m, 3).raw)
  got, want = pickle.loads(out.getvalue()), content(folder, "test")
  assert list(got) == list(want) and out.getvalue()[:2] == b"\x80\x04"
  for k, v in want.items():
    np.testing.assert_array_equal(got[k], v)
    assert type(got[k]) is type(v) and getattr(got[k], "dtype", 0) == getattr(v, "dtype", 0)
