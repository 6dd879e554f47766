"""Writes VIMH data sets, in the bytes that the format's public generator writes (version 2.1).

Each file appears under its name when it is complete, the metadata last: a folder with a
`vimh_dataset_info.json` has all its files.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from big_audio.datasets import vimh_meta, vimh_name, vimh_pickle
from big_audio.datasets.vimh_meta import Metadata, Parameter
from big_audio.datasets.vimh_records import LAYOUTS, Records, record_dtype

_ENCODING = {
  "format": "[height] [width] [channels] [spec_min] [spec_max] [N] [param1_id] [param1_val] "
  "[param2_id] [param2_val] ...",
  "metadata_bytes": 14,
  "scale_factors": {
    "spec_min": "float32 - minimum dB value before normalization",
    "spec_max": "float32 - maximum dB value before normalization",
  },
  "N_range": [0, 255],
  "param_id_range": [0, 255],
  "param_val_range": [0, 255],
}


def metadata_json(
  *,
  height: int,
  width: int,
  channels: int,
  channel_labels: Sequence[str],
  parameters: Sequence[Parameter],
  train: int,
  test: int,
  sr: float,
  secs: float,
  spectrogram: Mapping[str, Any],
  mel: Mapping[str, Any],
  voice: str = "simple",
  pre_emphasis: float = 0.0,
  suffixes: Sequence[str] = (),
  pickle: bool = False,
) -> dict[str, Any]:
  """The content of `vimh_dataset_info.json`, keys in the order of the public generator.

  Args:
    height, width, channels: of the pictures; channel_labels: one for each channel.
    parameters: all of the voice, in order; those with min == max are fixed (step 0) and not in the
      labels. The description of a fixed one is kept with its value.
    train, test: number of items.
    sr: Hz; secs: length of the sounds (s).
    spectrogram: kept as `spectrogram_config`; mel: as `mel_config`.
    voice: what makes the sounds; pre_emphasis: its coefficient.
    suffixes: of the data set's name.
    pickle: whether pickled twins are written too.

  Raises:
    ValueError: what `vimh_meta.parse` refuses.
  """
  varying = [p for p in parameters if p.min != p.max]
  fixed = [p for p in parameters if p.min == p.max]
  total = train + test
  name = vimh_name.Name(
    height, width, channels, sr, secs, total, voice, len(varying), tuple(suffixes)
  )
  usual = lambda p: f"{voice} parameter: {p.name}"
  raw = {
    "format": "VIMH",
    "version": "2.1",
    "dataset_name": str(name),
    "output_format": "both" if pickle else "binary",
    "height": height,
    "width": width,
    "channels": channels,
    "channel_labels": list(channel_labels),
    "varying_parameters": len(varying),
    "parameter_names": [p.name for p in varying],
    "train_samples": train,
    "test_samples": test,
    "total_samples": total,
    "n_samples": total,
    "sample_rate": int(sr) if float(sr).is_integer() else float(sr),
    "duration": float(secs),
    "synth_type": voice,
    "image_size": f"{height}x{width}x{channels}",
    "parameter_mappings": {
      p.name: {
        "min": float(p.min),
        "step": float(p.step) if p.min != p.max else 0.0,
        "max": float(p.max),
        "description": p.description if p.min != p.max and p.description else usual(p),
      }
      for p in parameters
    },
    "fixed_parameters": {
      p.name: {"value": float(p.min), "description": p.description or usual(p)} for p in fixed
    },
    "pre_emphasis_coefficient": float(pre_emphasis),
    "spectrogram_config": dict(spectrogram),
    "mel_config": dict(mel),
    "label_encoding": json.loads(json.dumps(_ENCODING)),
  }
  vimh_meta.parse(raw, where="metadata_json")
  return raw


def to_records(
  metadata: Metadata, images: np.ndarray, scale: np.ndarray | None, labels: np.ndarray
) -> np.ndarray:
  """Puts items into records.

  Args:
    metadata: gives the sizes and the layout.
    images: u8[N,C,H,W], planes, row 0 the lowest frequency.
    scale: f32[N,2], spec_min and spec_max (dB), finite and in this order; None in the layout that
      has none.
    labels: u8[N,P] in the order of ids.

  Returns:
    array[N] of `record_dtype(metadata)`.

  Raises:
    ValueError: a shape or a type is another one; a scale is missing or out of order.
  """
  m, n = metadata, len(images)
  if m.header_bytes is not None and (scale is None) != (m.header_bytes == 6):
    got = "no scale" if scale is None else "a scale"
    raise ValueError(f"to_records: records with {m.header_bytes} bytes in front, but {got} given.")
  expected = dict(images=(n, m.channels, m.height, m.width), labels=(n, len(m.parameters)))
  for what, array in (("images", np.asarray(images)), ("labels", np.asarray(labels))):
    if array.dtype != np.uint8 or array.shape != expected[what]:
      raise ValueError(
        f"to_records: {what} must be uint8{list(expected[what])}, got {array.dtype}"
        f"{list(array.shape)}."
      )
  out = np.zeros(n, record_dtype(m, 6 if scale is None else 14))
  out["height"], out["width"], out["channels"] = m.height, m.width, m.channels
  if scale is not None:
    scale = np.asarray(scale, np.float32)
    if scale.shape != (n, 2):
      raise ValueError(f"to_records: scale must be float32[{n}, 2], got {list(scale.shape)}.")
    out["spec_min"], out["spec_max"] = scale[:, 0], scale[:, 1]
  out["count"] = len(m.parameters)
  out["labels"]["id"] = np.arange(len(m.parameters))
  out["labels"]["value"] = labels
  out["pixels"] = images
  Records(out, m, "to_records")
  return out


def write_folder(
  folder: str | os.PathLike,
  metadata_json: Mapping[str, Any] | bytes,
  train_records: np.ndarray,
  test_records: np.ndarray,
  pickle: bool = False,
  *,
  binary: bool = True,
) -> Path:
  """Writes a data set into a folder, which is made if it is missing; returns the folder.

  Args:
    folder: where to; it must not hold a data set.
    metadata_json: the content of the JSON file, or the file's bytes, kept as they are.
    train_records, test_records: of `to_records`.
    pickle: write `train_batch` and `test_batch` too.
    binary: write `train` and `test`.

  Raises:
    ValueError: files are there already; records and metadata do not belong together.
  """
  folder = Path(folder).expanduser()
  if isinstance(metadata_json, bytes):
    text, raw = metadata_json, json.loads(metadata_json)
  else:
    # Without a line break at the end, as the public generator leaves it.
    text, raw = json.dumps(metadata_json, indent=4).encode(), metadata_json
  metadata = vimh_meta.parse(raw, where=str(folder / vimh_meta.FILE))
  vimh_name.check(folder, metadata)
  parts = dict(train=train_records, test=test_records)
  for split, records in parts.items():
    if len(records) != (count := getattr(metadata, split)):
      raise ValueError(
        f"write_folder: {len(records)} records for {split}; the metadata say {count}."
      )
    if records.dtype not in (record_dtype(metadata, h) for h in LAYOUTS):
      raise ValueError(f"write_folder: {split}: the records do not have the metadata's sizes.")
  vacate(folder)
  folder.mkdir(parents=True, exist_ok=True)
  for split, records in parts.items():
    Records(records, metadata, f"write_folder: {split}")
    if binary:
      with appearing(folder / split) as f:
        np.ascontiguousarray(records).tofile(f)
    if pickle:
      with appearing(folder / f"{split}_batch") as f:
        vimh_pickle.write(f, metadata, records)
  with appearing(folder / vimh_meta.FILE) as f:
    f.write(text)
  return folder


def vacate(folder: Path) -> None:
  """Raises ValueError if a data set's file is in the folder: nothing is ever overwritten."""
  there = [vimh_meta.FILE, "train", "test", "train_batch", "test_batch", "*.arrayrecord"]
  found = sorted(p.name for pattern in there for p in folder.glob(pattern))
  if found:
    raise ValueError(
      f"{folder} holds {', '.join(found[:4])} already. Name another folder, or remove them first."
    )


@contextlib.contextmanager
def appearing(path: Path) -> Iterator[IO[bytes]]:
  """A file that is under its name when it is complete, and leaves nothing if it never is."""
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  try:
    with temporary.open("wb") as f:
      yield f
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)
