"""An MLP on tokens: encoder, deterministic decoder and a flow, per token of any width.

Features: residual blocks of modulated LayerNorm -> Dense -> GELU -> Dense on concat(cond, x); time
by separate embeddings, guidance as input, zero-init head, bf16, remat, scan. Tokens are the last
axis and none sees another, so nothing depends on the length.

  digits: 8x8 = one 64-d token; MNIST: 28x28 = one 784-d token
"""

import flax.linen as nn
import jax.numpy as jnp

from big_audio.nn.embed import TimeEmbed
from big_audio.nn.stack import Stack, compute_dtype


class ModulatedBlock(nn.Module):
  """x + Dense(GELU(Dense(shift-scale(LN([cond, x]))))) * (1 + gate) / depth, of a width D."""

  dim: int
  depth: int
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x, cond, mod):
    """x [..., D], cond [..., E] or None, mod f32[..., M] -> [..., D]."""
    y = x if cond is None else jnp.concatenate([cond.astype(x.dtype), x], axis=-1)
    width = y.shape[-1]
    dense = lambda n, name, **kw: nn.Dense(n, dtype=self.dtype, name=name, **kw)
    # Zero-init: every block starts as an unmodulated one.
    m = dense(2 * width + self.dim, "mod", kernel_init=nn.initializers.zeros)(nn.silu(mod))
    scale, shift, gate = jnp.split(m, [width, 2 * width], axis=-1)
    y = nn.LayerNorm(dtype=self.dtype, name="norm")(y) * (1 + scale) + shift
    y = dense(self.dim, "out")(nn.gelu(dense(width, "in")(y)))
    return x + y * (1 + gate) / self.depth


class Model(nn.Module):
  """Token MLP flow.

  Attributes:
    dim: D, width of a token.
    latent: L, width of the latent that `encode` gives and the flow is conditioned on; 0: none.
    cond_dim: width of the time embedding.
    depth: number of blocks.
    hidden: width inside; None: as wide as the token.
    time_scale, time_cond, guidance, classes: see `nn.embed.TimeEmbed`.
    dtype: compute type; parameters, time embedding and outputs are float32.
    remat, scan: see `nn.stack.Stack`.
    variant: unused, every size is a keyword.
  """

  dim: int
  latent: int = 256
  cond_dim: int = 128
  depth: int = 8
  hidden: int | None = None
  time_scale: float = 1.0
  time_cond: str = "th"
  guidance: bool = False
  classes: int = 0
  dtype: str | None = None
  remat: bool = False
  scan: bool = False
  variant: str | None = None

  def setup(self):
    width, dtype = self.hidden or self.dim, compute_dtype(self.dtype)
    self.time = TimeEmbed(
      self.cond_dim, scale=self.time_scale, time_cond=self.time_cond,
      guidance=self.guidance, classes=self.classes,
    )  # fmt: skip
    self.project = nn.Dense(width, dtype=dtype)
    kw = dict(dim=width, depth=self.depth, dtype=dtype)
    self.blocks = Stack(ModulatedBlock, self.depth, kw, self.remat, self.scan)
    self.head = nn.Dense(self.dim, kernel_init=nn.initializers.zeros, dtype=jnp.float32)
    if self.latent:
      self.enc_in = nn.Dense((self.dim + self.latent) // 2, dtype=dtype)
      self.enc_out = nn.Dense(self.latent, dtype=jnp.float32)
      self.dec_in = nn.Dense(width, dtype=dtype)
      self.dec_mid = nn.Dense(width, dtype=dtype)
      self.dec_out = nn.Dense(self.dim, dtype=jnp.float32)

  @property
  def reach(self) -> int:
    """Tokens of context on each side: none."""
    return 0

  def encode(self, x, mask=None):
    """x f32[..., D] -> latent f32[..., L], unbounded. `mask` changes nothing."""
    return self.enc_out(nn.gelu(self.enc_in(x)))

  def decode_det(self, latent, mask=None):
    """latent f32[..., L] -> the deterministic reconstruction f32[..., D]."""
    y = nn.gelu(self.dec_in(latent))
    return self.dec_out(y + nn.gelu(self.dec_mid(y)))

  def u(self, z, t, h, cond=None, mask=None, ctx=None, labels=None):
    """Average velocity.

    Args:
      z: f32[B, ..., D].
      t, h: f32[B].
      cond: f32[B, ..., E] or None.
      mask: changes nothing, since no token sees another.
      ctx, labels: see `nn.embed.TimeEmbed`.

    Returns:
      f32 like z.
    """
    mod = sum(self.time(t, h, ctx, labels).values())
    mod = mod.reshape(mod.shape[0], *(1,) * (z.ndim - 2), -1)
    return self.head(self.blocks(self.project(z), cond, mod))

  def __call__(self, x, t, h, cond=None):
    """Touches every parameter: for init."""
    if not self.latent:
      return self.u(x, t, h, cond)
    latent = self.encode(x)
    return self.decode_det(latent), self.u(x, t, h, latent)
