"""Binary VIMH files: what is in them, and every way in which they can be wrong."""

import hashlib
import os
import pickle

import numpy as np
import pytest

from big_audio.datasets import vimh_meta, vimh_name, vimh_records
from tests.datasets import vimh_bytes


def opened(folder, name="train"):
  m = vimh_meta.read(folder)
  return vimh_records.open_records(folder / name, m, getattr(m, name))


def patch(path, at, data):
  content = bytearray(path.read_bytes())
  content[at : at + len(data)] = data
  path.write_bytes(content)


LENGTH = 14 + 1 + 6 + 24  # of a record of vimh_bytes.folder


@pytest.fixture
def folder(tmp_path):
  return vimh_bytes.folder(tmp_path / "set")


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("stated", ["as it is", None])
@pytest.mark.parametrize("order", [(), (2, 0, 1)])
def test_content(tmp_path, old, stated, order):
  vimh_bytes.folder(tmp_path / "a", old=old, metadata_bytes=stated, order=order)
  if stated is None:  # the independent reader has to be told
    vimh_bytes.folder(tmp_path / "b", old=old, order=order)
  want, _ = vimh_bytes.read(tmp_path / ("a" if stated else "b"))
  for name in ("train", "test"):
    r = opened(tmp_path / "a", name)
    assert len(r) == len(want[name])
    for i, (h, w, c, scale, pairs, planes) in enumerate(want[name]):
      image = r.image(i)
      assert image.shape == (h, w, c) and image.dtype == np.uint8
      assert image.transpose(2, 0, 1).tolist() == planes
      assert r.labels[i].tolist() == [dict(pairs)[k] for k in range(3)]
      assert (r.scale is None) == old
      if not old:
        assert r.scale[i].tolist() == list(scale)


def test_travels_to_workers_and_notices_a_change(folder):
  r = opened(folder)
  sent = pickle.dumps(r)
  again = pickle.loads(sent)
  np.testing.assert_array_equal(again.image(5), r.image(5))
  np.testing.assert_array_equal(again.labels, r.labels)
  assert isinstance(again.raw, np.memmap) and not again.raw.flags.writeable
  (folder / "train").write_bytes((folder / "train").read_bytes()[:-1])
  with pytest.raises(ValueError, match="has changed"):
    pickle.loads(sent)


@pytest.mark.parametrize("stated", ["as it is", None])
@pytest.mark.parametrize("old", [False, True])
def test_every_other_length_is_refused(tmp_path, old, stated):
  folder = vimh_bytes.folder(tmp_path / "a", train=3, old=old, metadata_bytes=stated)
  path, m = folder / "train", vimh_meta.read(folder)
  data = path.read_bytes()
  assert len(vimh_records.open_records(path, m, 3)) == 3
  for keep in range(len(data)):
    path.write_bytes(data[:keep])
    with pytest.raises(ValueError, match="cut off"):
      vimh_records.open_records(path, m, 3)
  for more in (b"\0", b"x" * 7, data[: len(data) // 3]):
    path.write_bytes(data + more)
    with pytest.raises(ValueError, match=r"train: .*(behind its end|promises 3|no layout fits)"):
      vimh_records.open_records(path, m, 3)


def test_the_message_tells_what_the_size_should_be(folder):
  path = folder / "train"
  path.write_bytes(path.read_bytes()[:-1])
  with pytest.raises(ValueError, match=rf"359 bytes are 7 records of {LENGTH} and 44 .* 360 bytes"):
    opened(folder)


def test_layout_that_is_stated_wrongly(tmp_path):
  old = vimh_bytes.folder(tmp_path / "old", old=True, metadata_bytes=14)
  with pytest.raises(ValueError, match="metadata_bytes should be 6, which fits"):
    opened(old)
  new = vimh_bytes.folder(tmp_path / "new", metadata_bytes=3)
  with pytest.raises(ValueError, match="metadata_bytes should be 14, which fits"):
    opened(new)


def test_layout_that_cannot_be_told(tmp_path):
  m = vimh_meta.parse(
    vimh_bytes.info(1, 1, 1, 5, 0, ranges={"x": (0.0, 1.0, 0.5)}, metadata_bytes=None)
  )
  path = tmp_path / "train"
  path.write_bytes(b"\1\0" * 45)  # 5 records of 18 bytes, or 9 of 10
  with pytest.raises(ValueError, match=r"18 \(14.*10 \(6.*both layouts fit.*metadata_bytes"):
    vimh_records.open_records(path, m, 5)
  path.write_bytes(b"\1\0" * 9)  # both lengths do not divide it
  assert vimh_records.layout(path, 18, m) == 14
  path.write_bytes(b"\1\0" * 13)
  with pytest.raises(ValueError, match="no layout fits"):
    vimh_records.open_records(path, m, 5)


@pytest.mark.parametrize("at,data,message", [
  (7 * LENGTH, b"\4", r"record 7 holds a picture of 4x3x2|record 7 holds a picture of 4x4x2"),
  (0, b"\4", "record 0 holds a picture of 4x4x2"),
  (2 * LENGTH + 4, b"\3", "record 2 holds a picture of 3x4x3"),
  (3 * LENGTH + 14, b"\2", r"record 3 has 2 labels, but 3 parameters vary .*note, decay, cutoff"),
  (4 * LENGTH + 17, b"\3", r"record 4 has the unknown parameter id 3 in \[0, 3, 2\]"),
  (4 * LENGTH + 17, b"\xff", r"record 4 has the unknown parameter id 255"),
  (5 * LENGTH + 17, b"\0", r"record 5 repeats a parameter id: \[0, 0, 2\]"),
  (6 * LENGTH + 6, b"\0\0\xc0\x7f", r"record 6 has the range spec_min=nan"),
  (6 * LENGTH + 10, b"\0\0\x80\x7f", r"record 6 has the range .* spec_max=inf"),
  (1 * LENGTH + 6, b"\0\0\xc8\x42", r"record 1 has the range spec_min=100.0"),
])  # fmt: skip
def test_a_record_that_does_not_fit_is_named(folder, at, data, message):
  patch(folder / "train", at, data)
  with pytest.raises(ValueError, match=message):
    opened(folder)


def test_how_many_records_are_wrong(folder):
  for i in (2, 4, 6):
    patch(folder / "train", i * LENGTH + 14, b"\2")
  with pytest.raises(ValueError, match="record 2 has 2 labels.* So have 2 more"):
    opened(folder)


def test_metadata_that_belong_to_other_records(folder):
  vimh_bytes.change(folder, height=4)
  with pytest.raises(ValueError, match=r"record 0 holds .* 3x4x2 .* says 4x4x2"):
    opened(folder)
  vimh_bytes.change(folder, height=3, train_samples=9)
  with pytest.raises(ValueError, match="8 records, but .* promises 9"):
    opened(folder)


@pytest.mark.parametrize("text,name", [
  ("vimh-32x64x3_8000Hz_1p0s_256dss_simple_2p",
   vimh_name.Name(32, 64, 3, 8000, 1.0, 256, "simple", 2)),
  ("vimh-48x48x1_22050Hz_1p5s_384dss_moog_ladder_5p_envelopes_shuffled",
   vimh_name.Name(48, 48, 1, 22050, 1.5, 384, "moog_ladder", 5, ("envelopes", "shuffled"))),
])  # fmt: skip
def test_folder_names(text, name):
  assert str(name) == text and vimh_name.parse(text) == name


@pytest.mark.parametrize(
  "text",
  ["saw", "vimh", "vimh-32x32_8000Hz", "vimh-32x32x1_8000Hz_1p0s_2dss_simple_2p_", "vimh-aa"],
)
def test_other_names_are_no_names(text):
  assert vimh_name.parse(text) is None


def test_a_name_has_to_keep_its_word(tmp_path):
  good = "vimh-3x4x2_8000Hz_1p0s_11dss_simple_3p"
  m = vimh_meta.read(vimh_bytes.folder(tmp_path / good))
  vimh_name.check(tmp_path / good, m)
  for a, b, what in [
    ("3x4x2", "4x4x2", "height is 4"),
    ("3x4x2", "3x5x2", "width is 5"),
    ("3x4x2", "3x4x1", "channels is 1"),
    ("3p", "2p", "number of parameters is 2"),
    ("8000", "16000", "sample rate is 16000"),
    ("1p0s", "1p5s", "duration is 1.5"),
    ("11dss", "12dss", "number of items is 12"),
  ]:
    with pytest.raises(ValueError, match=f"by its name the {what}"):
      vimh_name.check(tmp_path / good.replace(a, b), m)


def state(folder):
  return {
    p.name: (p.stat().st_mtime_ns, hashlib.sha256(p.read_bytes()).hexdigest())
    for p in folder.iterdir()
  }


def test_reading_writes_nothing(folder):
  before = state(folder)
  os.chmod(folder, 0o555)
  try:
    opened(folder).image(0)
    opened(folder, "test")
    assert state(folder) == before
  finally:
    os.chmod(folder, 0o755)
