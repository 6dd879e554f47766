"""Embeddings of earlier batches as references of a loss (cross-batch memory, arXiv:1912.06798).

A ring of the newest S items, a pytree of fixed shapes that a trainer keeps beside its parameters:

  memory = init(4096, 128)
  value, logs = objective.loss(items, refs=refs(memory), ...)
  memory = update(memory, items)

References are read before the update, so an item never meets itself. Where a track comes again its
old embedding is no positive, since it is of the same track.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from big_audio.objectives.mining import Items

Array = Any


class Memory(NamedTuple):
  """x f32[S,D], label i32[S], track i32[S], filled bool[S], next i32[]: where to write."""

  x: Array
  label: Array
  track: Array
  filled: Array
  next: Array


def init(size: int, dims: int) -> Memory:
  """An empty memory of `size` items of `dims` numbers."""
  zeros = lambda dtype: jnp.zeros(size, dtype)
  return Memory(
    jnp.zeros((size, dims)), zeros(jnp.int32), zeros(jnp.int32), zeros(bool), jnp.int32(0)
  )


def refs(memory: Memory) -> Items:
  """The stored items; places that are not filled are not valid."""
  return Items(memory.x, memory.label, memory.track, memory.filled)


def update(memory: Memory, items: Items) -> Memory:
  """The memory with the valid items in place of its oldest, in their order. No gradient.

  Raises:
    ValueError: more items than places.
  """
  size, count = len(memory.label), len(items.label)
  if count > size:
    raise ValueError(
      f"objectives.memory: a batch of {count} does not fit into a memory of {size}. Use a larger "
      "memory."
    )
  rank = jnp.cumsum(items.valid) - 1
  # Items that are not valid go to a place that does not exist, and are dropped there.
  place = jnp.where(items.valid, (memory.next + rank) % size, size)
  put = lambda old, new: old.at[place].set(
    jax.lax.stop_gradient(new).astype(old.dtype), mode="drop"
  )
  return Memory(
    put(memory.x, items.x),
    put(memory.label, items.label),
    put(memory.track, items.track),
    put(memory.filled, items.valid),
    ((memory.next + jnp.sum(items.valid)) % size).astype(jnp.int32),
  )
