"""MeanFlow and improved MeanFlow: regression of the average velocity.

MeanFlow (2505.13447): u(z,t,r) = 1/(t-r) int_r^t v. The identity u = v - (t-r) du/dt gives the loss
||u - sg(v - (t-r) JVP)||^2, JVP the derivative of u along (v, 1, 0) for (z, t, r).
Improved MeanFlow (2512.02012): V = u + (t-r) sg(JVP(u; v_th)), loss ||V - v||^2, with the network's
own velocity v_th = u(z, t, t) as the tangent in place of the sample's v = e - x.

Networks are told h = t - r, so along the identity's direction both t and h move with t: the tangent
of (z, t, h) is (v, 1, 1). (Putting the unit tangent on r, a known bug, is (v, 0, -1).)

Rows with r = t need no JVP: it is multiplied by h = 0. They are chosen by position, the same number
in each device's shard, so the JVP runs on exactly round(ratio * rows) of them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_audio.objectives import flow


def jvp_rows(batch: int, ratio: float, shards: int = 1) -> tuple[np.ndarray, np.ndarray]:
  """Positions inside one shard of the rows with r < t, and of the others.

  round(ratio * batch / shards) rows are spread evenly, so that for whole numbers the global set
  does not depend on the number of shards.

  Raises:
    ValueError: ratio outside [0, 1], a batch that the shards do not divide, or a shard too small to
      hold rows of both kinds where the ratio asks for both.
  """
  if not 0 <= ratio <= 1:
    raise ValueError(f"meanflow: ratio must lie in [0, 1], got {ratio}.")
  if batch % shards:
    raise ValueError(f"meanflow: a batch of {batch} rows does not divide into {shards} shards.")
  m = batch // shards
  k = round(ratio * m)
  if 0 < ratio < 1 and k in (0, m):
    raise ValueError(
      f"meanflow: ratio={ratio:g} of the {m} row(s) of a device's batch rounds to "
      f"{k}: none are left with r {'= t' if k else '< t'}. Use larger batches a device, fewer "
      "accumulation steps, or another ratio."
    )
  i = np.arange(m)
  chosen = (i + 1) * k // m > i * k // m
  return np.flatnonzero(chosen), np.flatnonzero(~chosen)


def take_rows(tree: Any, rows: np.ndarray, shards: int = 1) -> Any:
  """The given rows of every shard, without moving data between shards."""
  pick = lambda x: x.reshape(shards, -1, *x.shape[1:])[:, rows].reshape(-1, *x.shape[1:])
  return jax.tree.map(pick, tree)


def put_rows(whole, part, rows: np.ndarray, shards: int = 1):
  """`whole` with the given rows of every shard replaced by those of `part` (`take_rows`' order)."""
  split = lambda x: x.reshape(shards, -1, *x.shape[1:])
  return split(whole).at[:, rows].set(split(part)).reshape(whole.shape)


def _join(a, b, rows_a, rows_b, shards):
  """Undoes two `take_rows`."""
  order = np.argsort(np.concatenate([rows_a, rows_b]))
  split = lambda x: x.reshape(shards, -1, *x.shape[1:])
  both = jnp.concatenate([split(a), split(b)], axis=1)[:, order]
  return both.reshape(-1, *both.shape[2:])


def sample_t_r(rng, batch: int, *, ratio: float, shards: int = 1, **dist):
  """Pairs of times: t the larger and r the smaller of two draws, r = t except on the JVP rows.

  Args:
    rng: key.
    batch: number of rows.
    ratio: share of rows with r < t (1 - rho in the papers).
    shards: number of device shards of the batch.
    **dist: of `flow.sample_t`.

  Returns:
    (t f32[B], r f32[B]).
  """
  pair = flow.sample_t(rng, (batch, 2), **dist)
  # As in the official code: rows with r = t keep the larger draw too.
  t, r = jnp.max(pair, axis=1), jnp.min(pair, axis=1)
  rows, _ = jvp_rows(batch, ratio, shards)
  moving = np.zeros((shards, batch // shards), bool)
  moving[:, rows] = True
  moving = moving.reshape(-1)
  return t, jnp.where(moving, r, t)


def heads(out: Any) -> tuple[Any, Any]:
  """(u, v) of a net's output; v is None where the net has no v-head."""
  return out if isinstance(out, tuple) else (out, None)


def call(fn: Callable, z, t, h, cond, ctx=None) -> Any:
  """fn(z, t, h, cond), with the guidance's ctx where there is one."""
  return fn(z, t, h, cond) if ctx is None else fn(z, t, h, cond, ctx=ctx)


def split_logs(mse, h) -> dict:
  """The raw error of all rows, of those with r = t, and of those with r < t."""
  below = (h > 0).astype(mse.dtype)
  return {"mse": mse, "mse_equal": (mse, 1 - below), "mse_below": (mse, below)}


def meanflow(
  fn: Callable,
  x,
  e,
  t,
  r,
  *,
  ratio: float,
  improved: bool = False,
  cond=None,
  ctx=None,
  target=None,
  own=None,
  mask=None,
  p: float = 1.0,
  eps: float = 0.01,
  v_weight: float = 1.0,
  shards: int = 1,
  full: bool = False,
  tangent: tuple[float, float] = (1.0, 1.0),
) -> tuple[jax.Array, dict]:
  """MeanFlow's loss, or improved MeanFlow's.

  Args:
    fn: u(z, t, h, cond) -> f32[B, ...], or (u, v) of a net with a v-head; every operation in it
      must have a forward derivative. With ctx it is called as fn(z, t, h, cond, ctx=ctx).
    x, e: data and noise, f32[B, ...].
    t, r: f32[B], from `sample_t_r` with the same ratio and shards.
    ratio: share of rows with r < t.
    improved: the improved loss (iMF) in place of the original's.
    cond: any pytree with leading axis B, handed to fn.
    ctx: {"w", "t_min", "t_max": f32[B]} of guidance as input, or None.
    target: the velocity to learn, like x (guided, see `objectives.guided`); None: e - x.
    own: the network's velocity at (z, t), like x, where it is known already (improved only).
    mask: bool[B, F] or None, frames that count.
    p, eps: see `flow.adaptive`; 1 and .01 are the official settings.
    v_weight: of the v-head's own loss, which has the same target and weighting.
    shards: number of device shards of the batch.
    full: run the JVP on all rows. The same loss and gradients, slower; the tests' reference.
    tangent: of (t, h) along the path; anything but (1, 1) is wrong, and is there for the tests.

  Returns:
    (loss f32[B], {"mse": f32[B], "mse_equal": (values, weights), "mse_below": ...}): the raw mean
    square errors, of all rows, of those with r = t, and of those with r < t; "mse_v" of a v-head.
  """
  batch = x.shape[0]
  rows, rest = jvp_rows(batch, 1.0 if full else ratio, shards)
  v = e - x if target is None else target
  everything = dict(z=flow.interpolate(x, e, t), v=v, t=t, h=t - r, cond=cond, ctx=ctx, own=own)
  sg = jax.lax.stop_gradient
  parts = []  # of each group of rows: the errors of u and of the v-head
  if len(rest):
    a = take_rows(everything, rest, shards)
    u, v_head = heads(call(fn, a["z"], a["t"], a["h"], a["cond"], a["ctx"]))
    parts.append((u - a["v"], None if v_head is None else v_head - a["v"]))
  if len(rows):
    b = take_rows(everything, rows, shards)
    along = b["v"]
    if improved and own is None:
      u, v_head = heads(call(fn, b["z"], b["t"], jnp.zeros_like(b["h"]), b["cond"], b["ctx"]))
      along = u if v_head is None else v_head
    elif improved:
      along = b["own"]
    u, du, v_head = jax.jvp(
      lambda z, t, h: heads(call(fn, z, t, h, b["cond"], b["ctx"])),
      (b["z"], b["t"], b["h"]),
      (sg(along), jnp.full_like(b["t"], tangent[0]), jnp.full_like(b["h"], tangent[1])),
      has_aux=True,
    )
    # V - v (iMF) and u - (v - h du) (MF) are the same difference; only the tangent is not.
    err = u + flow.expand(b["h"], u) * sg(du) - b["v"]
    parts.append((err, None if v_head is None else v_head - b["v"]))
  join = lambda a, b: _join(a, b, rest, rows, shards)
  err, err_v = parts[0] if len(parts) == 1 else jax.tree.map(join, *parts)
  mse, size = flow.frame_mean(jnp.square(err), mask), flow.counted(x, mask)
  value, logs = flow.adaptive(mse, size, p, eps), split_logs(mse, t - r)
  if err_v is not None:
    logs["mse_v"] = flow.frame_mean(jnp.square(err_v), mask)
    value = value + v_weight * flow.adaptive(logs["mse_v"], size, p, eps)
  return value, logs
