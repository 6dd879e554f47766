"""Files of embeddings: one row a track, as .npz.

| array | |
|---|---|
| embeddings | f32[N,D], finite, not zero; chunks are averaged already |
| ids | str[N], the path of a track relative to the folder of the audio, unique |
| labels | str[N], optional: its class, "" where it has none |
| artists | str[N], optional, "" where unknown |
| meta | str, optional: JSON of an object that says where they come from |

Such a file may come from anywhere: nothing in it is unpickled, and nothing larger than it says is
allocated.
"""

import json
import lzma
import math
import os
import re
import zipfile
import zlib
from dataclasses import dataclass, field

import numpy as np

from big_audio import config as C
from big_audio.evaluators import ranking

MOST_BYTES = 4 * 2**30
_ARRAYS = ("embeddings", "ids", "labels", "artists", "meta")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\u2028\u2029]")


@dataclass(frozen=True)
class Table:
  """Embeddings of N tracks.

  Attributes:
    x: f32[N,D]; ids: N unique relative paths.
    labels, artists: N names, None where the file has none.
    meta: what the file says of itself.
  """

  x: np.ndarray
  ids: list[str]
  labels: list[str] | None = None
  artists: list[str] | None = None
  meta: dict = field(default_factory=dict)

  def embedded(self) -> ranking.Embedded:
    """For `ranking`: each row a track of its own, names as numbers in alphabetical order."""
    n = len(self.ids)
    return ranking.Embedded(
      self.x,
      np.full(n, -1) if self.labels is None else numbers(self.labels),
      np.arange(n),
      None if self.artists is None else numbers(self.artists),
    )

  def place(self, name: str) -> int:
    """The row of an id, or of a number as text; raises ValueError with the nearest ids."""
    if name in self.ids:
      return self.ids.index(name)
    if name.isdecimal() and int(name) < len(self.ids):
      return int(name)
    if name.isdecimal():
      raise ValueError(f"there is no item {name}: they count from 0 to {len(self.ids) - 1}.")
    raise ValueError(f"there is no id {name!r}. {C.nearest(name, self.ids)}")


def numbers(names) -> np.ndarray:
  """i64[N]: names as numbers in alphabetical order, "" as -1."""
  known = {name: i for i, name in enumerate(sorted(set(names) - {""}))}
  return np.array([known.get(name, -1) for name in names], np.int64)


def save(path, table: Table) -> None:
  """Writes a table; the file appears, or is replaced, as a whole.

  Raises:
    ValueError: what `load` would refuse.
  """
  check(str(path), table)
  arrays = dict(embeddings=np.asarray(table.x, np.float32), ids=np.array(table.ids, np.str_))
  for name in ("labels", "artists"):
    if (values := getattr(table, name)) is not None:
      arrays[name] = np.array(values, np.str_)
  arrays["meta"] = np.array(json.dumps(table.meta), np.str_)
  temporary = f"{path}.{os.getpid()}.tmp"
  try:
    with open(temporary, "wb") as f:
      np.savez(f, **arrays)
    os.replace(temporary, path)
  finally:
    if os.path.exists(temporary):
      os.unlink(temporary)


def load(path) -> Table:
  """Reads a file of embeddings.

  Raises:
    ValueError: no such file, or one that is not as this module's text says.
  """
  if not os.path.isfile(path):
    raise ValueError(f"{path}: no such file.")
  try:
    with zipfile.ZipFile(path) as z:
      found = {n: _array(path, z, f"{n}.npy") for n in _ARRAYS if f"{n}.npy" in z.namelist()}
  # RuntimeError: encrypted. NotImplementedError: packed in an unknown way.
  except (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
  ) as e:
    raise ValueError(f"{path}: not an .npz file: {e}.") from None
  for name in ("embeddings", "ids"):
    if name not in found:
      raise ValueError(
        f"{path}: the array {name!r} is missing; it has {', '.join(found) or 'none'}."
      )
  x = found["embeddings"]
  if x.ndim != 2 or x.dtype.kind != "f" or not x.size:
    raise ValueError(f"{path}: embeddings: expected f32[N,D], got {x.dtype}{list(x.shape)}.")
  for name in ("ids", "labels", "artists"):
    a = found.get(name)
    if a is not None and (a.dtype.kind != "U" or a.shape != (len(x),)):
      raise ValueError(
        f"{path}: {name}: expected str[{len(x)}], one for each embedding, got "
        f"{a.dtype}{list(a.shape)}."
      )
  text = found.get("meta", np.array("{}"))
  if text.dtype.kind != "U" or text.shape != ():
    raise ValueError(f"{path}: meta: expected one string, got {text.dtype}{list(text.shape)}.")
  try:
    meta = json.loads(str(text))
  except (json.JSONDecodeError, RecursionError) as e:
    raise ValueError(f"{path}: meta is not JSON: {e}.") from None
  if not isinstance(meta, dict):
    raise ValueError(f"{path}: meta: expected a JSON object, got {str(text)[:60]!r}.")
  listed = {n: found[n].tolist() if n in found else None for n in ("ids", "labels", "artists")}
  table = Table(np.asarray(x, np.float32), **listed, meta=meta)
  check(str(path), table)
  return table


def check(path: str, table: Table) -> None:
  """Raises ValueError where values are not finite, rows are zero, or ids are not unique paths."""
  x, ids = np.asarray(table.x), table.ids
  if len(ids) != len(x):
    raise ValueError(f"{path}: {len(x)} embeddings and {len(ids)} ids.")
  bad = np.flatnonzero(~np.isfinite(x).all(axis=1) | ~x.any(axis=1))
  if len(bad):
    raise ValueError(
      f"{path}: {len(bad)} embeddings are zero or not finite, the first of {ids[bad[0]]!r}. Make "
      "them again, or leave these tracks out."
    )
  names = (ids, table.labels or [], table.artists or [])
  for name in (n for values in names for n in values):
    if _CONTROL.search(name):
      raise ValueError(f"{path}: the name {name!r} holds a control character.")
  if "" in ids:
    raise ValueError(f"{path}: an id is empty.")
  if len(set(ids)) < len(ids):
    seen: set[str] = set()
    twice = next(i for i in ids if i in seen or seen.add(i))
    raise ValueError(f"{path}: the id {twice!r} occurs twice; ids of tracks must be unique.")


def _array(path, z, name):
  info = z.getinfo(name)
  if info.file_size > MOST_BYTES:
    raise ValueError(f"{path}: {name} has {info.file_size / 2**30:.1f} GiB, more than 4.")
  with z.open(info) as f:
    try:
      version = np.lib.format.read_magic(f)
      read = {(1, 0): np.lib.format.read_array_header_1_0,
              (2, 0): np.lib.format.read_array_header_2_0}[version]  # fmt: skip
      shape, _, dtype = read(f)
    except (ValueError, KeyError) as e:
      raise ValueError(f"{path}: {name} has no header of an array: {e}.") from None
    # The header is believed only as far as there are bytes for it.
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != info.file_size - f.tell():
      raise ValueError(f"{path}: {name}: its size is not that of {dtype}{list(shape)}.")
  with z.open(info) as f:
    return np.lib.format.read_array(f, allow_pickle=False)
