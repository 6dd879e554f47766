"""The pickled twins of a VIMH data set's files: `train_batch` and `test_batch`.

A dict: data u8[n,HWC], planes as in the records; vimh_labels, a list of [N, id, value, id, value...];
scale_factors f32[n,2]; height, width, channels, image_size. A pickle is a program. This one is read
before it is run: only the names below may be called, what they call is ours (numpy sees plain bytes
at the end), and no number in it asks for memory that the file does not fill.
"""

import io
import pickle
import pickletools
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from big_audio.datasets.vimh_meta import Metadata
from big_audio.datasets.vimh_records import Records, record_dtype

LABELS = ("vimh_labels", "labels", "multihead_labels", "cifar100mh_labels")
_DTYPES = frozenset(
  [sign + size for sign in ("i", "u") for size in "1248"] + ["f2", "f4", "f8", "b1"]
)
_DAMAGE = (
  pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError,
  OverflowError, RecursionError, ImportError,
)  # fmt: skip


def read(path: Path, metadata: Metadata, count: int) -> Records:
  """Reads a pickled file, all of it, and checks it as the binary one is checked.

  Args:
    path: the file.
    metadata: of the data set.
    count: number of items that the metadata promise.

  Raises:
    ValueError: it cannot be read, is larger than such a file can be, wants to call anything, is no
      such dict, or does not fit the metadata.
  """
  path = Path(path)
  m, n = metadata, len(metadata.parameters)
  try:
    # Twice what labels written as numpy numbers would take, and nothing is lost by the bound.
    most = 65536 + count * (m.pixels + 64 + 64 * (1 + 2 * n))
    if (size := path.stat().st_size) > most:
      raise ValueError(
        f"{path}: {size} bytes, but a pickle of the {count} items of {m.where} has {most} at most."
      )
    content = load(path.read_bytes(), str(path))
  except OSError as e:
    raise ValueError(f"{path} cannot be read: {e.strerror}.") from None
  return Records(_records(content, m, count, str(path)), m, str(path))


def write(f: IO[bytes], metadata: Metadata, records: np.ndarray) -> None:
  """Writes records as the public generator does, by protocol 4."""
  n = len(records)
  pairs = records["labels"]
  labels = np.empty((n, 1 + 2 * len(metadata.parameters)), np.uint8)
  labels[:, 0], labels[:, 1::2], labels[:, 2::2] = records["count"], pairs["id"], pairs["value"]
  out = {
    "data": np.ascontiguousarray(records["pixels"]).reshape(n, -1),
    "vimh_labels": labels.tolist(),
  }
  if "spec_min" in records.dtype.names:
    scale = np.stack([records["spec_min"], records["spec_max"]], axis=1)
    out["scale_factors"] = scale.astype(np.float32)
  out |= dict(height=metadata.height, width=metadata.width, channels=metadata.channels)
  pickle.dump(out | dict(image_size=metadata.pixels), f, protocol=4)


def load(data: bytes, where: str) -> Any:
  """Unpickles builtin containers, numbers, strings and numpy arrays of numbers; nothing else.

  Raises:
    ValueError: damaged, or it names anything else, which is not run.
  """
  try:
    _scan(data, where)
    return _arrays(_Unpickler(io.BytesIO(data), where).load(), where)
  except _RefusedError as e:
    raise ValueError(str(e)) from None
  except _DAMAGE as e:
    raise ValueError(f"{where}: damaged, or not a pickle: {e}. Copy or make it again.") from None


class _RefusedError(ValueError):
  pass


def _scan(data, where):
  """Looks at all instructions before any is run."""
  steps = 0
  for op, arg, at in pickletools.genops(data):  # arguments that reach beyond the end raise
    steps += 1
    if op.name in ("GLOBAL", "INST"):
      _allowed(*arg.split(" ", 1), where)
    elif op.name in ("PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4", "OBJ", "NEWOBJ_EX"):
      raise _RefusedError(f"{where}: byte {at} is {op.name}, which data do not need; refused.")
    # The place in a memo is allocated, with all before it.
    elif op.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(arg) > steps:
      raise _RefusedError(f"{where}: byte {at} claims place {arg} of {steps}; refused.")
    elif op.name == "FRAME" and arg > len(data) - at:
      raise _RefusedError(f"{where}: byte {at} claims {arg} bytes, the file ends before; refused.")


class _Unpickler(pickle.Unpickler):
  def __init__(self, file, where):
    super().__init__(file)
    self._where = where

  def find_class(self, module, name):
    return _allowed(module, name, self._where)


def _allowed(module, name, where):
  found = _STANDINS.get((module.replace("numpy.core", "numpy._core"), name))
  if found is None:
    raise _RefusedError(
      f"{where} wants to call {module}.{name}. Data need numpy arrays and builtin containers only; "
      "this was not run. Do not open the file with other programs unless you trust its origin."
    )
  return found


class _DType:
  """Stands for a numpy dtype: a kind and a byte order, no fields, no objects."""

  def __init__(self, code, align=False, copy=False):
    if code not in _DTYPES:
      raise _RefusedError(f"an array of {str(code)[:40]!r}; expected numbers of {sorted(_DTYPES)}")
    self.code, self.order = code, "<"

  def __setstate__(self, state):
    _, order, *fields = state
    if order not in ("<", ">", "|", "=") or any(x is not None for x in fields[:3]):
      raise _RefusedError("an array of a compound type")
    self.order = order

  def numpy(self):
    return np.dtype(self.code).newbyteorder(self.order)


class _Array:
  """Stands for a numpy array: bytes and what they mean."""

  def __setstate__(self, state):
    _, self.shape, self.dtype, self.fortran, self.data = state

  def numpy(self):
    shape, data = self.shape, self.data
    if not isinstance(self.dtype, _DType) or not isinstance(data, bytes | bytearray):
      raise _RefusedError("an array that does not hold numbers")
    if not all(isinstance(d, int) and d >= 0 for d in shape):
      raise _RefusedError(f"an array of shape {str(shape)[:60]}")
    flat = np.frombuffer(data, self.dtype.numpy())
    return flat.reshape(shape, order="F" if self.fortran else "C")


class _ArrayType:
  """Stands for numpy.ndarray, which is only handed to `_reconstruct`."""


def _reconstruct(kind, shape, code):
  if kind is not _ArrayType or shape != (0,):
    raise _RefusedError(f"an array that begins as {str(shape)[:60]}")
  return _Array()


def _frombuffer(data, dtype, shape, order):
  out = _Array()
  out.__setstate__((1, shape, dtype, order == "F", data))
  return out


def _scalar(dtype, data):
  if not isinstance(dtype, _DType) or not isinstance(data, bytes):
    raise _RefusedError("a scalar that is not a number")
  return np.frombuffer(data, dtype.numpy())[0].item()


_STANDINS = {
  ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
  ("numpy._core.multiarray", "scalar"): _scalar,
  ("numpy._core.numeric", "_frombuffer"): _frombuffer,
  ("numpy", "ndarray"): _ArrayType,
  ("numpy", "dtype"): _DType,
}


def _arrays(content, where):
  """The dict of the file, its arrays made numpy's."""
  if not isinstance(content, Mapping):
    raise _RefusedError(
      f"{where} holds a {type(content).__name__.lstrip('_')}, not a dict with data and vimh_labels."
    )
  try:
    return {k: v.numpy() if isinstance(v, _Array) else v for k, v in content.items()}
  except _RefusedError:
    raise


def _records(content, m, count, where):
  """The records that the pickle's dict is worth; what it says of itself is compared."""
  n = len(m.parameters)
  key = next((k for k in LABELS if k in content), None)
  if "data" not in content or key is None:
    missing = "data" if "data" not in content else " or ".join(LABELS)
    keys = ", ".join(str(k)[:40] for k in list(content)[:12])
    raise ValueError(f"{where}: no {missing} in the pickle; it has {keys or 'nothing'}.")
  sizes = dict(height=m.height, width=m.width, channels=m.channels, image_size=m.pixels)
  for k, stated in sizes.items():
    if k in content and content[k] != stated:
      raise ValueError(f"{where}: {k}={str(content[k])[:40]}, but {m.where} says {stated}.")
  data = content["data"]
  if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2:
    raise ValueError(f"{where}: data must be uint8[n, {m.pixels}], got {_kind(data)}.")
  if data.shape != (count, m.pixels):
    raise ValueError(
      f"{where}: data is uint8{list(data.shape)}, but {m.where} promises {count} items of "
      f"{m.pixels} bytes."
    )
  scale = content.get("scale_factors")
  if scale is None and m.header_bytes == 14:
    raise ValueError(
      f"{where}: no scale_factors, but {m.where} says that the records have them "
      "(label_encoding.metadata_bytes=14)."
    )
  out = np.zeros(count, record_dtype(m, 6 if scale is None else 14))
  if scale is not None:
    if not isinstance(scale, np.ndarray) or scale.shape != (count, 2) or scale.dtype.kind != "f":
      raise ValueError(f"{where}: scale_factors must be float32[{count}, 2], got {_kind(scale)}.")
    out["spec_min"], out["spec_max"] = scale[:, 0], scale[:, 1]
  out["height"], out["width"], out["channels"] = m.height, m.width, m.channels
  labels = _labels(content[key], key, count, 1 + 2 * n, m, where)
  out["count"], out["labels"]["id"], out["labels"]["value"] = (
    labels[:, 0], labels[:, 1::2], labels[:, 2::2],
  )  # fmt: skip
  out["pixels"] = data.reshape(count, m.channels, m.height, m.width)
  return out


def _labels(rows, key, count, width, m, where):
  """u8[n,1+2P] of a list of lists or an array."""
  if isinstance(rows, np.ndarray):
    rows = rows.tolist()
  if not isinstance(rows, list) or len(rows) != count:
    raise ValueError(f"{where}: {key} must be a list of {count} items, got {_kind(rows)}.")
  for i, row in enumerate(rows):
    row = rows[i] = row.numpy().tolist() if isinstance(row, _Array) else row
    byte = lambda v: isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= 255
    if not isinstance(row, list | tuple) or len(row) != width or not all(map(byte, row)):
      raise ValueError(
        f"{where}: {key} of item {i} must be {width} bytes, [N, id, value, ...] of "
        f"{', '.join(m.names)}; got {_kind(row)}."
      )
  return np.array(rows, np.uint8).reshape(count, width)


def _kind(value):
  if isinstance(value, np.ndarray):
    return f"{value.dtype}{list(value.shape)}"
  size = f" of {len(value)}" if isinstance(value, list | tuple) else ""
  return type(value).__name__.lstrip("_") + size
