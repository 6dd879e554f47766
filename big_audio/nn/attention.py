"""Self-attention with rotary positions, normalised queries and keys, and a local window.

Plain XLA operations, all with forward derivatives: MeanFlow takes a jvp through them.
Tokens may have a prefix in front of the frames (time, guidance, class), which has no position.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

_NEVER = -1e30  # a logit; finite, so that rows without any key stay finite


def rope(x: jax.Array, first: int = 0, base: float = 1e4) -> jax.Array:
  """Rotary position embedding (Su et al. 2104.09864) of x [B, F, H, Dh], float32 angles.

  Channel i is paired with i + Dh / 2; products of rotated queries and keys depend on the difference
  of positions alone.

  Raises:
    ValueError: odd Dh.
  """
  frames, dim = x.shape[1], x.shape[-1]
  if dim % 2:
    raise ValueError(f"rope: the width of a head must be even, got {dim}.")
  freqs = base ** (-np.arange(dim // 2) / (dim // 2))
  angles = (np.arange(frames) + first)[:, None] * freqs
  cos, sin = (jnp.asarray(f(angles), jnp.float32)[:, None] for f in (np.cos, np.sin))
  a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1).astype(x.dtype)


def attend(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  *,
  prefix: int = 0,
  mask: jax.Array | None = None,
  window: int | None = None,
) -> jax.Array:
  """Softmax attention of tokens of which the first `prefix` have no position.

  Without a window everything sees everything. With one, a frame sees the prefix and the frames at
  most `window` away, and the prefix sees only itself: then nothing passes from a frame to others
  beyond the window by way of the prefix.

  Args:
    q, k, v: [B, prefix + F, H, Dh].
    prefix: number of tokens in front.
    mask: bool[B, F], frames that may be seen; the prefix always may.
    window: frames on each side, or None.

  Returns:
    [B, prefix + F, H, Dh].

  Raises:
    ValueError: a window below 1.
  """
  if window is not None and window < 1:
    raise ValueError(f"attend: expected a window of 1 frame or more, got {window}.")
  b, length, heads, dim = q.shape
  frames = length - prefix
  q = q * dim**-0.5
  (qp, qf), (kp, kf), (vp, vf) = ((x[:, :prefix], x[:, prefix:]) for x in (q, k, v))
  mask = jnp.ones((b, frames), bool) if mask is None else mask
  qr, kr = rope(qf), rope(kf)
  if window is None:
    to_frames = _logits(qr, kr, mask[:, None, None])
    out = _mix([_logits(qf, kp), to_frames], [vp, vf])
    if not prefix:
      return out
    first = _mix([_logits(qp, kp), _logits(qp, kf, mask[:, None, None])], [vp, vf])
    return jnp.concatenate([first, out], axis=1)
  # Blocks of `window` queries against three blocks of keys: cost grows with F, not with F^2.
  n = -(-frames // window)
  pad = n * window - frames
  blocks = lambda x: jnp.pad(x, ((0, 0), (0, pad)) + ((0, 0),) * (x.ndim - 2)).reshape(
    b * n, window, *x.shape[2:]
  )

  def around(x):  # [B, F, ...] -> [B n, 3 window, ...]
    x = jnp.pad(x, ((0, 0), (window, window + pad)) + ((0, 0),) * (x.ndim - 2))
    x = x.reshape(b, n + 2, window, *x.shape[2:])
    return jnp.concatenate([x[:, :-2], x[:, 1:-1], x[:, 2:]], axis=2).reshape(
      b * n, 3 * window, *x.shape[3:]
    )

  near = np.abs(np.arange(window)[:, None] + window - np.arange(3 * window)) <= window
  seen = around(mask)[:, None, None] & near
  again = lambda x: jnp.repeat(x, n, axis=0)
  out = _mix(
    [_logits(blocks(qf), again(kp)), _logits(blocks(qr), around(kr), seen)], [again(vp), around(vf)]
  )
  out = out.reshape(b, n * window, heads, dim)[:, :frames]
  return jnp.concatenate([_mix([_logits(qp, kp)], [vp]), out], axis=1) if prefix else out


def _logits(q, k, seen=None):
  """float32 [B, H, Q, K]."""
  x = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32)
  return x if seen is None else jnp.where(seen, x, _NEVER)


def _mix(logits, values):
  """Softmax over the joined logits, weighted sum of the joined values: [B, Q, H, Dh]."""
  weights = jax.nn.softmax(jnp.concatenate(logits, axis=-1), axis=-1)
  values = jnp.concatenate(values, axis=1)
  return jnp.einsum("bhqk,bkhd->bqhd", weights.astype(values.dtype), values)


class SelfAttention(nn.Module):
  """Multi-head self-attention with QK-norm (2302.05442) and rotary positions.

  Attributes:
    heads: H.
    prefix: tokens without position in front of the frames.
    window: see `attend`.
    kernel_init: of the dense layers.
    dtype: compute type; parameters are float32.
  """

  heads: int
  prefix: int = 0
  window: int | None = None
  kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """[B, prefix + F, D], mask bool[B, F] -> [B, prefix + F, D].

    Raises:
      ValueError: H does not divide D.
    """
    b, length, d = x.shape
    if d % self.heads:
      raise ValueError(f"SelfAttention: a width of {d} does not divide into {self.heads} heads.")
    dense = lambda n, name: nn.Dense(
      n, use_bias=False, kernel_init=self.kernel_init, dtype=self.dtype, name=name
    )
    qkv = dense(3 * d, "qkv")(x).reshape(b, length, 3, self.heads, d // self.heads)
    q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
    q = nn.RMSNorm(dtype=self.dtype, name="q_norm")(q)
    k = nn.RMSNorm(dtype=self.dtype, name="k_norm")(k)
    out = attend(q, k, v, prefix=self.prefix, mask=mask, window=self.window)
    return dense(d, "out")(out.reshape(b, length, d))
