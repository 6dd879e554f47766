"""Files of weights: safetensors, one or in shards, read by name and without torch; torch's own."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from big_audio.convert import torch_pickle

TORCH = (".bin", ".pt", ".pth")
# What a folder may hold, the first that is there.
WHOLE, INDEX, PICKLE = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
_JSON_BYTES = 64 << 20
_KINDS = {np.dtype(k): v for k, v in (
  ("f8", "F64"), ("f4", "F32"), ("f2", "F16"), (ml_dtypes.bfloat16, "BF16"),
)}  # fmt: skip


class Weights(Mapping):
  """Tensors of a checkpoint by name; those of safetensors are read when they are asked for.

  Attributes:
    path: of the file or folder.
    files: that were opened, without the index.
    metadata: {str: str} of the safetensors header.
    config: what config.json beside the weights says; {} without one.
  """

  def __init__(self, path: str):
    """Opens a .safetensors, .bin, .pt or .pth file, or a folder that holds one.

    Raises:
      ValueError: nothing there, or a file that is damaged or of another kind.
    """
    self.path = os.fspath(path)
    self.metadata: dict[str, str] = {}
    self._arrays: dict[str, np.ndarray] = {}
    self._open: dict[str, Any] = {}  # name -> the open file that holds it
    folder = self.path if os.path.isdir(self.path) else os.path.dirname(self.path)
    self.files = self._find()
    for file in self.files:
      if file.endswith(TORCH):
        self._arrays |= torch_pickle.read(file)
        continue
      handle = _open(file)
      self.metadata |= handle.metadata() or {}
      names = list(handle.keys())
      if twice := sorted(self._open.keys() & set(names)):
        raise ValueError(f"{self.path}: {twice[:5]} are in several shards.")
      self._open |= dict.fromkeys(names, handle)
    self.config = {}
    if os.path.isfile(path := os.path.join(folder, "config.json")):
      self.config = read_json(path)
    if os.path.isdir(self.path) and os.path.isfile(index := os.path.join(self.path, INDEX)):
      self._check_index(index)

  def __getitem__(self, name: str) -> np.ndarray:
    """A tensor; raises a ValueError unless it holds floats of 16, 32 or 64 bits."""
    if name in self._open:
      kind = self._open[name].get_slice(name).get_dtype()
    else:
      kind = _KINDS.get(self._arrays[name].dtype, self._arrays[name].dtype)
    if kind not in _KINDS.values():
      raise ValueError(f"{self.path}: {name} is {kind}; expected {', '.join(_KINDS.values())}.")
    return self._open[name].get_tensor(name) if name in self._open else self._arrays[name]

  def __iter__(self) -> Iterator[str]:
    yield from self._open
    yield from self._arrays

  def __len__(self) -> int:
    return len(self._open) + len(self._arrays)

  def shape(self, name: str) -> tuple[int, ...]:
    """The shape of a tensor, without reading it."""
    if name in self._open:
      return tuple(self._open[name].get_slice(name).get_shape())
    return self._arrays[name].shape

  def sha256(self) -> str:
    """Of the file; of several, that of the lines "<sha256>  <name>" in order of names."""
    sums = []
    for file in self.files:
      with open(file, "rb") as f:
        sums.append((os.path.basename(file), hashlib.file_digest(f, "sha256").hexdigest()))
    if len(sums) == 1:
      return sums[0][1]
    return hashlib.sha256("".join(f"{d}  {n}\n" for n, d in sorted(sums)).encode()).hexdigest()

  def _find(self) -> list[str]:
    if os.path.isfile(self.path):
      if not self.path.endswith((".safetensors", *TORCH)):
        raise ValueError(f"{self.path}: expected .safetensors, .bin, .pt or .pth.")
      return [self.path]
    if not os.path.isdir(self.path):
      raise ValueError(f"{self.path}: there is no such file or folder of weights.")
    inside = lambda name: os.path.join(self.path, name)
    if os.path.isfile(inside(WHOLE)):
      return [inside(WHOLE)]
    if os.path.isfile(inside(INDEX)):
      shards = sorted(set(_weight_map(inside(INDEX)).values()))
      for name in shards:
        if not os.path.isfile(inside(name)):
          raise ValueError(f"{self.path}: the shard {name}, which the index names, is missing.")
      return [inside(name) for name in shards]
    if os.path.isfile(inside(PICKLE)):
      return [inside(PICKLE)]
    raise ValueError(
      f"{self.path}: none of {WHOLE}, {INDEX} and {PICKLE} is in this folder. Name the file."
    )

  def _check_index(self, index):
    if self.files[0].endswith(WHOLE):
      return
    listed = _weight_map(index)
    if wrong := sorted(listed.keys() ^ self._open.keys()):
      raise ValueError(f"{self.path}: index and shards disagree about {wrong[:5]}.")


def read_json(path: str) -> dict[str, Any]:
  """A JSON object.

  Raises:
    ValueError: a file that is too large, or something else.
  """
  if (size := os.path.getsize(path)) > _JSON_BYTES:
    raise ValueError(f"{path}: {size} bytes of JSON; expected at most {_JSON_BYTES}.")
  try:
    with open(path, encoding="utf-8") as f:
      found = json.load(f)
  except (ValueError, RecursionError) as e:
    raise ValueError(f"{path}: not JSON: {e}") from None
  if not isinstance(found, dict):
    raise ValueError(f"{path}: expected a JSON object, got {type(found).__name__}.")
  return found


def write(path: str, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
  """Writes a .safetensors file, which appears when it is complete.

  Args:
    path: of the file; its folder is made.
    arrays: name -> array.
    metadata: of the header.
  """
  folder = os.path.dirname(os.path.abspath(path))
  os.makedirs(folder, exist_ok=True)
  arrays = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
  handle, temporary = tempfile.mkstemp(suffix=".safetensors", dir=folder)
  os.close(handle)
  try:
    safetensors.numpy.save_file(arrays, temporary, metadata=dict(metadata))
    os.chmod(temporary, 0o666 & ~_umask())
    os.replace(temporary, path)
  finally:
    if os.path.exists(temporary):
      os.remove(temporary)


def _umask() -> int:
  mask = os.umask(0)
  os.umask(mask)
  return mask


def _open(file):
  """A reader that checked the size of the header, every offset, and the length of the file."""
  try:
    return safetensors.safe_open(file, framework="numpy")
  except safetensors.SafetensorError as e:
    raise ValueError(f"{file}: not a whole safetensors file: {e}") from None


def _weight_map(index) -> dict[str, str]:
  found = read_json(index).get("weight_map")
  if not isinstance(found, dict) or not found:
    raise ValueError(f"{index}: it has no weight_map.")
  for name in found.values():
    if not isinstance(name, str) or os.path.basename(name) != name or "\\" in name:
      raise ValueError(f"{index}: expected names of files in this folder, got {name!r}.")
    if not name.endswith(".safetensors"):
      raise ValueError(f"{index}: expected shards of safetensors, got {name!r}.")
  return found
