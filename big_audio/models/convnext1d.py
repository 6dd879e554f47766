"""A ConvNeXt-1D flow on rows of frames, of any length: encoder, decoder and a flow.

Features: FiLM by time in every block, condition joined to the input, zero-init head (the flow
starts as u = 0, or as the deterministic decoder where the trainer predicts the data), finite reach,
guidance as input, bf16, remat, scan.
"""

import flax.linen as nn
import jax.numpy as jnp

from big_audio.nn.conv1d import ConvNeXtBlock, receptive_reach
from big_audio.nn.embed import TimeEmbed
from big_audio.nn.stack import Stack, compute_dtype, join


class Model(nn.Module):
  """The backbone.

  Attributes:
    dim: D, width of a row.
    latent: L, width of the latent that `encode` gives and the flow is conditioned on; 0: none.
    width, depth, expansion, kernel, norm: of the flow's blocks; coder_depth: of encoder and
      decoder.
    cond_dim: width of the time embedding.
    time_scale, time_cond, guidance, classes: see `nn.embed.TimeEmbed`.
    dtype: compute type; parameters, time embedding and outputs are float32.
    remat, scan: see `nn.stack.Stack`.
    variant: unused, every size is a keyword.
  """

  dim: int
  latent: int = 0
  width: int = 256
  depth: int = 4
  coder_depth: int = 2
  expansion: float = 2
  kernel: int = 7
  norm: str = "layer"
  cond_dim: int = 128
  time_scale: float = 1.0
  time_cond: str = "th"
  guidance: bool = False
  classes: int = 0
  dtype: str | None = None
  remat: bool = False
  scan: bool = False
  variant: str | None = None

  def setup(self):
    dtype = compute_dtype(self.dtype)
    self.time = TimeEmbed(
      self.cond_dim, scale=self.time_scale, time_cond=self.time_cond,
      guidance=self.guidance, classes=self.classes,
    )  # fmt: skip
    self.project = nn.Dense(self.width, dtype=dtype)
    self.trunk = self._stack(self.depth, film=True)
    self.head = nn.Dense(self.dim, kernel_init=nn.initializers.zeros, dtype=jnp.float32)
    if self.latent:
      self.enc_in = nn.Dense(self.width, dtype=dtype)
      self.encoder = self._stack(self.coder_depth)
      self.enc_out = nn.Dense(self.latent, dtype=jnp.float32)
      self.dec_in = nn.Dense(self.width, dtype=dtype)
      self.decoder = self._stack(self.coder_depth)
      self.dec_out = nn.Dense(self.dim, dtype=jnp.float32)

  def _stack(self, depth, film=False):
    kw = dict(
      expansion=self.expansion, kernel=self.kernel, norm=self.norm, film=film,
      dtype=compute_dtype(self.dtype),
    )  # fmt: skip
    return Stack(ConvNeXtBlock, depth, kw, self.remat, self.scan)

  @property
  def reach(self) -> int:
    """Rows of context on each side that a row of `u` depends on."""
    return receptive_reach(self.depth, self.kernel)

  def encode(self, x, mask=None):
    """x f32[B, R, D], mask bool[B, R] -> latent f32[B, R, L], unbounded."""
    return self.enc_out(self.encoder(self.enc_in(x), mask))

  def decode_det(self, latent, mask=None):
    """latent f32[B, R, L] -> the deterministic reconstruction f32[B, R, D]."""
    return self.dec_out(self.decoder(self.dec_in(latent), mask))

  def u(self, z, t, h, cond=None, mask=None, ctx=None, labels=None):
    """Average velocity.

    Args:
      z: f32[B, R, D].
      t, h: f32[B].
      cond: f32[B, R, E] or None.
      mask: bool[B, R], rows that count; the others influence nothing.
      ctx, labels: see `nn.embed.TimeEmbed`.

    Returns:
      f32[B, R, D].
    """
    mod = nn.silu(sum(self.time(t, h, ctx, labels).values()))
    return self.head(self.trunk(self.project(join(z, cond)), mask, mod))

  def __call__(self, x, t, h, cond=None):
    """Touches every parameter: for init."""
    if not self.latent:
      return self.u(x, t, h, cond)
    latent = self.encode(x)
    return self.decode_det(latent), self.u(x, t, h, latent)
