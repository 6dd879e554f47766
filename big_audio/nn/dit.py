"""Transformer blocks of improved MeanFlow (2512.02012): conditions are tokens, not adaLN."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from big_audio.nn.attention import SelfAttention

# Variance .1 / fan_in, the paper's.
small_init = nn.initializers.variance_scaling(0.1, "fan_in", "truncated_normal")


class SwiGLU(nn.Module):
  """Dense(silu(Dense(x)) * Dense(x)) (2002.05202), 8/3 as wide inside, in whole eights.

  Attributes:
    expansion: width inside over that of x.
    dtype: compute type; parameters are float32.
  """

  expansion: float = 8 / 3
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[..., D] -> [..., D]."""
    d = x.shape[-1]
    width = -(-round(self.expansion * d) // 8) * 8
    dense = lambda n, name: nn.Dense(
      n, use_bias=False, kernel_init=small_init, dtype=self.dtype, name=name
    )
    gate, value = jnp.split(dense(2 * width, "in")(x), 2, axis=-1)
    return dense(d, "out")(nn.silu(gate) * value)


class Block(nn.Module):
  """x + gate * attention(norm(x)), then x + gate * SwiGLU(norm(x)); gates a channel, zero at first.

  Attributes:
    heads, prefix, window: see `nn.attention.SelfAttention`.
    dtype: compute type; parameters are float32.
  """

  heads: int
  prefix: int = 0
  window: int | None = None
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """[B, prefix + F, D], mask bool[B, F] -> [B, prefix + F, D]."""
    norm = lambda name: nn.RMSNorm(dtype=self.dtype, name=name)
    gate = lambda name: self.param(name, nn.initializers.zeros, (x.shape[-1],)).astype(x.dtype)
    attention = SelfAttention(
      self.heads, self.prefix, self.window, small_init, self.dtype, name="attention"
    )
    x = x + gate("attention_gate") * attention(norm("attention_norm")(x), mask)
    return x + gate("mlp_gate") * SwiGLU(dtype=self.dtype, name="mlp")(norm("mlp_norm")(x))
