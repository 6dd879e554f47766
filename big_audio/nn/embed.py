"""Embeddings of scalars such as time."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np


def sinusoids(t, dim: int, max_period: float = 1e4):
  """f32[..., dim] of cos and sin of t f32[...] at geometric frequencies (Vaswani et al. 2017).

  Raises:
    ValueError: `dim` is odd.
  """
  if dim % 2:
    raise ValueError(f"sinusoids: dim must be even, got {dim}.")
  freqs = jnp.asarray(np.exp(-np.log(max_period) * np.arange(dim // 2) / (dim // 2)), jnp.float32)
  angles = t.astype(jnp.float32)[..., None] * freqs
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class TimeEmbed(nn.Module):
  """(t, h) as one vector: sinusoids through separate two-layer MLPs, summed (MeanFlow, app. B).

  Always float32: t and h pass through high frequencies, and the JVP through their derivatives.

  Attributes:
    dim: width of the output.
    freq_dim: number of sinusoids.
    scale: t and h are multiplied by it first; with 1, the official setting, frequencies end at
      1 rad; small nets on narrow data learn faster with a larger one.
    use_t: False keeps h alone (improved MeanFlow's in-context form).
  """

  dim: int
  freq_dim: int = 256
  scale: float = 1.0
  use_t: bool = True

  @nn.compact
  def __call__(self, t, h):
    """t, h f32[B] -> f32[B, dim]."""

    def mlp(x, name):
      x = sinusoids(self.scale * x, self.freq_dim)
      x = nn.silu(nn.Dense(self.dim, name=f"{name}_in")(x))
      return nn.Dense(self.dim, name=f"{name}_out")(x)

    return mlp(h, "h") + mlp(t, "t") if self.use_t else mlp(h, "h")
