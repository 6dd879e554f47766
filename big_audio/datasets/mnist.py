"""MNIST and its relatives from idx files (`images-idx3-ubyte[.gz]`, `labels-idx1-ubyte[.gz]`).

The format (http://yann.lecun.com/exdb/mnist): two zero bytes, a type byte (8 = u8), the number of
dimensions, each dimension as a big-endian u32, then the data. A header may claim anything: it is
checked against what the file can hold before memory is taken.
"""

import gzip
import math
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from big_audio.datasets import splits as splits_lib

DEFAULT_SPLITS = {"train": 0.8, "validation": 0.1, "test": 0.1}
_MAX_BYTES = 2**31  # MNIST has 47 million, EMNIST 550 million


class Source:
  """Pictures as {"image": f32[H,W,1] in [-1,1], "label": int, "id": str}."""

  def __init__(
    self,
    dir: str,
    split: str = "train",
    *,
    images: str = "images-idx3-ubyte",
    labels: str = "labels-idx1-ubyte",
    splits: Mapping[str, float] | None = None,
  ):
    """Reads the files and picks a split.

    Args:
      dir: the folder.
      split: a name in `splits`, or "all"; "codec" and "embed" are two halves of "train", for models
        and for the embedder that judges them.
      images: name of the file of pictures; `.gz` is added where only that exists.
      labels: name of the file of labels, likewise.
      splits: fractions by a hash of the index; default 80 % train, 10 % validation, 10 % test.
        For the public files: images="train-images-idx3-ubyte" with split="all", or fractions.

    Raises:
      ValueError: a file is missing, is not an idx file, is cut off or too long; the counts differ;
        there is no such split.
    """
    self._images = read_idx(_find(Path(dir).expanduser(), images), dims=3)
    self._labels = read_idx(_find(Path(dir).expanduser(), labels), dims=1)
    n = len(self._images)
    if n != len(self._labels):
      raise ValueError(f"mnist({dir}): {n} pictures in {images}, {len(self._labels)} labels.")
    ids = [f"{images}/{i}" for i in range(n)]
    rules = DEFAULT_SPLITS if splits is None else splits
    self._chosen = splits_lib.choose(ids, split, rules, where=f"mnist({dir})")
    self._prefix = images

  def __len__(self) -> int:
    return len(self._chosen)

  def __getitem__(self, i: int) -> dict:
    n = self._chosen[i]
    image = self._images[n].astype(np.float32)[..., None] / np.float32(127.5) - 1
    return {"image": image, "label": int(self._labels[n]), "id": f"{self._prefix}/{n}"}


def read_idx(path: Path, *, dims: int) -> np.ndarray:
  """Reads an idx file of bytes, compressed if its name ends in .gz.

  Args:
    path: the file.
    dims: expected number of dimensions.

  Returns:
    u8 array of `dims` dimensions.

  Raises:
    ValueError: it is not an idx file of bytes with `dims` dimensions, or its size is not what its
      header says.
  """
  try:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as f:
      head = f.read(4 + 4 * dims)
      if len(head) < 4 + 4 * dims or head[:3] != b"\0\0\x08" or head[3] != dims:
        raise ValueError(
          f"{path}: expected an idx file of bytes with {dims} dimension(s), whose first bytes are "
          f"00 00 08 {dims:02x}; got {head[:4].hex(' ')}."
        )
      shape = struct.unpack(f">{dims}I", head[4:])
      size = math.prod(shape)
      # Deflate packs 1032 to 1 at best: a larger claim cannot be in the file.
      most = path.stat().st_size * (1032 if path.suffix == ".gz" else 1)
      if size > min(most, _MAX_BYTES):
        raise ValueError(f"{path}: the header claims {shape}, more than the file can hold.")
      data = f.read(size + 1)
  except (OSError, EOFError, zlib.error) as e:
    raise ValueError(f"{path}: cannot be read: {e}") from e
  if len(data) != size:
    what = "more" if len(data) > size else f"only {len(data)}"
    raise ValueError(f"{path}: the header says {shape} = {size} bytes, the file has {what}.")
  return np.frombuffer(data, np.uint8).reshape(shape)


def _find(folder: Path, name: str) -> Path:
  for path in (folder / name, folder / f"{name}.gz"):
    if path.is_file():
      return path
  here = sorted(p.name for p in folder.glob("*idx*")) if folder.is_dir() else []
  raise ValueError(
    f"mnist: no {name} or {name}.gz in {folder}. "
    f"It has {', '.join(here) or 'no idx files'}; name them with images= and labels=."
  )
