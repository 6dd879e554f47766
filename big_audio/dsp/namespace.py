"""The array namespace of an input, so that one source serves numpy workers and jitted jax."""

import difflib
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import numpy as np


def namespace(where: str, x: Any) -> ModuleType:
  """Returns `numpy` or `jax.numpy`, whichever `x` belongs to.

  Args:
    where: the caller's name, for the message.
    x: float32, float64 (or complex of these) array.

  Raises:
    ValueError: `x` is not an array, or it has another dtype. Half precision is refused because an
      FFT in it loses the signal; integers because their full scale is unknown.
  """
  if not hasattr(x, "__array_namespace__"):
    raise ValueError(
      f"{where}: expected a numpy or jax array, got {type(x).__name__}. Use np.asarray(x) first."
    )
  if str(x.dtype) not in ("float32", "float64", "complex64", "complex128"):
    raise ValueError(
      f"{where}: expected float32 or float64, got {x.dtype}. Convert first, as in "
      "x.astype('float32') (and divide integer samples by their full scale)."
    )
  return x.__array_namespace__()


def constant(value: np.ndarray, like: Any) -> Any:
  """Casts a float64 numpy constant to the namespace and (real) dtype of `like`."""
  real = {"complex64": "float32", "complex128": "float64"}.get(str(like.dtype), str(like.dtype))
  if np.iscomplexobj(value):
    real = {"float32": "complex64", "float64": "complex128"}[real]
  return like.__array_namespace__().asarray(value.astype(real))


def pad_axis(x: Any, axis: int, before: int, after: int, mode: str = "constant") -> Any:
  """Pads one axis (zeros by default)."""
  if before == 0 and after == 0:
    return x
  widths = [(0, 0)] * x.ndim
  widths[axis] = (before, after)
  return x.__array_namespace__().pad(x, widths, mode=mode)


def check_choice(where: str, got: str, choices: Iterable[str]) -> str:
  """Returns `got` if it is one of `choices`.

  Raises:
    ValueError: it is not; the message names the nearest choice.
  """
  choices = sorted(choices)
  if got in choices:
    return got
  near = difflib.get_close_matches(str(got), choices, n=1)
  hint = f" Did you mean {near[0]!r}?" if near else ""
  raise ValueError(f"{where}: expected one of {choices}, got {got!r}.{hint}")


def check_positive(where: str, **sizes: int) -> None:
  """Raises ValueError unless every named size is an integer above zero."""
  for name, size in sizes.items():
    if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
      raise ValueError(f"{where}: expected {name} to be an integer above 0, got {size!r}.")
