"""Each fault that is planted in a data set is found, and all of them at once."""

import pickle
import re
import shutil

import numpy as np
import pytest

from big_audio.datasets import vimh, vimh_check, vimh_meta, vimh_name
from tests.datasets import vimh_bytes
from tests.datasets.public import ARGUMENTS, MOOG, data_set
from tests.datasets.test_vimh_pickle import content
from tests.datasets.test_vimh_records import LENGTH, patch


@pytest.fixture
def folder(tmp_path):
  """A data set in both forms."""
  folder = vimh_bytes.folder(tmp_path / "set")
  for name in vimh.FILES:
    (folder / f"{name}_batch").write_bytes(pickle.dumps(content(folder, name), protocol=4))
  return folder


def repickle(folder, **changes):
  (folder / "train_batch").write_bytes(pickle.dumps(content(folder, **changes), protocol=4))


def altered(key, at, value):
  def plant(folder):
    array = content(folder)[key]
    array[at] = value
    repickle(folder, **{key: array})

  return plant


def labels(i, row):
  return lambda f: repickle(
    f, vimh_labels=[row if k == i else r for k, r in enumerate(content(f)["vimh_labels"])]
  )


def leak(f):
  data = (f / "train").read_bytes()[5 * LENGTH : 6 * LENGTH]
  patch(f / "test", LENGTH, data)
  (f / "test_batch").unlink()


def cut(f):
  (f / "train").write_bytes((f / "train").read_bytes()[:-3])


@pytest.mark.parametrize("name", ARGUMENTS)
def test_good_data_sets_have_no_problems(name):
  report = vimh_check.check(data_set(name))
  assert report.problems == []


def test_facts():
  facts = "\n".join(vimh_check.check(data_set(MOOG)).facts)
  for part in (
    "32 x 32 x 1 (H x W x C), 38 train, 10 test",
    "note_velocity: [100, 127] step 5, 6 classes (last class at 125",
    "fixed: note_number=43.35",
    "train: note_velocity: items in each class 2 7 7 7 8 7; largest share 0.211, 0 empty",
    "test: 0 of 10 pictures are constant (0.0%)",
    "test: 0 items are copies of others",
    "test: 0 items occur in train",
  ):
    assert part in facts
  low = min(
    s["spec_scale"][0] for s in map(vimh.Source(data_set(MOOG), "all").__getitem__, range(38))
  )
  assert f"dB from {low:.2f} to" in facts


@pytest.mark.parametrize("plant,message", [
  (lambda f: (f / vimh_meta.FILE).unlink(), "cannot be read"),
  (lambda f: (f / vimh_meta.FILE).write_text("{"), "is not JSON"),
  (lambda f: vimh_bytes.change(f, total_samples=12), "total_samples=12; by the other keys .* 11"),
  (lambda f: vimh_bytes.change(f, n_samples=1), "n_samples=1"),
  (lambda f: vimh_bytes.change(f, image_size="3x4x1"), "image_size='3x4x1'.*'3x4x2'"),
  (lambda f: vimh_bytes.change(f, format="CIFAR"), "format='CIFAR'"),
  (lambda f: vimh_bytes.change(f, channel_labels=["a"]), "1 channel_labels for 2 channels"),
  (lambda f: vimh_bytes.change(f, dataset_name="vimh-3x9x2_8000Hz_1p0s_11dss_simple_3p"),
   "width is 4, by dataset_name 9"),
  (lambda f: vimh_bytes.change(f, height=4), r"train: record 0 holds a picture of 3x4x2"),
  (lambda f: [(f / n).unlink() for n in ("test", "test_batch")], "neither test nor test_batch"),
  (cut, "train: .* 7 records of 45 and 42 bytes"),
  (lambda f: patch(f / "train", 7 * LENGTH, b"\5"), "record 7 holds a picture of 5x4x2"),
  (lambda f: patch(f / "test", LENGTH + 14, b"\7"), "test: record 1 has 7 labels"),
  (lambda f: patch(f / "train", 4 * LENGTH + 17, b"\x09"), "record 4 has the unknown .* id 9"),
  (lambda f: patch(f / "train", 5 * LENGTH + 17, b"\0"), "record 5 repeats a parameter id"),
  (lambda f: patch(f / "train", 6 * LENGTH + 6, b"\0\0\xc0\x7f"), "record 6 has the range"),
  (lambda f: (f / "train_batch").write_bytes(b"cposix\nsystem\n."), "wants to call 'posix.system'"),
  (altered("data", (3, 5), 255 - 7), "train: item 3: the pickled form has other pixels"),
  (altered("scale_factors", (2, 0), -99), "train: item 2: the pickled form has other dB range"),
  (labels(1, [3, 0, 1, 1, 2, 2, 3]), "train: item 1: the pickled form has other labels"),
  (labels(1, [3, 0, 1, 1, 2, 1, 3]), "train_batch: record 1 repeats a parameter id"),
  (leak, r"test/1 is train/5, byte by byte"),
])  # fmt: skip
def test_each_planted_fault_is_found(folder, plant, message):
  assert vimh_check.check(folder).problems == []
  plant(folder)
  problems = vimh_check.check(folder).problems
  assert any(re.search(message, p) for p in problems), problems


def test_all_faults_are_told_and_many_of_a_kind_are_counted(folder):
  for i in range(7):
    patch(folder / "train", i * LENGTH + 14, b"\2")
  patch(folder / "train", 7 * LENGTH + 17, b"\x09")
  patch(folder / "test", 6, b"\0\0\xc0\x7f")
  vimh_bytes.change(folder, n_samples=1)
  cut(folder)
  problems = vimh_check.check(folder, cap=3).problems
  text = "\n".join(problems)
  assert sum("has 2 labels" in p for p in problems) == 3
  assert "and 4 more of this kind, in records 0, 1, 2, 3, 4, 5, 6" in text
  for part in ("n_samples=1", "7 records of 45", "test: record 0 has the range spec_min=nan"):
    assert part in text
  assert "id 9" not in text  # record 7 is the one that is cut off


def test_copies_and_constant_pictures_are_counted(folder):
  data = (folder / "train").read_bytes()
  patch(folder / "train", LENGTH, data[:LENGTH])
  patch(folder / "train", 2 * LENGTH + 21, bytes(24))
  (folder / "train_batch").unlink()
  report = vimh_check.check(folder)
  assert "train: 1 items are copies of others" in report.facts
  assert "train: 1 of 8 pictures are constant (12.5%)" in report.facts
  assert report.problems == []


def test_pictures_that_are_in_train_too_are_counted(folder):
  pixels = lambda i: (folder / "train").read_bytes()[i * LENGTH + 21 : (i + 1) * LENGTH]
  for i, other in ((0, 5), (2, 5)):
    patch(folder / "test", i * LENGTH + 21, pixels(other))
  (folder / "test_batch").unlink()
  report = vimh_check.check(folder)
  assert "test: 2 pictures have the pixels of one in train" in report.facts
  assert "test: 0 items occur in train, byte by byte" in report.facts
  assert report.problems == []


@pytest.mark.parametrize("labels,suffix", [
  (["Gray"], ""),
  (["R", "G", "B"], ""),
  (["Gray", "Gray_temporal_envelope"], "_temporal"),
  (["Gray", "Gray_spectral_envelope"], "_spectral"),
  (["Gray", "Gray_temporal_envelope", "Gray_spectral_envelope"], "_envelopes"),
  (["Gray_normalized", "Gray_temporal_envelope", "Gray_spectral_envelope"], "_normalized"),
])  # fmt: skip
def test_voice_and_planes_in_the_name(labels, suffix):
  raw = vimh_bytes.info(3, 4, len(labels), 8, 3, ranges=vimh_bytes.RANGES)
  m = vimh_meta.parse(raw | {"channel_labels": labels})
  name = f"vimh-3x4x{len(labels)}_8000Hz_1p0s_11dss_simple_3p"
  for tail in ("", "_shuffled"):
    assert vimh_name.disagreements(name + suffix + tail, m) == []
  for other in {"", "_temporal", "_spectral", "_envelopes", "_normalized"} - {suffix}:
    found = [("kind of planes", other[1:] or "plain", suffix[1:] or "plain")]
    assert vimh_name.disagreements(name + other, m) == found
  assert vimh_name.disagreements(name.replace("simple", "fm") + suffix, m) == [
    ("voice", "fm", "simple")
  ]
  others = vimh_meta.parse(raw | {"channel_labels": ["x"] * len(labels)})
  assert vimh_name.disagreements(name + "_temporal", others) == []


def test_a_pickle_alone_is_looked_through(folder):
  for name in vimh.FILES:
    (folder / name).unlink()
  report = vimh_check.check(folder)
  assert report.problems == [] and "train: 0 items are copies of others" in report.facts


def test_the_folder_s_name_is_compared(folder):
  name = folder.rename(folder.parent / "vimh-3x4x1_8000Hz_2p0s_11dss_simple_3p")
  problems = vimh_check.check(name).problems
  assert [p.split(": ", 1)[1] for p in problems] == [
    "channels is 2, by the folder's name 1.", "duration is 1, by the folder's name 2.",
  ]  # fmt: skip


def test_counts_are_those_of_the_classes(folder):
  values = np.array(content(folder)["vimh_labels"])[:, 2]
  counts = np.bincount(np.round(values / 255 * 2).astype(int), minlength=3)
  assert f"train: note: items in each class {' '.join(map(str, counts))};" in "\n".join(
    vimh_check.check(folder).facts
  )


def test_nothing_is_written(folder, tmp_path):
  shutil.copytree(folder, tmp_path / "copy")
  vimh_check.check(folder)
  names = sorted(p.name for p in (tmp_path / "copy").iterdir())
  assert sorted(p.name for p in folder.iterdir()) == names
  for name in names:
    assert (folder / name).read_bytes() == (tmp_path / "copy" / name).read_bytes()
