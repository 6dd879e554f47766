"""PyTorch's own files of weights; the only module here that imports torch, which need not exist."""

import pickle
from collections.abc import Mapping

import ml_dtypes
import numpy as np


def read(path: str) -> dict[str, np.ndarray]:
  """All tensors of a .bin, .pt or .pth file, by torch.load(weights_only=True).

  Such a file is a pickle; with weights_only, torch builds nothing but tensors and containers.

  Args:
    path: of the file.

  Raises:
    ValueError: torch is not installed, or the file is not a flat dict of tensors.
  """
  try:
    import torch
  except ImportError:
    raise ValueError(
      f"{path}: this format needs PyTorch (pip install torch). A .safetensors file does not; most "
      "repositories have one."
    ) from None
  try:
    found = torch.load(path, map_location="cpu", weights_only=True)
  except (
    pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError,
    AttributeError,
  ) as e:  # fmt: skip
    why = (str(e).strip().splitlines() or [type(e).__name__])[0]
    raise ValueError(f"{path}: torch cannot read it as weights alone: {why[:200]}") from None
  if not isinstance(found, Mapping) or not all(torch.is_tensor(v) for v in found.values()):
    raise ValueError(f"{path}: expected a flat dict of tensors, got {type(found).__name__}.")

  def array(x):
    if x.dtype == torch.bfloat16:
      return x.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return x.numpy()

  try:
    return {str(k): array(v.detach().contiguous()) for k, v in found.items()}
  except (TypeError, RuntimeError) as e:
    raise ValueError(f"{path}: a tensor of a type that numpy has not: {e}") from None
