"""Binary files of a VIMH data set: records of one length, one after another, little-endian.

    u16 height, width, channels | f32 spec_min, spec_max | u8 N | N (u8 id, u8 value) | u8 pixels

Pixels are planes, [C,H,W]; row 0 is the lowest frequency, column 0 the first frame. spec_min and
spec_max are the range in dB that the 8 bits stand for; an older layout has no such pair. An id is a
place in `parameter_names`. Files have neither header nor checksum, so everything that repeats in
the records is compared with the metadata when a file is opened.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from big_audio.datasets.vimh_meta import Metadata

LAYOUTS = (14, 6)  # bytes in front of N
_BLOCK = 1 << 16  # records that are checked at a time


def record_dtype(metadata: Metadata, header_bytes: int | None = None) -> np.dtype:
  """The type of one record.

  Fields: height, width, channels u16; spec_min, spec_max f32 (not in the older layout); count u8;
  labels [P] of (id u8, value u8); pixels u8[C,H,W].

  Args:
    metadata: gives the sizes.
    header_bytes: 14 or 6; None: what the metadata state, or 14.
  """
  header = header_bytes or metadata.header_bytes or 14
  m = metadata
  return np.dtype(
    [("height", "<u2"), ("width", "<u2"), ("channels", "<u2")]
    + [("spec_min", "<f4"), ("spec_max", "<f4")] * (header == 14)
    + [
      ("count", "u1"),
      ("labels", [("id", "u1"), ("value", "u1")], (len(m.parameters),)),
      ("pixels", "u1", (m.channels, m.height, m.width)),
    ]
  )


class Records:
  """Random access to the records of one file, checked.

  Attributes:
    labels: u8[N,P], in the order of ids whatever their order in the records.
    scale: f32[N,2], spec_min and spec_max (dB); None in the older layout.
    raw: the records as they are, a read-only array of `record_dtype`.
  """

  def __init__(self, raw: np.ndarray, metadata: Metadata, where: str, path: Path | None = None):
    """Checks records; `open_records` and `vimh_pickle.read` make them from files.

    Raises:
      ValueError: a record does not fit the metadata; names it.
    """
    for rows, describe in faults(raw, metadata, where):
      more = f" So {'has' if rows.size == 2 else 'have'} {rows.size - 1} more." * (rows.size > 1)
      raise ValueError(describe(int(rows[0])) + more)
    self.raw, self._path = raw, path
    pairs = np.array(raw["labels"])
    order = np.argsort(pairs["id"], axis=1)
    self.labels = np.take_along_axis(pairs["value"], order, axis=1)
    self.scale = None
    if "spec_min" in raw.dtype.names:
      self.scale = np.stack([raw["spec_min"], raw["spec_max"]], axis=1).astype(np.float32)

  def __len__(self) -> int:
    return len(self.raw)

  def image(self, i: int) -> np.ndarray:
    """u8[H,W,C], a copy."""
    return np.ascontiguousarray(self.raw["pixels"][i].transpose(1, 2, 0))

  def __getstate__(self):
    state = dict(self.__dict__)
    if self._path is not None:  # a mapped file is opened again, not copied to a worker
      state["raw"] = (self.raw.dtype, len(self.raw))
    return state

  def __setstate__(self, state):
    self.__dict__.update(state)
    if self._path is not None:
      dtype, n = state["raw"]
      if (size := self._path.stat().st_size) != n * dtype.itemsize:
        raise ValueError(f"{self._path} has changed since it was opened: now {size} bytes.")
      self.raw = _map(self._path, dtype)


def open_records(path: str | os.PathLike, metadata: Metadata, count: int) -> Records:
  """Maps a file of records into memory, read-only, and checks all of them.

  Args:
    path: the file `train` or `test`.
    metadata: of the data set.
    count: number of records that the metadata promise.

  Raises:
    ValueError: the file is missing, of another size, of an unknown layout, or a record does not
      fit the metadata.
  """
  path = Path(path)
  raw = map_records(path, metadata, count)
  return Records(raw, metadata, str(path), path)


def map_records(path: Path, metadata: Metadata, count: int | None) -> np.ndarray:
  """The file as an array, its size and layout checked, its records not; count=None: any number.

  Raises:
    ValueError: as `open_records`.
  """
  try:
    size = path.stat().st_size
    with path.open("rb") as f:
      first = f.read(6)
  except OSError as e:
    raise ValueError(f"{path} cannot be read: {e.strerror}.") from None
  if len(first) == 6 and tuple(np.frombuffer(first, "<u2")) != _shape(metadata):
    raise ValueError(
      f"{path}: record 0 holds a picture of {_by(np.frombuffer(first, '<u2'))}, but "
      f"{metadata.where} says {_by(_shape(metadata))}. One of them belongs to another data set."
    )
  dtype = record_dtype(metadata, layout(path, size, metadata))
  n, rest = divmod(size, dtype.itemsize)
  if rest:
    raise ValueError(
      f"{path}: {size} bytes are {n} records of {dtype.itemsize} and {rest} bytes more: the file "
      f"is cut off or has something behind its end{_other(size, dtype, metadata)}. "
      f"{'' if count is None else f'{count * dtype.itemsize} bytes are expected. '}Copy or make it "
      "again."
    )
  if count is not None and n != count:
    raise ValueError(
      f"{path}: {n} records, but {metadata.where} promises {count}: the file is cut off, or "
      "belongs to another data set. Copy or make it again."
    )
  return _map(path, dtype)


def layout(path: Path, size: int, metadata: Metadata) -> int:
  """Bytes in front of N: as the metadata state, else the layout that the file repeats.

  Raises:
    ValueError: the metadata do not state it and the file fits both layouts or none.
  """
  if metadata.header_bytes is not None or size == 0:
    return metadata.header_bytes or 14
  fits = []
  for header in LAYOUTS:
    dtype = record_dtype(metadata, header)
    if size % dtype.itemsize == 0:
      heads = _map(path, dtype)[["height", "width", "channels"]]
      if all(np.all(heads[i : i + _BLOCK] == heads[0]) for i in range(0, len(heads), _BLOCK)):
        fits.append(header)
  if len(fits) == 1:
    return fits[0]
  lengths = " or ".join(f"{record_dtype(metadata, h).itemsize} ({h} + ...)" for h in LAYOUTS)
  what = "both layouts fit" if fits else "no layout fits: the file is cut off or damaged"
  raise ValueError(
    f"{path}: {size} bytes in records of {lengths}: {what}. {metadata.where} does not state "
    "label_encoding.metadata_bytes, 14 with spec_min and spec_max or 6 without; add it."
  )


Describe = Callable[[int], str]


def faults(
  raw: np.ndarray, metadata: Metadata, where: str
) -> Iterator[tuple[np.ndarray, Describe]]:
  """Yields for each kind of fault the numbers of its records and what tells about one of them."""
  n = len(metadata.parameters)
  ids = lambda i: raw["labels"]["id"][i].tolist()
  of = f"{where}: record %d"
  shape = np.stack([raw[k] for k in ("height", "width", "channels")], axis=1)
  wrong = (shape != _shape(metadata)).any(axis=1)
  if wrong.any():
    yield (
      np.flatnonzero(wrong),
      lambda i: (
        f"{of % i} holds a picture of {_by(shape[i])}, but {metadata.where} says "
        f"{_by(_shape(metadata))}. The file is damaged; copy or make it again."
      ),
    )
  count = raw["count"]
  short = ~wrong & (count != n)
  if short.any():
    yield (
      np.flatnonzero(short),
      lambda i: (
        f"{of % i} has {count[i]} labels, but {n} parameters vary by {metadata.where} "
        f"({', '.join(metadata.names)}). One of them belongs to another data set."
      ),
    )
  readable = ~wrong & ~short
  found = np.array(raw["labels"]["id"])
  unknown = readable & (found >= n).any(axis=1)
  if unknown.any():
    yield (
      np.flatnonzero(unknown),
      lambda i: (
        f"{of % i} has the unknown parameter id {max(ids(i))} in {ids(i)}; expected 0 to {n - 1} "
        f"({', '.join(metadata.names)})."
      ),
    )
  repeated = readable & ~unknown & (np.sort(found, axis=1) != np.arange(n)).any(axis=1)
  if repeated.any():
    yield (
      np.flatnonzero(repeated),
      lambda i: f"{of % i} repeats a parameter id: {ids(i)}; expected each of 0 to {n - 1} once.",
    )
  if "spec_min" in raw.dtype.names:
    low, high = np.array(raw["spec_min"]), np.array(raw["spec_max"])
    bad = ~wrong & ~(np.isfinite(low) & np.isfinite(high) & (low <= high))
    if bad.any():
      yield (
        np.flatnonzero(bad),
        lambda i: (
          f"{of % i} has the range spec_min={low[i]}, spec_max={high[i]}; expected finite numbers, "
          "spec_min <= spec_max. It is damaged, or of the layout without this pair (state "
          "label_encoding.metadata_bytes)."
        ),
      )


def _shape(metadata):
  return metadata.height, metadata.width, metadata.channels


def _by(shape):
  return "x".join(map(str, shape)) + " (HxWxC)"


def _other(size, dtype, metadata):
  for header in LAYOUTS:
    other = record_dtype(metadata, header)
    if other != dtype and size % other.itemsize == 0:
      return f" (or label_encoding.metadata_bytes should be {header}, which fits)"
  return ""


def _map(path, dtype):
  if path.stat().st_size == 0:
    return np.zeros(0, dtype)
  return np.memmap(path, dtype, mode="r")
