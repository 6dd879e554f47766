"""VIMH data sets that are written: byte for byte the public generator's, readable by others."""

import json
import pickle

import numpy as np
import pytest

from big_audio.datasets import vimh_convert, vimh_meta, vimh_write
from big_audio.datasets.vimh_meta import Parameter
from tests.datasets import vimh_bytes
from tests.datasets.public import ARGUMENTS, data_set
from tests.datasets.test_vimh import rewritten

PARAMETERS = [
  Parameter("note", 36.0, 60.0, 12.0),
  Parameter("velocity", 100.0, 100.0, 0.0, "held"),
  Parameter("decay", -2.0, 0.3, 0.1, "log10 of seconds"),
]


def described(train, test, **kw):
  arguments = dict(
    height=3, width=5, channels=2, channel_labels=["a", "b"], parameters=PARAMETERS, sr=8000,
    secs=1.5, spectrogram={"n_fft": 80}, mel={"freq_min": 40.0}, train=train, test=test,
  )  # fmt: skip
  return vimh_write.metadata_json(**arguments | kw)


def items(n, seed=0):
  rng = np.random.default_rng(seed)
  scale = np.sort(rng.normal(-30, 20, (n, 2)), axis=1).astype(np.float32)
  images = rng.integers(0, 256, (n, 2, 3, 5), np.uint8)
  return images, scale, rng.integers(0, 256, (n, 2), np.uint8)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_same_bytes_as_the_public_generator(name, tmp_path):
  rewritten(data_set(name), tmp_path)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_same_metadata_as_the_public_generator(name):
  # Other readers add keys to the file that is read; the generator's own may lie beside it.
  own = data_set(name) / "vimh_dataset_info.as_generated.json"
  text = (own if own.exists() else data_set(name) / vimh_meta.FILE).read_text()
  raw = json.loads(text)
  description = {n: f["description"] for n, f in raw["fixed_parameters"].items()}
  made = vimh_write.metadata_json(
    height=raw["height"],
    width=raw["width"],
    channels=raw["channels"],
    channel_labels=raw["channel_labels"],
    parameters=[
      Parameter(n, p["min"], p["max"], p["step"], description.get(n, ""))
      for n, p in raw["parameter_mappings"].items()
    ],
    train=raw["train_samples"],
    test=raw["test_samples"],
    sr=8000,
    secs=1,
    spectrogram=raw["spectrogram_config"],
    mel=raw["mel_config"],
    suffixes=name.split("_")[6:],
    pickle=True,
  )
  assert json.dumps(made, indent=4) == text


def test_read_back_by_an_independent_reader(tmp_path):
  raw, train, test = described(7, 2), items(7), items(2, 1)
  m = vimh_meta.parse(raw)
  folder = vimh_write.write_folder(
    tmp_path / "set", raw, vimh_write.to_records(m, *train), vimh_write.to_records(m, *test), True
  )
  found, info = vimh_bytes.read(folder)
  assert info == raw and (folder / vimh_meta.FILE).read_text() == json.dumps(raw, indent=4)
  assert info["parameter_names"] == ["note", "decay"] and info["total_samples"] == 9
  assert info["dataset_name"] == "vimh-3x5x2_8000Hz_1p5s_9dss_simple_2p"
  assert info["fixed_parameters"] == {"velocity": {"value": 100.0, "description": "held"}}
  for name, (images, scale, labels) in (("train", train), ("test", test)):
    pickled = pickle.loads((folder / f"{name}_batch").read_bytes())
    for i, (h, w, c, range_, pairs, planes) in enumerate(found[name]):
      assert (h, w, c) == (3, 5, 2) and planes == images[i].tolist()
      assert list(range_) == scale[i].tolist() == pickled["scale_factors"][i].tolist()
      assert pairs == list(enumerate(labels[i].tolist()))
      assert pickled["data"][i].tolist() == images[i].ravel().tolist()
      assert pickled["vimh_labels"][i] == [2, 0, int(labels[i, 0]), 1, int(labels[i, 1])]
  assert sorted(p.name for p in folder.iterdir()) == [
    "test", "test_batch", "train", "train_batch", vimh_meta.FILE,
  ]  # fmt: skip


def test_old_layout_is_written_without_scale(tmp_path):
  raw = described(4, 0)
  raw["label_encoding"]["metadata_bytes"] = 6
  images, scale, labels = items(4)
  m = vimh_meta.parse(raw)
  records = vimh_write.to_records(m, images, None, labels)
  folder = vimh_write.write_folder(tmp_path / "set", raw, records, records[:0])
  found, _ = vimh_bytes.read(folder)
  assert [i[3] for i in found["train"]] == [None] * 4 and found["test"] == []
  with pytest.raises(ValueError, match="6 bytes in front, but a scale given"):
    vimh_write.to_records(m, images, scale, labels)


@pytest.mark.parametrize("change,message", [
  (dict(images=np.zeros((4, 3, 5, 2), np.uint8)), r"images must be uint8\[4, 2, 3, 5\], got uint8"),
  (dict(images=np.zeros((4, 2, 3, 5))), "got float64"),
  (dict(labels=np.zeros((4, 3), np.uint8)), r"labels must be uint8\[4, 2\]"),
  (dict(labels=np.zeros((3, 2), np.uint8)), r"labels must be uint8\[4, 2\]"),
  (dict(scale=None), "14 bytes in front, but no scale"),
  (dict(scale=np.zeros((4, 3))), r"scale must be float32\[4, 2\]"),
  (dict(scale=np.array([[0, 1]] * 3 + [[1, 0]])), "record 3 has the range spec_min=1.0"),
])  # fmt: skip
def test_items_that_do_not_fit(change, message):
  images, scale, labels = items(4)
  arguments = dict(images=images, scale=scale, labels=labels) | change
  with pytest.raises(ValueError, match=message):
    vimh_write.to_records(vimh_meta.parse(described(4, 0)), **arguments)


def test_what_a_folder_is_refused_for(tmp_path):
  raw = described(4, 4)
  records = vimh_write.to_records(vimh_meta.parse(raw), *items(4))
  write = lambda name, raw=raw, **kw: vimh_write.write_folder(
    tmp_path / name, raw, records, kw.pop("test", records), **kw
  )
  with pytest.raises(ValueError, match="3 records for test; the metadata say 4"):
    write("set", test=records[:3])
  with pytest.raises(ValueError, match="do not have the metadata's sizes"):
    write("set", raw | {"height": 4})
  with pytest.raises(ValueError, match="by its name the height is 4"):
    write("vimh-4x5x2_8000Hz_1p5s_8dss_simple_2p")
  damaged = records.copy()
  damaged["count"][2] = 9
  with pytest.raises(ValueError, match="test: record 2 has 9 labels"):
    write("cut", test=damaged)
  assert not (tmp_path / "cut" / vimh_meta.FILE).exists()
  write("set")
  before = (tmp_path / "set/train").read_bytes()
  with pytest.raises(ValueError, match="holds test, train, vimh_dataset_info.json already"):
    write("set")
  assert (tmp_path / "set/train").read_bytes() == before


def test_a_file_appears_when_it_is_complete(tmp_path):
  path = tmp_path / "train"
  with pytest.raises(RuntimeError), vimh_write.appearing(path) as f:
    f.write(b"half")
    f.flush()
    assert not path.exists()
    raise RuntimeError
  assert not list(tmp_path.iterdir())
  with vimh_write.appearing(path) as f:
    f.write(b"all")
  assert [p.name for p in tmp_path.iterdir()] == ["train"] and path.read_bytes() == b"all"


def test_shards_need_all_their_items(tmp_path):
  folder = vimh_bytes.folder(tmp_path / "set")
  vimh_convert.convert(folder, tmp_path / "shards", "arrayrecord", shard_size=3)
  shard = tmp_path / "shards/train-00001-of-00003.arrayrecord"
  data = shard.read_bytes()
  shard.unlink()
  with pytest.raises(
    ValueError, match=r"[89] items, but .* promises 8 in train and 3 in test; [23] are missing"
  ):
    vimh_convert.convert(tmp_path / "shards", tmp_path / "back", "vimh")
  shard.write_bytes(data)
  (tmp_path / "shards/more.arrayrecord").write_bytes(data)
  with pytest.raises(ValueError, match="is there twice"):
    vimh_convert.convert(tmp_path / "shards", tmp_path / "back", "vimh")
  assert not (tmp_path / "back").exists()
