"""Rectified flow: the straight path between data (t=0) and noise (t=1), and its regression loss.

Albergo & Vanden-Eijnden 2023; Liu et al. 2023 (2209.03003); Lipman et al. 2023 (2210.02747).
z = (1-t) x + t e, v = e - x.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

MIN_T = 0.05  # of x-prediction's division by t


def expand(t, like):
  """t f32[B] with trailing axes of size 1, as many as `like` has."""
  return t.reshape(t.shape + (1,) * (like.ndim - t.ndim))


def interpolate(x, e, t):
  """z = (1-t) x + t e for x, e f32[B, ...] and t f32[B]."""
  t = expand(t, x)
  return (1 - t) * x + t * e


def predict_x(fn: Callable, base: Callable | None = None) -> Callable:
  """The velocity of a net that gives the data: u = (z - x_hat) / max(t, MIN_T) (2601.22158).

  The same in training and sampling: below MIN_T the net that is best in training gives
  z - MIN_T u, not the data, and another divisor would overshoot.

  Args:
    fn: x_hat(z, t, h, cond, **kw), or (x_hat, x_hat of the v-head).
    base: function of cond, which the net's output is added to; None: it gives x_hat itself.

  Returns:
    u(z, t, h, cond, **kw), with as many heads as fn.
  """

  def u(z, t, h, cond=None, **kw):
    start = 0.0 if base is None else base(cond)
    divisor = expand(jnp.maximum(t, MIN_T), z)
    return jax.tree.map(lambda out: (z - (start + out)) / divisor, fn(z, t, h, cond, **kw))

  return u


def sample_t(rng, shape, *, kind: str = "logit_normal", mean: float = -0.4, std: float = 1.0):
  """Times in (0, 1): sigmoid of a normal (MeanFlow's default -0.4, 1) or uniform.

  Raises:
    ValueError: `kind` is neither "logit_normal" nor "uniform".
  """
  if kind == "logit_normal":
    return jax.nn.sigmoid(mean + std * jax.random.normal(rng, shape))
  if kind == "uniform":
    return jax.random.uniform(rng, shape)
  raise ValueError(f'time distribution {kind!r} is unknown; use "logit_normal" or "uniform".')


def frame_mean(err, mask=None):
  """Mean of err f32[B, F, ...] over all but the batch, over frames with mask bool[B, F] only."""
  if mask is None or err.ndim < 3:
    return jnp.mean(err.reshape(err.shape[0], -1), axis=1)
  per_frame = jnp.mean(err.reshape(*err.shape[:2], -1), axis=2)
  m = mask.astype(err.dtype)
  return jnp.sum(per_frame * m, axis=1) / jnp.maximum(jnp.sum(m, axis=1), 1.0)


def counted(x, mask=None):
  """How many numbers of each example `frame_mean` is a mean over: int, or f32[B] with a mask."""
  if mask is None or x.ndim < 3:
    return x[0].size
  return x[0, 0].size * jnp.sum(mask.astype(jnp.float32), axis=1)


def adaptive(mse, size, p: float, eps: float):
  """MeanFlow's adaptive weighting (2505.13447, eq. 22): D / sg((D + eps)^p), D the summed square.

  Args:
    mse: f32[B], mean square error of each example.
    size: number of elements that were averaged, so that D = mse * size; see `counted`.
    p: 0 leaves the plain square error (the mean, for a scale that does not grow with size).
    eps: added to D.
  """
  if p == 0:
    return mse
  d = mse * size
  return d / jax.lax.stop_gradient((d + eps) ** p)


def flow_matching(
  fn: Callable, x, e, t, *, cond=None, mask=None, p: float = 0.0, eps: float = 0.01
) -> tuple[jax.Array, dict]:
  """Conditional flow matching: E||u(z, t, h=0 | cond) - (e - x)||^2.

  Args:
    fn: u(z, t, h, cond) -> f32[B, ...].
    x, e: data and noise, f32[B, ...].
    t: f32[B] in [0, 1].
    cond: any pytree with leading axis B, handed to fn.
    mask: bool[B, F] or None, frames that count.
    p, eps: see `adaptive`.

  Returns:
    (loss f32[B], {"mse", "mse_equal": f32[B]}), both names for the one raw error that there is.
  """
  u = fn(interpolate(x, e, t), t, jnp.zeros_like(t), cond)
  mse = frame_mean(jnp.square(u - (e - x)), mask)
  return adaptive(mse, counted(x, mask), p, eps), {"mse": mse, "mse_equal": mse}
