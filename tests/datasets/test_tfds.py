"""TFDS without TensorFlow."""

import pickle
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from big_audio.datasets.tfds import Source


class Ramps(tfds.core.GeneratorBasedBuilder):
  """Eight ramps."""

  VERSION = tfds.core.Version("1.0.0")
  code_path = None  # no checksums are kept beside this file

  def _info(self):
    features = {
      "audio": tfds.features.Tensor(shape=(None,), dtype=np.int16),
      "label": np.int64,
      "name": tfds.features.Text(),
    }
    return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples(8)}

  def _generate_examples(self, n):
    for i in range(n):
      yield i, {"audio": np.arange(5 + i, dtype=np.int16), "label": i, "name": f"n{i}"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  builder = Ramps(data_dir=tmp_path_factory.mktemp("tfds"), file_format="array_record")
  builder.download_and_prepare()
  return builder.data_dir


def test_reads_a_prepared_set_also_after_pickling(prepared):
  s = Source(builder_dir=str(prepared), rename={"audio": "wav"}, sr=100)
  assert len(s) == 8
  for e in (s[0], pickle.loads(pickle.dumps(s))[0]):
    assert e["wav"].tolist() == list(range(5 + e["label"])) and e["wav"].dtype == np.int16
    assert e["name"] == f"n{e['label']}" and e["sr"] == 100 and e["id"] == "tfds/0"
  part = Source(builder_dir=str(prepared), split="train[2:5]")
  assert [part[i]["label"] for i in range(3)] == [s[i]["label"] for i in range(2, 5)]
  assert "tensorflow" not in sys.modules


@pytest.mark.parametrize(
  "kw,message",
  [
    (dict(), "either name or builder_dir"),
    (dict(name="gtzan"), r'needs TensorFlow.*pip install "big_audio\[tfds-audio\]"'),
    (dict(name="gtzn"), "knows no such data set. Did you mean gtzan"),
    (dict(builder_dir="/absent"), r"tfds\(/absent\): "),
  ],
)
def test_what_cannot_be_read(kw, message, capsys):
  with pytest.raises(ValueError, match=message):
    Source(**kw)


def test_unknown_splits_and_sets_that_are_not_prepared(prepared, tmp_path):
  with pytest.raises(ValueError, match=r"Unknown split 'tran'.*'train'"):
    Source(builder_dir=str(prepared), split="tran")
  with pytest.raises(ValueError, match=r"not prepared in .*array_record"):
    Source(name="mnist", data_dir=str(tmp_path))
