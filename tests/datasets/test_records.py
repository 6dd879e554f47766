"""Records: what goes in comes out, and damage is told from content."""

import contextlib
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from big_audio.datasets import arrayrecord, records
from big_audio.datasets.errors import DecodeError
from big_audio.input_pipeline import Batches
from tests.datasets.conftest import tone, write

EXAMPLE = {
  "wav": tone(0.1),
  "sr": 8000,
  "id": "ä/1.wav",
  "codes": np.arange(6, dtype=np.int16).reshape(2, 3),
  "mask": np.array([True, False]),
  "empty": np.zeros((0, 3), np.float64),
  "raw": b"\0\1\2",
  "none": None,
  "gain": 0.5,
}


def same(a, b):
  assert a.keys() == b.keys()
  for k in a:
    assert type(a[k]) is type(b[k])
    if isinstance(a[k], np.ndarray):
      assert a[k].dtype == b[k].dtype and a[k].shape == b[k].shape and (a[k] == b[k]).all()
    else:
      assert a[k] == b[k]


def test_round_trip():
  same(records.decode(records.encode(EXAMPLE)), EXAMPLE)
  order = np.asfortranarray(EXAMPLE["codes"]).astype(">i2")
  assert (records.decode(records.encode({"x": order}))["x"] == EXAMPLE["codes"]).all()


@pytest.mark.parametrize(
  "value", [np.array(["a"]), np.array([None]), np.zeros(1, complex), [1], {"a": 1}]
)
def test_other_values_are_refused(value):
  with pytest.raises(ValueError, match='"x" is'):
    records.encode({"x": value})


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_never_raises_anything_else(data):
  record = bytearray(records.encode(EXAMPLE))
  for _ in range(data.draw(st.integers(1, 4))):
    record[data.draw(st.integers(0, 300))] = data.draw(st.integers(0, 255))
  record = bytes(record[: data.draw(st.integers(0, len(record)))])
  with contextlib.suppress(DecodeError):
    records.decode(record)


@pytest.mark.parametrize(
  "header",
  ['{"x": {"array": ["float32", [1180591620717411303424], 0]}}', "[" * 100_000,
   '{"x": {"array": ["int8", [1], 1180591620717411303424]}}',
   '{"x": {"bytes": [1180591620717411303424, 0]}}'],
)  # fmt: skip
def test_hostile_headers(header):
  record = b"BAR1" + struct.pack("<I", len(header)) + header.encode() + bytes(8)
  with pytest.raises(DecodeError, match="damaged record"):
    records.decode(record)


def test_arrayrecord(tmp_path):
  for part in range(2):
    with arrayrecord.Writer(tmp_path / f"train-{part}.arrayrecord") as w:
      for i in range(5):
        w.write({"x": np.full(3, 10 * part + i), "id": f"{part}/{i}"})
  assert sorted(p.name for p in tmp_path.iterdir()) == [f"train-{p}.arrayrecord" for p in "01"]
  s = arrayrecord.Source(str(tmp_path / "{split}-*.arrayrecord"), "train")
  assert len(s) == 10 and s[7]["id"] == "1/2" and s[7]["x"].tolist() == [12] * 3
  with pytest.raises(ValueError, match=r"nothing matches .*Beside it: train-0"):
    arrayrecord.Source(str(tmp_path / "test-*"))
  with pytest.raises(ValueError, match="do not fit"):
    arrayrecord.Source(str(tmp_path / "*"), "train")
  (tmp_path / "x.arrayrecord").write_bytes(b"not a record file")
  with pytest.raises(ValueError, match="cannot open"):
    arrayrecord.Source(str(tmp_path / "x.arrayrecord"))


def test_a_writer_that_fails_leaves_no_file(tmp_path):
  with pytest.raises(RuntimeError), arrayrecord.Writer(tmp_path / "a.arrayrecord") as w:
    w.write({"x": 1})
    raise RuntimeError
  assert not list(tmp_path.iterdir())


def test_encoded_audio_in_records_is_read_by_seeking_in_workers(tmp_path):
  from big_audio import input_pipeline as ip

  flac = write(tmp_path / "a.flac", tone(2)).read_bytes()
  with arrayrecord.Writer(tmp_path / "a.arrayrecord") as w:
    w.write({"flac": flac, "id": "a"})
  data = dict(
    source="arrayrecord",
    files=str(tmp_path / "a.arrayrecord"),
    pp="decode_audio('flac')|crop(secs=0.5, mode='start')",
  )
  opened = ip.data_sets.open_all({"a": data})
  for workers in (0, 1):
    with Batches(ip._EvalBatches(opened, 1, range(1), None, 0), num_workers=workers) as it:
      (batch,) = list(it)
    np.testing.assert_allclose(batch["wav"][0], tone(2)[:4000], atol=1e-4)
