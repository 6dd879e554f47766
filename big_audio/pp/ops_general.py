"""Operations for any kind of example."""

import numpy as np

from big_audio.pp.registry import OpError, of_any_length, op, take


@op("keep")
def keep(*keys: str):
  """Keeps only `keys`."""

  def fn(example, rng):
    return {k: take(example, k) for k in keys}

  return fn


@op("drop")
def drop(*keys: str):
  """Removes `keys`; each must be there."""

  def fn(example, rng):
    for k in keys:
      take(example, k)
    return {k: v for k, v in example.items() if k not in keys}

  return fn


@op("copy")
def copy(key: str, to: str):
  """Writes `example[key]` under the name `to` too (arrays are shared, operations never write)."""

  def fn(example, rng):
    return {**example, to: take(example, key)}

  return fn


@op("rename")
def rename(key: str, to: str):
  """Moves `example[key]` to `to`, which must be free."""

  def fn(example, rng):
    value = take(example, key)
    if to in example:
      raise OpError(f'would overwrite "{to}". Write "drop({to!r})|rename({key!r}, {to!r})".')
    return {**{k: v for k, v in example.items() if k != key}, to: value}

  return fn


@op("value_range")
def value_range(
  lo: float, hi: float, in_lo: float = 0.0, in_hi: float = 255.0, *, clip=False, key: str = "image"
):
  """Maps [in_lo, in_hi] linearly to [lo, hi], as float32."""
  if in_lo == in_hi:
    raise OpError(f"has an empty input range [{in_lo}, {in_hi}].")
  scale = (hi - lo) / (in_hi - in_lo)

  def fn(example, rng):
    x = (np.asarray(take(example, key), np.float32) - np.float32(in_lo)) * np.float32(scale)
    x += np.float32(lo)
    return {**example, key: np.clip(x, min(lo, hi), max(lo, hi)) if clip else x}

  return fn


@op("normalise")
def normalise(mean, std, *, key: str):
  """`(x - mean) / std` as float32; `mean` and `std` are numbers or one number per last axis."""
  mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
  if not np.all(std > 0):
    raise OpError("needs std > 0.")

  def fn(example, rng):
    return {**example, key: (np.asarray(take(example, key), np.float32) - mean) / std}

  return fn


@op("flatten")
def flatten(key: str):
  """Array of any shape -> [size]."""

  def fn(example, rng):
    return {**example, key: np.asarray(of_any_length(example, key)).reshape(-1)}

  return fn


@op("onehot")
def onehot(n: int, *, key: str = "label", to: str | None = None):
  """Integer array [...] in [0, n) -> f32[..., n] under `to` (default: in place)."""

  def fn(example, rng):
    x = np.asarray(take(example, key))
    if x.dtype.kind not in "iu":
      raise OpError(f'needs integers in "{key}", got {x.dtype}.')
    if x.size and not 0 <= x.min() <= x.max() < n:
      raise OpError(f"needs 0 <= {key} < {n}, got values in [{x.min()}, {x.max()}].")
    return {**example, to or key: (x[..., None] == np.arange(n)).astype(np.float32)}

  return fn
