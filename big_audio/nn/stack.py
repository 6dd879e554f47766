"""Equal blocks in a row; rematerialisation and scan leave the parameters as they are."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class Stack(nn.Module):
  """x -> block_{n-1}(... block_0(x, *args) ..., *args), each with its own parameters.

  Parameters are named block_0, block_1, ... whatever `remat` and `scan` say, so a checkpoint of one
  setting loads in another. Blocks must be without randomness and mutable collections.

  Attributes:
    block: class of the blocks.
    depth: their number.
    kw: arguments of the class.
    remat: compute activations again in the backward pass instead of keeping them.
    scan: compile one block and loop over stacked parameters: quick to compile, one copy of the
      parameters a step.
  """

  block: type[nn.Module]
  depth: int
  kw: Mapping[str, Any]
  remat: bool = False
  scan: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, *args) -> jax.Array:
    if self.scan and self.depth > 1 and not self.is_initializing():
      return self._scan(x, *args)
    block = nn.remat(self.block) if self.remat else self.block
    for i in range(self.depth):
      x = block(**self.kw, name=f"block_{i}")(x, *args)
    return x

  def _scan(self, x, *args):
    params = self.variables["params"]
    blocks = [params[f"block_{i}"] for i in range(self.depth)]
    block = self.block(**self.kw, parent=None)

    def body(x, p):
      return block.apply({"params": p}, x, *args), None

    if self.remat:
      body = jax.checkpoint(body, prevent_cse=False)
    return jax.lax.scan(body, x, jax.tree.map(lambda *p: jnp.stack(p), *blocks))[0]


def compute_dtype(dtype: str | None):
  """The jax dtype of a config's name: None or "float32" and "bfloat16" and "float16".

  Raises:
    ValueError: another name.
  """
  if dtype not in (None, "float32", "bfloat16", "float16"):
    raise ValueError(f"dtype={dtype!r}: expected None, float32, bfloat16 or float16.")
  return None if dtype is None else jnp.dtype(dtype)


def join(z: jax.Array, cond: jax.Array | None) -> jax.Array:
  """[z, cond] along the last axis, in z's type; z alone without cond."""
  return z if cond is None else jnp.concatenate([z, cond.astype(z.dtype)], axis=-1)
