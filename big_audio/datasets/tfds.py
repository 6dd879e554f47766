"""TensorFlow Datasets without TensorFlow: prepared `array_record` versions, read at random.

A data set of your own is a `GeneratorBasedBuilder` with `Tensor` features, prepared with
`file_format="array_record"`. The stock builders of audio need TensorFlow to be constructed and
stock pictures need it to be prepared (https://github.com/tensorflow/datasets/issues/11233).
"""

import difflib
import os
import threading

import numpy as np

_lock = threading.Lock()


class Source:
  """Examples of a TFDS builder: its features, with text as str, and "id"."""

  def __init__(
    self,
    name: str | None = None,
    split: str = "train",
    *,
    data_dir: str | None = None,
    builder_dir: str | None = None,
    rename: dict[str, str] | None = None,
    sr: int | None = None,
  ):
    """Opens a prepared data set.

    Args:
      name: as for `tfds.builder`, e.g. "my_set/config:1.0.0"; or
      builder_dir: the folder of one prepared version, which needs no builder code.
      split: TFDS's, slices too: "train[10%:20%]".
      data_dir: where TFDS keeps its data.
      rename: {feature: key}, e.g. {"audio": "wav"}.
      sr: Hz, put into each example as "sr" (TFDS stores no rate beside Tensor features).

    Raises:
      ValueError: neither or both of name and builder_dir; not prepared, or in a format that needs
        TensorFlow; no such split.
    """
    if (name is None) == (builder_dir is None):
      raise ValueError("tfds: expected either name or builder_dir.")
    self._args = (name, split, data_dir, builder_dir)
    self.rename, self.sr = dict(rename or {}), sr
    self._source = self._open()

  def __getstate__(self):
    return {**self.__dict__, "_source": None}

  def __setstate__(self, state):
    self.__dict__.update(state)
    self._source = self._open()  # open files do not travel to workers

  def _open(self):
    name, split, data_dir, builder_dir = self._args
    where = f"tfds({name or builder_dir})"
    with _lock:  # its lazy imports are not safe in threads
      import tensorflow_datasets as tfds

      try:
        if builder_dir is not None:
          builder = tfds.builder_from_directory(os.path.expanduser(builder_dir))
        else:
          builder = tfds.builder(name, data_dir=data_dir and os.path.expanduser(data_dir))
        if not builder.info.splits:
          raise ValueError(
            f'not prepared in {builder.data_dir}. Prepare it with file_format="array_record".'
          )
        return builder.as_data_source(split=split)
      except tfds.core.DatasetNotFoundError as e:
        near = difflib.get_close_matches(
          str(name).split("/")[0], tfds.list_builders(with_community_datasets=False), n=3
        )
        hint = f" Did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"{where}: TFDS knows no such data set.{hint}") from e
      except (ImportError, NotImplementedError) as e:
        # TFDS wraps the missing module in errors of its own; the name stays in the text.
        if "tensorflow" not in str(e) and "random access" not in str(e):
          raise
        raise ValueError(
          f"{where}: TFDS needs TensorFlow to construct or decode this data set. Either install "
          'it: pip install "big_audio[tfds-audio]", or prepare the data with Tensor features and '
          'file_format="array_record", or read the files with source="audio_dir".'
        ) from e
      except (ValueError, OSError) as e:
        raise ValueError(f"{where}: {e}") from e

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, i: int) -> dict:
    example = {}
    for key, value in self._source[i].items():
      value = value.decode() if isinstance(value, bytes) and self._is_text(key) else value
      example[self.rename.get(key, key)] = np.asarray(value) if isinstance(value, list) else value
    if self.sr is not None:
      example["sr"] = self.sr
    return {"id": f"tfds/{i}", **example}

  def _is_text(self, key) -> bool:
    return type(self._source.dataset_info.features[key]).__name__ == "Text"
