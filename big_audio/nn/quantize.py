"""Finite scalar quantisation (Mentzer et al. 2309.15505): one codebook is a grid, nothing to learn.

Straight-through gradients are x + stop_gradient(round(x) - x), so that everything here survives
`jax.jvp`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

Groups = tuple[tuple[int, ...], ...]


class Quantised(NamedTuple):
  """What a quantiser makes of latents [..., D].

  lat: f32[..., D], quantised, with a straight-through gradient.
  codes: int32[..., G]; G = 0 for a continuous bottleneck.
  loss: f32[...], what the quantiser itself wants minimised, weighted.
  """

  lat: jax.Array
  codes: jax.Array
  loss: jax.Array


def as_groups(levels: Sequence[int] | Sequence[Sequence[int]]) -> Groups:
  """Reads [8, 5, 5, 5] as one group and [[8, 5, 5, 5], [8, 5, 5]] as two.

  Raises:
    ValueError: no levels, a level below 2, numbers beside lists, or a group of 2^31 codes or more.
  """
  groups = [levels] if all(isinstance(x, int | np.integer) for x in levels) else list(levels)
  if not groups or not all(isinstance(g, Sequence) and len(g) for g in groups):
    raise ValueError(f"FSQ: expected levels as [8, 5, 5] or [[8, 5, 5], [8, 5]], got {levels!r}.")
  groups = tuple(tuple(int(n) for n in g) for g in groups)
  for g in groups:
    if min(g) < 2:
      raise ValueError(f"FSQ: expected every level to be 2 or more, got {list(g)}.")
    if math.prod(g) >= 2**31:
      raise ValueError(
        f"FSQ: the group {list(g)} has {math.prod(g)} codes, which int32 cannot hold. Split it."
      )
  return groups


def split_codes(codes, groups):
  """Codes [..., k] of the first k groups -> symbols int32[..., D], one for every level list entry.

  The first symbol of a group is its least significant digit. numpy or jax.
  """
  out = []
  for i, group in enumerate(groups[: codes.shape[-1]]):
    rest = codes[..., i]
    for n in group:
      out.append(rest % n)
      rest = rest // n
  return codes.__array_namespace__().stack(out, -1)


def join_symbols(symbols, groups):
  """Undoes `split_codes`: symbols [..., D] of whole groups -> codes [..., k]."""
  out, start = [], 0
  for group in groups:
    if start == symbols.shape[-1]:
      break
    place = np.cumprod([1, *group[:-1]]).astype(np.int32)
    out.append((symbols[..., start : start + len(group)] * place).sum(-1))
    start += len(group)
  return symbols.__array_namespace__().stack(out, -1)


class FSQ(nn.Module):
  """Rounds each latent dimension to one of a few levels in [-1, 1].

  Attributes:
    levels: levels per dimension, for one group ([8, 5, 5, 5] = 1000 codes) or several
      ([[8, 5, 5, 5]] * 3). A group is one code of the bitstream.
    gain: slope of the bound 2 sigmoid(gain z) - 1; 1.6 gives unit-variance latents even use.
  """

  levels: Sequence[int] | Sequence[Sequence[int]]
  gain: float = 1.6

  @property
  def groups(self) -> Groups:
    return as_groups(self.levels)

  @property
  def dim(self) -> int:
    """Latent dimensions D: the sum of the groups' sizes."""
    return sum(len(g) for g in self.groups)

  @property
  def codebook_sizes(self) -> tuple[int, ...]:
    """Codes of each group."""
    return tuple(math.prod(g) for g in self.groups)

  @property
  def bits_per_frame(self) -> float:
    """sum of log2 of the codebook sizes: the rate before entropy coding, in bits."""
    return sum(math.log2(n) for n in self.codebook_sizes)

  def __call__(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Quantises.

    Args:
      z: f32[..., D], unbounded; half precision is computed in float32.

    Returns:
      lat: same dtype [..., D] in [-1, 1], on the grid, with the gradient of `bound`.
      codes: int32[..., G].

    Raises:
      ValueError: the last axis is not D.
    """
    self._check("FSQ", z.shape[-1], self.dim, "latent dimensions")
    half = self._per_dim(lambda n: (n - 1) / 2)
    x = self.bound(z)
    index = jax.lax.stop_gradient(jnp.round(x * half + half))  # [..., D] in [0, n - 1]
    # Straight-through x + sg(q - x) with the terms in the order that leaves q exact in float32.
    lat = self._grid(index) + (x - jax.lax.stop_gradient(x))
    return lat.astype(z.dtype), join_symbols(index.astype(jnp.int32), self.groups)

  @property
  def in_dim(self) -> int:
    """Width of the latents that go in."""
    return self.dim

  def quantise(self, z, keep=None, mask=None, soft=None) -> Quantised:
    """Quantises with dropout, for one codec at several rates.

    Args:
      z: f32[B, F, D].
      keep: int32[B], groups in use; the latents of the others are 0. Codes are given for all.
      mask: bool[B, F], unused: there is nothing to learn.
      soft: bool[B], rows left bounded but unrounded (CoDiCodec, 2509.09836), so that a decoder
        learns continuous latents too.
    """
    lat, codes = self(z)
    if soft is not None:
      lat = jnp.where(soft[:, None, None], self.bound(z), lat)
    if keep is not None:
      group = np.repeat(np.arange(len(self.groups)), [len(g) for g in self.groups])
      lat = jnp.where((group < keep[:, None])[:, None, :], lat, 0.0)
    return Quantised(lat, codes, jnp.zeros(z.shape[:-1]))

  def one_hot(self, z: jax.Array, pull: float | jax.Array = 0.0) -> jax.Array:
    """Symbols of latents z f32[..., D] as f32[..., D, max level], for a model of their probability.

    With `pull` the gradient that reaches z is `pull` times that of a linear interpolation
    between the two levels next to the bounded latent: what codes cost then moves latents.
    """
    top = self._per_dim(lambda n: n - 1)
    place = (self.bound(z) + 1) * (top / 2)
    levels = np.arange(int(top.max()) + 1, dtype=np.float32)
    hard = (jax.lax.stop_gradient(jnp.round(place))[..., None] == levels).astype(jnp.float32)
    if isinstance(pull, float) and not pull:
      return hard
    hat = jax.nn.relu(1 - jnp.abs(place[..., None] - levels))
    return hard + pull * (hat - jax.lax.stop_gradient(hat))

  def bound(self, z: jax.Array) -> jax.Array:
    """The unquantised latent 2 sigmoid(gain z) - 1, float32 (FSQ dropout trains on it)."""
    return 2 * jax.nn.sigmoid(self.gain * z.astype(jnp.float32)) - 1

  def codes(self, z: jax.Array) -> jax.Array:
    """Codes int32[..., G] of latents [..., D], each in [0, codebook size)."""
    return self(z)[1]

  def from_codes(self, codes: jax.Array) -> jax.Array:
    """Latents f32[..., D] on the grid, bit-identical to what `__call__` returned for float32.

    With the codes of the first k groups only, the latents of the others are 0.

    Raises:
      ValueError: more codes a frame than groups, or none.
    """
    have = codes.shape[-1]
    if not 1 <= have <= len(self.groups):
      raise ValueError(
        f"FSQ.from_codes: expected 1 to {len(self.groups)} codes a frame, got {have}."
      )
    index = split_codes(codes, self.groups)
    lat = self._grid(index.astype(jnp.float32))
    return jnp.pad(lat, [(0, 0)] * (lat.ndim - 1) + [(0, self.dim - lat.shape[-1])])

  def _grid(self, index: jax.Array) -> jax.Array:
    # One rounding, in a product that XLA has no reason to rewrite: equal under jit and eagerly.
    top = self._per_dim(lambda n: n - 1)[: index.shape[-1]]
    return (2 * index - top) * (1 / top)

  def _per_dim(self, fn) -> np.ndarray:
    return np.array([fn(n) for g in self.groups for n in g], np.float32)

  @staticmethod
  def _check(where: str, got: int, expected: int, what: str) -> None:
    if got != expected:
      raise ValueError(f"{where}: expected {expected} {what} in the last axis, got {got}.")


def code_usage(
  codes: jax.Array, sizes: Sequence[int], mask: jax.Array | None = None
) -> Mapping[str, jax.Array]:
  """How evenly codes are used, from their empirical distribution.

  Args:
    codes: int32[..., G].
    sizes: codebook size of each group (`FSQ.codebook_sizes`).
    mask: bool[...]: which frames count; default all.

  Returns:
    "usage": f32[G], share of the codebook seen at least once; "perplexity": f32[G], exp of the
    entropy; "entropy_bits": f32[G], the bits of an ideal order-0 entropy coder. A group without
    frames has usage 0, perplexity 1.

  Raises:
    ValueError: as many sizes as groups are needed.
  """
  if codes.shape[-1] != len(sizes):
    raise ValueError(f"code_usage: {codes.shape[-1]} groups of codes but {len(sizes)} sizes.")
  weight = jnp.ones(codes.shape[:-1]) if mask is None else mask.astype(jnp.float32)
  usage, entropy = [], []
  for i, size in enumerate(sizes):
    count = jnp.zeros(size).at[codes[..., i].reshape(-1)].add(weight.reshape(-1))
    p = count / jnp.maximum(jnp.sum(count), 1)
    usage.append(jnp.mean(count > 0))
    entropy.append(-jnp.sum(p * jnp.log2(jnp.where(p > 0, p, 1))))
  entropy = jnp.stack(entropy)
  return {"usage": jnp.stack(usage), "perplexity": 2.0**entropy, "entropy_bits": entropy}
