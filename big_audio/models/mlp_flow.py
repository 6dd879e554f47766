"""An MLP on tokens: encoder, deterministic decoder and a flow, per token of any width.

Features: residual blocks of modulated LayerNorm -> Dense -> GELU -> Dense on concat(latent, x);
time by separate embeddings of t and h; `latent=0` gives an unconditional flow (the toy of the
tests). Tokens are the last axis; leading axes are free, so nothing depends on the length.

  digits: 8x8 = one 64-d token; MNIST: 28x28 = one 784-d token
"""

import flax.linen as nn
import jax.numpy as jnp

from big_audio.nn.embed import TimeEmbed


class ModulatedBlock(nn.Module):
  """x + (Dense(GELU(Dense(shift-scale(LN([c, x])))))) * (1 + gate) / depth, of a width D."""

  dim: int
  depth: int

  @nn.compact
  def __call__(self, x, latent, mod):
    """x f32[..., D], latent f32[..., L] or None, mod f32[..., M] -> f32[..., D]."""
    y = x if latent is None else jnp.concatenate([latent, x], axis=-1)
    width = y.shape[-1]
    # Zero-init: every block starts as an unmodulated one.
    m = nn.Dense(2 * width + self.dim, kernel_init=nn.initializers.zeros, name="mod")(nn.silu(mod))
    scale, shift, gate = jnp.split(m, [width, 2 * width], axis=-1)
    y = nn.LayerNorm(name="norm")(y) * (1 + scale) + shift
    y = nn.gelu(nn.Dense(width, name="in")(y))
    y = nn.Dense(self.dim, name="out")(y)
    return x + y * (1 + gate) / self.depth


class Model(nn.Module):
  """Token MLP flow.

  Attributes:
    dim: D, width of a token.
    latent: L, width of the latent that `encode` gives and the flow is conditioned on; 0: none.
    cond_dim: width of the time embedding.
    depth: number of blocks.
    hidden: width inside; None: as wide as the token.
    variant: unused, every size is a keyword.
  """

  dim: int
  latent: int = 256
  cond_dim: int = 128
  depth: int = 8
  hidden: int | None = None
  time_scale: float = 1.0
  variant: str | None = None

  def setup(self):
    width = self.hidden or self.dim
    self.time = TimeEmbed(self.cond_dim, scale=self.time_scale)
    self.project = nn.Dense(width)
    self.blocks = [ModulatedBlock(width, self.depth) for _ in range(self.depth)]
    self.head = nn.Dense(self.dim)
    if self.latent:
      self.enc_in = nn.Dense((self.dim + self.latent) // 2)
      self.enc_out = nn.Dense(self.latent)
      self.dec_in = nn.Dense(width)
      self.dec_mid = nn.Dense(width)
      self.dec_out = nn.Dense(self.dim)

  def encode(self, x):
    """x f32[..., D] -> latent f32[..., L] in (-1, 1)."""
    return jnp.tanh(self.enc_out(nn.gelu(self.enc_in(x))))

  def decode_det(self, latent):
    """latent f32[..., L] -> the deterministic reconstruction f32[..., D]."""
    y = nn.gelu(self.dec_in(latent))
    return self.dec_out(y + nn.gelu(self.dec_mid(y)))

  @property
  def reach(self) -> int:
    """Tokens of context on each side: none."""
    return 0

  def u(self, z, t, h, latent=None, mask=None):
    """Average velocity: z f32[B, ..., D], t, h f32[B], latent f32[B, ..., L] -> like z.

    `mask` changes nothing: no token sees another.
    """
    mod = self.time(t, h)
    mod = mod.reshape(mod.shape[0], *(1,) * (z.ndim - 2), -1)
    x = self.project(z)
    for block in self.blocks:
      x = block(x, latent, mod)
    return self.head(x)

  def __call__(self, x, t, h, latent=None):
    """Touches every parameter: for init."""
    if not self.latent:
      return self.u(x, t, h, latent)
    latent = self.encode(x)
    return self.decode_det(latent), self.u(x, t, h, latent)
