"""A transformer flow after improved MeanFlow (2512.02012): encoder, decoder and a flow.

Features: conditions as tokens in front of the frames (time, guidance, class) instead of adaLN,
RMSNorm, QK-norm, RoPE, SwiGLU, gates from zero, optional v-head; an optional local window gives it
a finite reach for streams; zero-init head, bf16, remat, scan.
"""

import flax.linen as nn
import jax.numpy as jnp

from big_audio.nn.dit import Block, small_init
from big_audio.nn.embed import TimeEmbed
from big_audio.nn.stack import Stack, compute_dtype, join

# Tokens of each condition, the paper's numbers.
IN_CONTEXT = {"time": 4, "w": 4, "t_min": 2, "t_max": 2, "class": 8}


class Model(nn.Module):
  """The transformer.

  Attributes:
    dim: D, width of a token.
    latent: L, width of the latent that `encode` gives and the flow is conditioned on; 0: none.
    width, depth, heads: of the flow's blocks; coder_depth: of encoder and decoder.
    window: frames that attention sees on each side; None: all.
    positions: F, number of learned absolute positions, for windows of one length such as images;
      0: rotary positions alone.
    v_head: how many of the last blocks are doubled for a head of the instantaneous velocity, which
      training may use; 0: none.
    time_scale, time_cond, guidance, classes: see `nn.embed.TimeEmbed`.
    dtype: compute type; parameters, time embedding and outputs are float32.
    remat, scan: see `nn.stack.Stack`.
    variant: unused, every size is a keyword.
  """

  dim: int
  latent: int = 0
  width: int = 256
  depth: int = 6
  heads: int = 4
  coder_depth: int = 2
  window: int | None = None
  positions: int = 0
  v_head: int = 0
  time_scale: float = 1.0
  time_cond: str = "th"
  guidance: bool = False
  classes: int = 0
  dtype: str | None = None
  remat: bool = False
  scan: bool = False
  variant: str | None = None

  def setup(self):
    if not 0 <= self.v_head <= self.depth:
      raise ValueError(f"dit: v_head={self.v_head} must lie in [0, depth={self.depth}].")
    dtype = compute_dtype(self.dtype)
    self.time = TimeEmbed(
      self.width, scale=self.time_scale, time_cond=self.time_cond,
      guidance=self.guidance, classes=self.classes,
    )  # fmt: skip
    conditions = ["time", *(["w", "t_min", "t_max"] if self.guidance else [])]
    conditions += ["class"] if self.classes else []
    self.context = {k: self._table(f"context_{k}", IN_CONTEXT[k]) for k in conditions}
    prefix = sum(IN_CONTEXT[k] for k in conditions)
    if self.positions:
      self.place = self._table("positions", self.positions)
    self.project = nn.Dense(self.width, kernel_init=small_init, dtype=dtype)
    self.trunk = self._stack(self.depth - self.v_head, prefix)
    zeros = nn.initializers.zeros
    if self.v_head:
      self.u_blocks, self.v_blocks = (self._stack(self.v_head, prefix) for _ in "uv")
      self.v_norm = nn.RMSNorm()
      self.v_out = nn.Dense(self.dim, kernel_init=zeros, dtype=jnp.float32)
    self.norm = nn.RMSNorm()
    self.head = nn.Dense(self.dim, kernel_init=zeros, dtype=jnp.float32)
    if self.latent:
      self.enc_in = nn.Dense(self.width, dtype=dtype)
      self.encoder = self._stack(self.coder_depth)
      self.enc_out = nn.Dense(self.latent, dtype=jnp.float32)
      self.dec_in = nn.Dense(self.width, dtype=dtype)
      self.decoder = self._stack(self.coder_depth)
      self.dec_out = nn.Dense(self.dim, dtype=jnp.float32)

  def _table(self, name, rows):
    return self.param(name, nn.initializers.normal(0.02), (rows, self.width))

  def _stack(self, depth, prefix=0):
    kw = dict(heads=self.heads, prefix=prefix, window=self.window, dtype=compute_dtype(self.dtype))
    return Stack(Block, depth, kw, self.remat, self.scan)

  @property
  def reach(self) -> int | None:
    """Frames of context on each side that a frame of `u` depends on; None: all."""
    return None if self.window is None else self.depth * self.window

  def _placed(self, x):
    if not self.positions:
      return x
    if x.shape[1] != self.positions:
      raise ValueError(
        f"dit: positions={self.positions} fits {self.positions} tokens, got {x.shape[1]}. "
        f"Use positions=0 for any length."
      )
    return x + self.place.astype(x.dtype)

  def encode(self, x, mask=None):
    """x f32[B, F, D], mask bool[B, F] -> latent f32[B, F, L], unbounded."""
    return self.enc_out(self.encoder(self._placed(self.enc_in(x)), mask))

  def decode_det(self, latent, mask=None):
    """latent f32[B, F, L] -> the deterministic reconstruction f32[B, F, D]."""
    return self.dec_out(self.decoder(self._placed(self.dec_in(latent)), mask))

  def u(self, z, t, h, cond=None, mask=None, ctx=None, labels=None, with_v=False):
    """Average velocity.

    Args:
      z: f32[B, F, D].
      t, h: f32[B].
      cond: f32[B, F, E] or None.
      mask: bool[B, F], tokens that count; the others influence nothing.
      ctx, labels: see `nn.embed.TimeEmbed`.
      with_v: also the v-head's instantaneous velocity.

    Returns:
      f32[B, F, D], or two of them.

    Raises:
      ValueError: with_v without a v-head.
    """
    if with_v and not self.v_head:
      raise ValueError("dit: this net has no v-head; build it with v_head=N.")
    x = self._placed(self.project(join(z, cond)))
    parts = self.time(t, h, ctx, labels)
    # Each vector is repeated, and told apart by learned offsets.
    prefix = [parts[k][:, None] + table for k, table in self.context.items()]
    prefix = jnp.concatenate(prefix, axis=1).astype(x.dtype)
    x = self.trunk(jnp.concatenate([prefix, x], axis=1), mask)
    out = self.u_blocks(x, mask) if self.v_head else x
    u = self.head(self.norm(out[:, prefix.shape[1] :]))
    if not with_v:
      return u
    return u, self.v_out(self.v_norm(self.v_blocks(x, mask)[:, prefix.shape[1] :]))

  def __call__(self, x, t, h, cond=None):
    """Touches every parameter: for init."""
    with_v = self.v_head > 0
    if not self.latent:
      return self.u(x, t, h, cond, with_v=with_v)
    latent = self.encode(x)
    return self.decode_det(latent), self.u(x, t, h, latent, with_v=with_v)
