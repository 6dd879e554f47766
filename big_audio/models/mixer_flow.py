"""An MLP-Mixer flow (2105.01601) on a fixed window of tokens: encoder, decoder and a flow.

Features: blocks of token mixing and channel mixing, each a modulated LayerNorm and an MLP; time by
separate embeddings, guidance as input, zero-init head, bf16, remat, scan.
"""

import flax.linen as nn
import jax.numpy as jnp

from big_audio.nn.embed import TimeEmbed
from big_audio.nn.stack import Stack, compute_dtype, join


class MixerBlock(nn.Module):
  """x + MLP over tokens, then x + MLP over channels, each of a LayerNorm that `mod` changes.

  Attributes:
    depth: of the net; residuals are divided by it.
    token_hidden: width of the MLP over tokens.
    expansion: width of the MLP over channels, over that of x.
    dtype: compute type; parameters are float32.
  """

  depth: int
  token_hidden: int
  expansion: float = 2
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x, mask=None, mod=None):
    """x [B, F, D], mask bool[B, F], mod f32[B, M] or None -> [B, F, D]."""
    f, d = x.shape[1:]
    dense = lambda n, name, **kw: nn.Dense(n, dtype=self.dtype, name=name, **kw)
    parts = [0.0] * 6
    if mod is not None:
      m = dense(6 * d, "mod", kernel_init=nn.initializers.zeros)(nn.silu(mod))
      parts = jnp.split(m[:, None], 6, axis=-1)
    y = nn.LayerNorm(dtype=self.dtype, name="token_norm")(x) * (1 + parts[0]) + parts[1]
    if mask is not None:
      y = jnp.where(mask[..., None], y, 0)
    y = jnp.swapaxes(y, 1, 2)
    y = dense(f, "token_out")(nn.gelu(dense(self.token_hidden, "token_in")(y)))
    x = x + jnp.swapaxes(y, 1, 2) * (1 + parts[2]) / self.depth
    y = nn.LayerNorm(dtype=self.dtype, name="norm")(x) * (1 + parts[3]) + parts[4]
    y = dense(d, "out")(nn.gelu(dense(round(self.expansion * d), "in")(y)))
    return x + y * (1 + parts[5]) / self.depth


class Model(nn.Module):
  """The mixer.

  Attributes:
    dim: D, width of a token.
    tokens: F, the window: every input has this many; shorter ones are padded and masked.
    latent: L, width of the latent that `encode` gives and the flow is conditioned on; 0: none.
    width, depth, expansion: of the flow's blocks; coder_depth: of encoder and decoder.
    token_hidden: width of the MLP over tokens; None: 2 F.
    cond_dim: width of the time embedding.
    time_scale, time_cond, guidance, classes: see `nn.embed.TimeEmbed`.
    dtype: compute type; parameters, time embedding and outputs are float32.
    remat, scan: see `nn.stack.Stack`.
    variant: unused, every size is a keyword.
  """

  dim: int
  tokens: int
  latent: int = 0
  width: int = 256
  depth: int = 4
  coder_depth: int = 2
  expansion: float = 2
  token_hidden: int | None = None
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
    self.blocks = self._stack(self.depth)
    self.head = nn.Dense(self.dim, kernel_init=nn.initializers.zeros, dtype=jnp.float32)
    if self.latent:
      self.enc_in = nn.Dense(self.width, dtype=dtype)
      self.encoder = self._stack(self.coder_depth)
      self.enc_out = nn.Dense(self.latent, dtype=jnp.float32)
      self.dec_in = nn.Dense(self.width, dtype=dtype)
      self.decoder = self._stack(self.coder_depth)
      self.dec_out = nn.Dense(self.dim, dtype=jnp.float32)

  def _stack(self, depth):
    kw = dict(
      depth=depth,
      token_hidden=self.token_hidden or 2 * self.tokens,
      expansion=self.expansion,
      dtype=compute_dtype(self.dtype),
    )
    return Stack(MixerBlock, depth, kw, self.remat, self.scan)

  @property
  def reach(self) -> None:
    """None: every token depends on the whole window."""
    return None

  def _check(self, x):
    if x.ndim != 3 or x.shape[1] != self.tokens:
      raise ValueError(
        f"mixer_flow: this net mixes windows of exactly {self.tokens} tokens, got shape "
        f"{tuple(x.shape)}. Pad to {self.tokens} and give a mask, build it with tokens="
        f"{x.shape[1]}, or use a net of any length (mlp_flow, convnext1d, dit)."
      )

  def encode(self, x, mask=None):
    """x f32[B, F, D], mask bool[B, F] -> latent f32[B, F, L], unbounded."""
    self._check(x)
    return self.enc_out(self.encoder(self.enc_in(x), mask))

  def decode_det(self, latent, mask=None):
    """latent f32[B, F, L] -> the deterministic reconstruction f32[B, F, D]."""
    self._check(latent)
    return self.dec_out(self.decoder(self.dec_in(latent), mask))

  def u(self, z, t, h, cond=None, mask=None, ctx=None, labels=None):
    """Average velocity.

    Args:
      z: f32[B, F, D].
      t, h: f32[B].
      cond: f32[B, F, E] or None.
      mask: bool[B, F], tokens that count; the others influence nothing.
      ctx, labels: see `nn.embed.TimeEmbed`.

    Returns:
      f32[B, F, D].

    Raises:
      ValueError: another number of tokens than the window's.
    """
    self._check(z)
    mod = sum(self.time(t, h, ctx, labels).values())
    return self.head(self.blocks(self.project(join(z, cond)), mask, mod))

  def __call__(self, x, t, h, cond=None):
    """Touches every parameter: for init."""
    if not self.latent:
      return self.u(x, t, h, cond)
    latent = self.encode(x)
    return self.decode_det(latent), self.u(x, t, h, latent)
