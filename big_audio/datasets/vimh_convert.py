"""Converts VIMH data sets: binary, pickled, and ArrayRecord shards.

A shard's examples are those of `vimh.Source` and "labels", the bytes of an item's labels as they
stand in its record; with the JSON file beside, the way back gives the very bytes that were there.
The JSON file is kept as it is: its `output_format` goes on saying in which form the generator wrote
the data set. No reader here looks at it.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from big_audio.datasets import arrayrecord, vimh, vimh_meta, vimh_name
from big_audio.datasets.errors import DecodeError
from big_audio.datasets.vimh_meta import Metadata
from big_audio.datasets.vimh_records import Records, record_dtype
from big_audio.datasets.vimh_write import appearing, vacate, write_folder

SPLITS = tuple(s for s in vimh.SPLITS if s != "all")
TARGETS = ("arrayrecord", "vimh", "pickle")
FORMS = {k: v.format("train") for k, v in vimh.FORMS.items()} | {"arrayrecord": "*.arrayrecord"}


def convert(
  source,
  target,
  to: str,
  *,
  form: str | None = None,
  shard_size: int = 4096,
  validation: float = 0.1,
  seed: int = 0,
) -> str:
  """Writes a data set in another form; returns the form that was read.

  Args:
    source: the data set's folder; it is not changed.
    target: a folder without a data set.
    to: "vimh" (binary), "pickle", or "arrayrecord": shards of the splits train, validation, test.
    form: "binary", "pickle" or "arrayrecord" where the source has several; the first by default.
    shard_size: items in an ArrayRecord file at most.
    validation, seed: as of `vimh.Source`; for ArrayRecord.

  Raises:
    ValueError: the source cannot be read, the target is in use.
  """
  source, target = Path(source).expanduser(), Path(target).expanduser()
  metadata, form = vimh_meta.read(source), form or _form(source)
  vimh_name.check(source, metadata)
  vacate(target)
  if form == "arrayrecord":
    parts = _from_shards(source, metadata)
  else:
    parts = {name: vimh.open_file(source, metadata, name, form) for name in vimh.FILES}
  text = (source / vimh_meta.FILE).read_bytes()
  if to == "arrayrecord":
    vimh_name.check(target, metadata)
    kw = dict(validation=validation, seed=seed, where="convert")
    chosen = {s: vimh.choose(metadata.train, metadata.test, s, **kw) for s in SPLITS}
    target.mkdir(parents=True, exist_ok=True)
    for split, mine in chosen.items():
      _shards(target, split, mine, metadata, parts, shard_size)
    with appearing(target / vimh_meta.FILE) as f:
      f.write(text)
  else:
    write_folder(
      target, text, parts["train"].raw, parts["test"].raw, to == "pickle", binary=to == "vimh"
    )
  return form


def _form(source):
  for form, pattern in FORMS.items():
    if any(source.glob(pattern)):
      return form
  raise ValueError(f"{source} has no {', '.join(FORMS.values())}: nothing to convert.")


def _shards(target, split, chosen, metadata, parts, shard_size):
  count = math.ceil(len(chosen) / shard_size)
  for k, mine in enumerate(np.array_split(chosen, count) if count else []):
    with arrayrecord.Writer(target / f"{split}-{k:05}-of-{count:05}.arrayrecord") as writer:
      for at in mine:
        writer.write(_example(metadata, parts, int(at)))


def _example(metadata: Metadata, parts: dict[str, Records], at: int) -> dict[str, Any]:
  name, at = ("train", at) if at < metadata.train else ("test", at - metadata.train)
  part = parts[name]
  scale = None if part.scale is None else part.scale[at]
  item = vimh.example(metadata, part.image(at), scale, part.labels[at], f"{name}/{at}")
  # Arrays keep their type in a shard, numbers would not.
  item = {k: v if isinstance(v, str) else np.asarray(v) for k, v in item.items()}
  return item | {"labels": part.raw["labels"][at].tobytes()}


def _from_shards(source, metadata):
  m = metadata
  shards = arrayrecord.Source(str(source / "*.arrayrecord"))
  if len(shards) < m.train + m.test:
    raise ValueError(
      f"{source}: {len(shards)} items, but {m.where} promises {m.train} in train and {m.test} in "
      f"test; {m.train + m.test - len(shards)} are missing. Is a shard missing?"
    )
  parts, seen = {}, {name: np.zeros(getattr(m, name), bool) for name in vimh.FILES}
  for i in range(len(shards)):
    try:
      e = shards[i]
    except DecodeError as error:
      raise ValueError(f"{source}: {error}") from None
    name, _, at = str(e["id"]).partition("/")
    if name not in seen or not at.isdecimal() or int(at) >= len(seen[name]) or seen[name][int(at)]:
      raise ValueError(
        f"{source}: item {e['id']!r:.60} is there twice or is none of {m.where}, which has "
        f"{m.train} in train and {m.test} in test."
      )
    at = int(at)
    if not parts:
      dtype = record_dtype(m, 14 if "spec_scale" in e else 6)
      parts = {n: np.zeros(len(s), dtype) for n, s in seen.items()}
    _fill(parts[name], at, e, m, f"{source}: item {e['id']}")
    seen[name][at] = True
  # Each came once and there are enough of them, so none is missing.
  return {name: Records(raw, m, f"{source}: {name}") for name, raw in parts.items()}


def _fill(records, at, e, m, where):
  shape, n = (m.height, m.width, m.channels), len(m.parameters)
  image, labels = e.get("image"), e.get("labels")
  if getattr(image, "shape", None) != shape or image.dtype != np.uint8:
    raise ValueError(f"{where}: expected an image uint8{list(shape)}.")
  if not isinstance(labels, bytes) or len(labels) != 2 * n:
    raise ValueError(f'{where}: expected "labels" of {2 * n} bytes, as convert writes them.')
  scaled = "spec_min" in records.dtype.names
  if scaled != ("spec_scale" in e) or (scaled and np.shape(e["spec_scale"]) != (2,)):
    raise ValueError(f"{where}: expected spec_scale in all items, or in none.")
  row = records[at : at + 1]
  row["height"], row["width"], row["channels"] = shape
  if scaled:
    row["spec_min"], row["spec_max"] = e["spec_scale"]
  row["count"] = n
  row["labels"] = np.frombuffer(labels, records.dtype["labels"].base)
  row["pixels"] = image.transpose(2, 0, 1)
