"""VIMH data sets as a source: items, splits, the public generator's own files, other readers."""

import hashlib
import json
import os
import pickle
import shutil
import tracemalloc

import numpy as np
import pytest

from big_audio.datasets import build, vimh, vimh_convert, vimh_meta, vimh_records, vimh_write
from tests.datasets import public, vimh_bytes
from tests.datasets.public import ENVELOPES, MOOG, data_set

NAMES = sorted(public.ARGUMENTS)


def prefix(array):
  return hashlib.sha256(np.ascontiguousarray(array, np.float32).tobytes()).hexdigest()[:16]


def compare_with_public_loader(folder, form):
  """Against what the public loader returns, its scrambled planes of pickles put right."""
  for split in ("train", "test"):
    want = public.report(folder.name, "binary", split)
    scrambled = public.report(folder.name, "pickle", split)
    source = vimh.Source(str(folder), split, validation=0, form=form)
    names = list(source.metadata.names)
    assert len(source) == want["n"] and source.metadata.heads() == want["heads"]
    assert names == list(want["heads"])  # in the order of ids, from a pickle too
    for i in range(4):
      e = source[i]
      assert {n: int(e[n]) for n in names} == want["first4_class_indices"][i]
      labels = dict(zip(names, source._parts[split].labels[i].tolist(), strict=True))
      assert labels == want["first4_quantized"][i]
      planes = np.ascontiguousarray(e["image"].transpose(2, 0, 1))
      assert prefix(planes) == want["first4_sha256"][i]
      # That loader takes the planes of a pickle for [H,W,C].
      wrong = planes.reshape(e["image"].shape).transpose(2, 0, 1)
      assert prefix(wrong.astype(np.float32) / np.float32(255)) == scrambled["first4_sha256"][i]
    assert source[0]["spec_scale"].tolist() == want["first_scale"]


def same_items(a, b):
  assert len(a) == len(b)
  for i in range(len(a)):
    x, y = a[i], b[i]
    assert list(x) == list(y)
    for k in x:
      np.testing.assert_array_equal(x[k], y[k])


@public.needed
@pytest.mark.parametrize("form", ["binary", "pickle"])
@pytest.mark.parametrize("name", NAMES)
def test_as_the_public_loader_reads(name, form):
  compare_with_public_loader(public.data_set(name), form)


def rewritten(folder, target):
  m, target = vimh_meta.read(folder), target / folder.name
  parts = {n: vimh_records.open_records(folder / n, m, getattr(m, n)) for n in vimh.FILES}
  images = {n: np.stack([p.image(i) for i in range(len(p))]) for n, p in parts.items()}
  records = [
    vimh_write.to_records(m, images[n].transpose(0, 3, 1, 2), p.scale, p.labels)
    for n, p in parts.items()
  ]
  vimh_write.write_folder(target, (folder / vimh_meta.FILE).read_bytes(), *records, pickle=True)
  for name in ("train", "test", "train_batch", "test_batch", vimh_meta.FILE):
    assert (target / name).read_bytes() == (folder / name).read_bytes(), name


def test_planes_of_envelope_data():
  """The planes are a picture, an envelope in time and one over frequencies."""
  for form in ("binary", "pickle"):
    image = vimh.Source(str(data_set(ENVELOPES)), "all", form=form)[3]["image"]
    assert image.shape == (32, 32, 3)
    temporal, spectral = image[..., 1], image[..., 2]
    assert (temporal == temporal[:1]).all() and not (temporal == temporal[:, :1]).all()
    assert (spectral == spectral[:, :1]).all() and not (spectral == spectral[:1]).all()
    assert image[..., 0].max() < 30  # the range is shared by the three


def test_rows_are_frequencies_from_below():
  """A low-pass filter leaves the low rows louder."""
  s = vimh.Source(str(data_set(MOOG)), "all")
  mean = np.mean([s[i]["image"][..., 0] for i in range(len(s))], axis=0)
  assert mean[:4].mean() > mean[-4:].mean() + 50


def test_items(tmp_path):
  folder = vimh_bytes.folder(tmp_path / "set", order=(1, 2, 0))
  want = vimh_bytes.read(folder)[0]
  s = build.build("vimh", dir=str(folder), split="all")
  assert isinstance(s, vimh.Source) and len(s) == 11
  for i in range(11):
    name, k = ("train", i) if i < 8 else ("test", i - 8)
    _, _, _, scale, pairs, planes = want[name][k]
    e = s[i]
    keys = [x for n in vimh_bytes.RANGES for x in (n, n + "/value")]
    assert list(e) == ["image", "spec_scale", *keys, "id"]
    assert e["id"] == f"{name}/{k}" and e["spec_scale"].tolist() == list(scale)
    assert e["image"].dtype == np.uint8 and e["image"].transpose(2, 0, 1).tolist() == planes
    for id, byte in pairs:
      n, (lo, hi, step) = list(vimh_bytes.RANGES.items())[id]
      value = lo + byte / 255 * (hi - lo)
      assert e[n].dtype == np.int32 and e[f"{n}/value"].dtype == np.float32
      assert e[f"{n}/value"] == np.float32(value)
      assert e[n] == round((value - lo) / step)
  every = vimh.Source(str(folder), "all", classes=256)
  assert [int(every[9][n]) for n in vimh_bytes.RANGES] == s._parts["test"].labels[1].tolist()
  s[0]["image"][:] = 0
  assert s[0]["image"].any()


def test_old_layout_has_no_range(tmp_path):
  folder = vimh_bytes.folder(tmp_path / "set", old=True, metadata_bytes=None)
  e = vimh.Source(str(folder))[0]
  assert "spec_scale" not in e and e["image"].shape == (3, 4, 2)


def test_splits_divide_the_training_file():
  sizes = {s: len(vimh.choose(3276, 820, s)) for s in vimh.SPLITS}
  assert sizes == dict(train=2949, validation=327, test=820, all=4096)
  train, held = (vimh.choose(3276, 820, s) for s in ("train", "validation"))
  assert sorted([*train, *held]) == list(range(3276))
  assert vimh.choose(3276, 820, "test").tolist() == list(range(3276, 4096))
  assert 100 < np.sum(held < 1638) < 227  # from all of the file
  np.testing.assert_array_equal(held, vimh.choose(3276, 1, "validation"))
  assert held.tolist() != vimh.choose(3276, 820, "validation", seed=1).tolist()
  assert held[:5].tolist() == [11, 12, 14, 28, 42]  # for good: checkpoints depend on it
  assert len(vimh.choose(100, 0, "validation", validation=0.29)) == 29
  assert len(vimh.choose(100, 0, "train", validation=0)) == 100
  with pytest.raises(ValueError, match="Did you mean validation"):
    vimh.choose(3, 3, "valid")
  for kw, message in (
    (dict(validation=1), "validation=1: expected a share"),
    (dict(validation="x"), "validation='x': expected a share"),
    (dict(seed="x"), "seed='x': expected a whole number"),
  ):
    with pytest.raises(ValueError, match=message):
      vimh.choose(3, 3, "train", **kw)


def test_a_source_has_the_items_of_its_split():
  parts = {s: vimh.Source(str(data_set(MOOG)), s, seed=3) for s in vimh.SPLITS}
  ids = {s: [p[i]["id"] for i in range(len(p))] for s, p in parts.items()}
  assert len(ids["validation"]) == 3 and len(ids["train"]) == 35
  assert sorted(ids["train"] + ids["validation"] + ids["test"]) == sorted(ids["all"])
  assert {i.split("/")[0] for i in ids["test"]} == {"test"}
  assert {i.split("/")[0] for i in ids["train"] + ids["validation"]} == {"train"}


@pytest.mark.parametrize("form", ["binary", "pickle"])
def test_travels_to_workers(form):
  s = vimh.Source(str(data_set(MOOG)), "validation", form=form)
  sent = pickle.dumps(s)
  same_items(s, pickle.loads(sent))
  assert form == "pickle" or len(sent) < 10_000


def test_steps_that_do_not_reach_max_are_told_once(capsys):
  vimh._warn.cache_clear()
  for _ in range(2):
    vimh.Source(str(data_set(MOOG)))
  err = capsys.readouterr().err
  assert err.count("note_velocity: (max-min)/step = 5.4 is not a whole number; 6 classes") == 1
  assert err.count("\n") == 1
  vimh.Source(str(data_set(ENVELOPES)))
  vimh.Source(str(data_set(MOOG)), classes=256)
  assert capsys.readouterr().err == ""


def test_heads_come_from_the_metadata_alone(tmp_path):
  shutil.copy(data_set(MOOG) / vimh_meta.FILE, tmp_path)
  found = vimh_meta.read(tmp_path)
  want = {"note_velocity": 6, "log10_decay_time": 11, "filter_cutoff": 19, "filter_resonance": 10}
  assert found.heads() == want and list(found.heads()) == list(want)
  assert set(found.heads(256).values()) == {256}
  with pytest.raises(ValueError, match='expected "step" or 256'):
    found.heads("bytes")


def copy(name, tmp_path, *files):
  target = tmp_path / name
  target.mkdir()
  for f in files or ("train", "test", "train_batch", "test_batch", vimh_meta.FILE):
    shutil.copy(data_set(name) / f, target)
  return target


def test_what_other_readers_add_is_tolerated_and_nothing_is_written(tmp_path):
  folder = copy(MOOG, tmp_path)
  raw = json.loads((folder / vimh_meta.FILE).read_text())
  for p in raw["parameter_mappings"].values():
    p["num_classes"] = None if p["step"] == 0 else 7
  (folder / vimh_meta.FILE).write_text(json.dumps(raw, indent=2))
  state = lambda: {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.iterdir()}
  before = state()
  os.chmod(folder, 0o555)
  try:
    for form in ("binary", "pickle"):
      same_items(
        vimh.Source(str(folder), "all", form=form), vimh.Source(str(data_set(MOOG)), "all")
      )
    assert state() == before
  finally:
    os.chmod(folder, 0o755)


def test_missing_files_are_named_and_never_replaced(tmp_path):
  folder = copy(MOOG, tmp_path, vimh_meta.FILE)
  for form in ("binary", "pickle"):
    with pytest.raises(ValueError, match=r"train(_batch)? is missing\. Its other form is missing"):
      vimh.Source(str(folder), form=form)
  assert [p.name for p in folder.iterdir()] == [vimh_meta.FILE]
  shutil.copy(data_set(MOOG) / "train_batch", folder)
  with pytest.raises(ValueError, match=r'There is train_batch: say form="pickle".*convert'):
    vimh.Source(str(folder))
  assert len(vimh.Source(str(folder), form="pickle")) == 35
  with pytest.raises(ValueError, match="test is missing"):
    vimh.Source(str(folder), "test")
  with pytest.raises(ValueError, match="expected binary or pickle"):
    vimh.Source(str(folder), form="bin")
  with pytest.raises(ValueError, match="vimh_dataset_info.json cannot be read"):
    vimh.Source(str(tmp_path / "none"))


def test_what_the_metadata_promise_takes_no_memory_before_the_files_are_seen(tmp_path):
  folder = vimh_bytes.folder(tmp_path / "set")
  vimh_bytes.change(folder, train_samples=2**31, test_samples=2**31)
  shards = tmp_path / "shards"
  vimh_convert.convert(data_set(MOOG), shards, "arrayrecord")
  shutil.copy(folder / vimh_meta.FILE, shards)
  tracemalloc.start()
  try:
    for split in vimh.SPLITS:
      with pytest.raises(ValueError, match="[83] records, but .* promises 2147483648"):
        vimh.Source(str(folder), split)
    with pytest.raises(ValueError, match="48 items, but .* promises 2147483648 in train"):
      vimh_convert.convert(shards, tmp_path / "back", "vimh")
    assert tracemalloc.get_traced_memory()[1] < 10e6
  finally:
    tracemalloc.stop()


def test_values_are_those_of_the_items(tmp_path):
  folder = vimh_bytes.folder(tmp_path / "set", order=(2, 0, 1))
  want = vimh_bytes.read(folder)[0]
  for split in vimh.SPLITS:
    source = vimh.Source(str(folder), split, validation=0.3)
    values = source.values()
    assert list(values) == list(vimh_bytes.RANGES)
    for i in range(len(source)):
      file, at = source[i]["id"].split("/")
      for id, byte in want[file][int(at)][4]:
        name, (lo, hi, _) = list(vimh_bytes.RANGES.items())[id]
        assert values[name][i] == lo + byte / 255 * (hi - lo)


def test_binary_is_read_where_both_forms_are_there(tmp_path):
  folder = copy(MOOG, tmp_path)
  (folder / "train_batch").write_bytes(b"not a pickle")
  vimh.Source(str(folder))
  with pytest.raises(ValueError, match="train_batch: "):
    vimh.Source(str(folder), form="pickle")


def test_name_metadata_and_records_have_to_agree(tmp_path):
  folder = copy(MOOG, tmp_path)
  wrong = folder.rename(tmp_path / MOOG.replace("32x32x1", "32x16x1"))
  with pytest.raises(ValueError, match="by its name the width is 16, by .* 32"):
    vimh.Source(str(wrong))
  other = wrong.rename(tmp_path / "saw")
  vimh.Source(str(other))
  vimh_bytes.change(other, height=64)
  with pytest.raises(ValueError, match=r"record 0 holds .* 32x32x1 .* says 64x32x1"):
    vimh.Source(str(other))
  with pytest.raises(ValueError, match="height is 32, but .* says 64"):
    vimh.Source(str(other), form="pickle")


@pytest.mark.parametrize("name", ["image", "spec_scale", "id", "labels", "a/value", "_mask", ""])
def test_parameters_whose_names_are_taken(name):
  with pytest.raises(ValueError, match="cannot be called"):
    vimh_meta.parse(vimh_bytes.info(1, 1, 1, 1, 1, ranges={name: (0.0, 1.0, 0.5)}))
