"""The pickled twins of a VIMH data set's files: `train_batch` and `test_batch`.

A dict: data u8[n,HWC], planes as in the records; vimh_labels, a list of [N, id, value, id, ...];
scale_factors f32[n,2]; height, width, channels, image_size. A pickle is a program, and loading one
runs what its author chose. Here it is not run: its instructions are read one by one, and those that
do not describe containers, numbers, strings or arrays of numbers are refused. Sizes that a file
claims get no memory: arrays are views of its bytes, and the records are made when it is known that
it has all of them.
"""

import math
import pickle
import pickletools
from pathlib import Path
from typing import IO, Any

import numpy as np

from big_audio.datasets.vimh_meta import Metadata
from big_audio.datasets.vimh_records import Records, record_dtype

LABELS = ("vimh_labels", "labels", "multihead_labels", "cifar100mh_labels")
_DTYPES = frozenset(
  [sign + size for sign in ("i", "u") for size in "1248"] + ["f2", "f4", "f8", "b1"]
)
_AXES = 4  # of arrays, at most
_DAMAGE = (ValueError, TypeError, AttributeError, IndexError, KeyError, OverflowError)


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
  return Records(read_raw(Path(path), metadata, count), metadata, str(path))


def read_raw(path: Path, metadata: Metadata, count: int) -> np.ndarray:
  """The content of a pickled file as records, their ids and ranges unchecked.

  Raises:
    ValueError: as `read`.
  """
  m, n = metadata, len(metadata.parameters)
  try:
    # Labels may be written as numpy numbers, which take up to 64 bytes each.
    most = 65536 + count * (m.pixels + 64 + 64 * (1 + 2 * n))
    if (size := path.stat().st_size) > most:
      raise ValueError(
        f"{path}: {size} bytes, but a pickle of the {count} items of {m.where} has {most} at most."
      )
    content = load(path.read_bytes(), str(path))
  except OSError as e:
    raise ValueError(f"{path} cannot be read: {e.strerror}.") from None
  return _records(content, m, count, str(path))


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


def load(data: bytes, where: str) -> dict[str, Any]:
  """Reads a pickled dict of containers, numbers, strings and numpy arrays of numbers.

  Raises:
    ValueError: damaged, or an instruction or a name is something else.
  """
  try:
    return _content(_run(data))
  except _RefusedError as e:
    raise ValueError(f"{where}: {e}") from None
  except _DAMAGE as e:
    raise ValueError(f"{where}: damaged, or not a pickle: {e}. Copy or make it again.") from None


class _RefusedError(Exception):
  pass


# Instructions that put their argument on the stack; genops has seen that the file holds it whole.
_VALUES = frozenset(
  ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
  + ("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8")
  + ("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8")
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _run(data):
  """The value of a pickle, by a machine that has no instruction for anything but data."""
  stack, marks, memo = [], [], {}

  def above(mark):
    items = stack[mark:]
    del stack[mark:]
    return items

  for op, arg, at in pickletools.genops(data):
    name = op.name
    if name in _VALUES:
      stack.append(arg)
    elif name == "MEMOIZE":
      memo[len(memo)] = stack[-1]
    elif name == "MARK":
      marks.append(len(stack))
    elif name in ("APPENDS", "APPEND"):
      items = above(marks.pop() if name == "APPENDS" else len(stack) - 1)
      _expect(stack[-1], list).extend(items)
    elif name in ("SETITEMS", "SETITEM"):
      items = above(marks.pop() if name == "SETITEMS" else len(stack) - 2)
      # Strings alone: what hashes may be nested until Python runs out of its stack.
      keys = [_expect(k, str) for k in items[::2]]
      _expect(stack[-1], dict).update(zip(keys, items[1::2], strict=True))
    elif name in ("EMPTY_LIST", "EMPTY_DICT"):
      stack.append([] if name == "EMPTY_LIST" else {})
    elif name == "LIST":
      stack.append(above(marks.pop()))
    elif name == "TUPLE":
      stack.append(tuple(above(marks.pop())))
    elif name in _TUPLES:
      stack.append(tuple(above(len(stack) - _TUPLES[name])))
    elif name in _CONSTANTS:
      stack.append(_CONSTANTS[name])
    elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
      memo[arg] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET", "GET"):
      stack.append(memo[arg])
    elif name == "GLOBAL":
      stack.append(_named(*arg.split(" ", 1)))
    elif name == "STACK_GLOBAL":
      stack.append(_named(*above(len(stack) - 2)))
    elif name == "REDUCE":
      call, arguments = above(len(stack) - 2)
      stack.append(_expect(call, _Call).make(*_expect(arguments, tuple)))
    elif name == "BUILD":
      state = stack.pop()
      _expect(stack[-1], _Array | _DType).build(*_expect(state, tuple))
    elif name == "STOP":
      if at + 1 != len(data):
        raise _RefusedError(f"{len(data) - at - 1} bytes follow the end of the pickle")
      (value,) = stack
      return value
    elif name not in ("PROTO", "FRAME"):
      raise _RefusedError(f"byte {at} is the instruction {name}, which data do not need; refused.")


def _expect(value, kind):
  if not isinstance(value, kind):
    raise ValueError(f"a {type(value).__name__} in an unexpected place")
  return value


def _named(module, name):
  module = _expect(module, str).replace("numpy.core.", "numpy._core.")
  found = _NAMES.get((module, _expect(name, str)))
  if found is None:
    raise _RefusedError(
      f"the pickle wants to call {f'{module}.{name}'[:80]!a}. Data need numpy arrays and builtin "
      "containers only; it was not run. Delete the file unless you trust its origin."
    )
  return found


class _DType:
  """Stands for a numpy dtype: a kind and a byte order, no fields, no objects."""

  def __init__(self, code, align=False, copy=False):
    if _expect(code, str) not in _DTYPES:
      known = ", ".join(sorted(_DTYPES))
      raise _RefusedError(f"an array of {code[:20]!a}; expected one of {known}.")
    self.code, self.order = code, "<"

  def build(self, version, order, *fields):
    if _expect(order, str) not in ("<", ">", "|", "=") or any(x is not None for x in fields[:3]):
      raise _RefusedError("an array of a compound type; expected one of numbers.")
    self.order = order

  def numpy(self):
    return np.dtype(self.code).newbyteorder(self.order)


class _Array:
  """Stands for a numpy array: bytes and what they mean."""

  dtype, shape, data, order = None, (0,), b"", "C"

  def build(self, version, shape, dtype, fortran, data):
    self.shape, self.dtype, self.data = shape, dtype, data
    self.order = "F" if fortran else "C"

  def numpy(self):
    flat = np.frombuffer(_expect(self.data, bytes | bytearray), _expect(self.dtype, _DType).numpy())
    shape = _expect(self.shape, tuple)[: _AXES + 1]
    sane = len(shape) <= _AXES and all(0 <= _expect(d, int) < 2**48 for d in shape)
    if not sane or math.prod(shape) != flat.size:  # numbers without bounds multiply for hours
      raise ValueError(f"an array of {flat.size} numbers claims another shape")
    return flat.reshape(shape, order=self.order)


class _Call:
  """A name that a pickle may call, and what is made in its place."""

  def __init__(self, make):
    self.make = make


def _array(kind, shape, code):
  if kind is not _NDARRAY or shape != (0,):
    raise _RefusedError("an array that asks for memory before it has content; refused.")
  return _Array()


def _buffered(data, dtype, shape, order):
  array = _Array()
  array.build(1, shape, dtype, order == "F", data)
  return array


def _scalar(dtype, data):
  return np.frombuffer(_expect(data, bytes), _expect(dtype, _DType).numpy())[0].item()


def _not_called(*_):
  raise _RefusedError("the pickle calls numpy.ndarray, which data do not need; refused.")


_NDARRAY = _Call(_not_called)
_NAMES = {
  ("numpy._core.multiarray", "_reconstruct"): _Call(_array),
  ("numpy._core.multiarray", "scalar"): _Call(_scalar),
  ("numpy._core.numeric", "_frombuffer"): _Call(_buffered),
  ("numpy", "ndarray"): _NDARRAY,
  ("numpy", "dtype"): _Call(_DType),
}


def _content(found):
  """The dict of the file, its arrays made numpy's; those within lists wait, see `_labels`."""
  if not isinstance(found, dict):
    raise _RefusedError(f"expected a dict with data and vimh_labels, got {_kind(found)}.")
  return {k: v.numpy() if isinstance(v, _Array) else v for k, v in found.items()}


def _records(content, m, count, where):
  """The records that the pickle's dict is worth; what it says of itself is compared."""
  n = len(m.parameters)
  key = next((k for k in LABELS if k in content), None)
  if "data" not in content or key is None:
    missing = "data" if "data" not in content else " or ".join(LABELS)
    keys = ", ".join(k[:40] for k in list(content)[:12])
    raise ValueError(f"{where}: no {missing} in the pickle; it has {keys or 'nothing'}.")
  sizes = dict(height=m.height, width=m.width, channels=m.channels, image_size=m.pixels)
  for k, stated in sizes.items():
    if k in content and not (isinstance(content[k], int) and content[k] == stated):
      raise ValueError(f"{where}: {k} is {_kind(content[k])}, but {m.where} says {stated}.")
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
  """u8[n,1+2P] of a list of lists or arrays, or of an array."""
  several = isinstance(rows, list) or (isinstance(rows, np.ndarray) and rows.ndim > 0)
  if not several or len(rows) != count:
    raise ValueError(f"{where}: {key} must be a list of {count} items, got {_kind(rows)}.")
  out = np.zeros((count, width), np.uint8)
  # One by one: all may be the same large array, which is not to be copied for each.
  for i, row in enumerate(rows):
    if isinstance(row, _Array) and row.shape == (width,):
      row = row.numpy()
    if not _bytes(row, width):
      raise ValueError(
        f"{where}: {key} of item {i} must be {width} bytes, [N, id, value, ...] of "
        f"{', '.join(m.names)}; got {_kind(row)}."
      )
    out[i] = row
  return out


def _bytes(row, width):
  if isinstance(row, np.ndarray):
    whole = row.shape == (width,) and row.dtype.kind in "iu"
    return whole and row.min() >= 0 and row.max() <= 255
  byte = lambda v: isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= 255
  return isinstance(row, list | tuple) and len(row) == width and all(map(byte, row))


def _kind(value):
  if isinstance(value, np.ndarray):
    return f"{value.dtype}{list(value.shape)}"
  if isinstance(value, int) and abs(value) < 2**63:
    return str(value)
  size = f" of {len(value)}" if isinstance(value, list | tuple) else ""
  return type(value).__name__.lstrip("_") + size
