r"""How an example is written into one record: readable anywhere, nothing in it is executed.

    magic "BAR1" | u32 little-endian length of the header | header | data

The header is JSON: {key: value or {"array": [dtype, shape, offset]} or {"bytes": [size, offset]}}.
Values are strings, numbers, booleans and None; arrays are little-endian and C-contiguous and start
at multiples of 8 in `data`.
"""

import json
import math
import struct
from typing import Any

import numpy as np

from big_audio.datasets.errors import DecodeError

_MAGIC = b"BAR1"
_DTYPES = frozenset(
  ("bool", "float16", "float32", "float64")
  + tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
)


def encode(example: dict[str, Any]) -> bytes:
  """Writes a flat dict of arrays, bytes, strings and numbers.

  Raises:
    ValueError: a value is of another kind.
  """
  header, data, size = {}, [], 0
  for key, value in example.items():
    if isinstance(value, np.generic):
      value = value.item()
    if isinstance(value, np.ndarray) and value.dtype.name in _DTYPES:
      raw = np.ascontiguousarray(value, value.dtype.newbyteorder("<")).tobytes()
      header[key] = {"array": [value.dtype.name, list(value.shape), size]}
    elif isinstance(value, bytes):
      raw = value
      header[key] = {"bytes": [len(raw), size]}
    elif value is None or isinstance(value, (str, bool, int, float)):
      raw = b""
      header[key] = value
    else:
      kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
      raise ValueError(
        f'records: "{key}" is {kind}; expected an array of {", ".join(sorted(_DTYPES))}, or bytes, '
        "a string, a number. A recording is written with its .numpy() or the bytes of its file."
      )
    raw += b"\0" * (-len(raw) % 8)
    data.append(raw)
    size += len(raw)
  head = json.dumps(header, allow_nan=True).encode()
  head += b" " * (-(len(head) + 8) % 8)
  return b"".join([_MAGIC, struct.pack("<I", len(head)), head, *data])


def decode(record: bytes) -> dict[str, Any]:
  """Reads what `encode` wrote; arrays are read-only views of the record.

  Raises:
    DecodeError: the record is damaged or in another format.
  """
  if record[:4] != _MAGIC or len(record) < 8:
    raise DecodeError(f'not a record of this format: it begins with {record[:4]!r}, not "BAR1".')
  end = 8 + struct.unpack("<I", record[4:8])[0]
  try:
    header = json.loads(record[8:end])
    data = memoryview(record)[end:]
    return {key: _value(v, data) for key, v in header.items()}
  except (ValueError, TypeError, AttributeError, KeyError, OverflowError, RecursionError) as e:
    raise DecodeError(f"damaged record: {e}") from e


def _value(v, data):
  if not isinstance(v, dict):
    return v
  if "bytes" in v:
    size, offset = v["bytes"]
    if not 0 <= offset <= offset + size <= len(data):
      raise ValueError(f"bytes [{offset}, {offset + size}) of {len(data)}")
    return bytes(data[offset : offset + size])
  dtype, shape, offset = v["array"]
  if dtype not in _DTYPES or min(shape, default=0) < 0 or offset < 0:
    raise ValueError(f"array of {dtype} {shape} at {offset}")
  return np.frombuffer(data, np.dtype(dtype).newbyteorder("<"), math.prod(shape), offset).reshape(
    shape
  )
