"""alpha-Flow (2510.20771): from flow matching to MeanFlow by a step size that shrinks to zero.

With s = alpha r + (1 - alpha) t and z_s = z - (t - s) v the loss is
  (1/alpha) || u(z, r, t) - sg(alpha v + (1 - alpha) u(z_s, r, s)) ||^2,
flow matching at alpha = 1 and, in the limit alpha -> 0, MeanFlow. No JVP while alpha > 0: the
target needs one more evaluation without gradient. Rows with r = t learn v itself.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from big_audio.objectives import flow, meanflow

SLOPE = 25.0
SNAP = 5e-3


def schedule(progress, begin: float = 0.0, end: float = 1.0):
  """alpha f32[] at a share `progress` of the run: a sigmoid from 1 at `begin` to 0 at `end`.

  Values within 5e-3 of 1 or 0 are exactly 1 or 0 (the paper's eta), so MeanFlow's JVP begins at a
  definite step.

  Raises:
    ValueError: not 0 <= begin < end.
  """
  if not 0 <= begin < end:
    raise ValueError(f"alphaflow: expected 0 <= begin < end, got {begin} and {end}.")
  place = (jnp.asarray(progress, jnp.float32) - begin) / (end - begin)
  alpha = 1 - jax.nn.sigmoid(SLOPE * (place - 0.5))
  return jnp.where(alpha < SNAP, 0.0, jnp.where(alpha > 1 - SNAP, 1.0, alpha))


def alphaflow(
  fn: Callable,
  x,
  e,
  t,
  r,
  alpha,
  *,
  ratio: float,
  cond=None,
  ctx=None,
  target=None,
  mask=None,
  p: float = 1.0,
  eps: float = 1e-3,
  v_weight: float = 1.0,
  shards: int = 1,
) -> tuple[jax.Array, dict]:
  """alpha-Flow's loss at one alpha in (0, 1]; arguments as in `meanflow.meanflow`.

  The weight is alpha / (D + eps)^p with D the summed square of the difference, so that for p = 1
  the loss is D / (D + eps).

  Returns:
    (loss f32[B], logs as `meanflow.meanflow`). Raw errors are of the difference / alpha, which is
    flow matching's at alpha = 1 and tends to MeanFlow's.
  """
  rows, _ = meanflow.jvp_rows(x.shape[0], ratio, shards)
  v = e - x if target is None else target
  z, h = flow.interpolate(x, e, t), t - r
  u, v_head = meanflow.heads(meanflow.call(fn, z, t, h, cond, ctx))
  want = v
  if len(rows):
    step = alpha * h
    b = meanflow.take_rows(dict(z=z, v=v, t=t, h=h, step=step, cond=cond, ctx=ctx), rows, shards)
    z_s = b["z"] - flow.expand(b["step"], z) * b["v"]
    ahead = meanflow.call(fn, z_s, b["t"] - b["step"], b["h"] - b["step"], b["cond"], b["ctx"])
    ahead = jax.lax.stop_gradient(meanflow.heads(ahead)[0])
    want = meanflow.put_rows(v, alpha * b["v"] + (1 - alpha) * ahead, rows, shards)
  scale = jnp.where(h > 0, alpha, 1.0)
  mse = flow.frame_mean(jnp.square((u - want) / flow.expand(scale, u)), mask)
  size = flow.counted(x, mask)
  if p == 0:
    value = scale * mse  # (1/alpha) of the squared difference
  else:
    d = scale**2 * mse * size
    value = d / jax.lax.stop_gradient((d + eps) ** p)
  logs = meanflow.split_logs(mse, h)
  if v_head is not None:
    logs["mse_v"] = flow.frame_mean(jnp.square(v_head - v), mask)
    value = value + v_weight * flow.adaptive(logs["mse_v"], size, p, eps)
  return value, logs
