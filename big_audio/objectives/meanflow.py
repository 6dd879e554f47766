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
    ValueError: ratio outside [0, 1], or a batch that the shards do not divide.
  """
  if not 0 <= ratio <= 1:
    raise ValueError(f"meanflow: ratio must lie in [0, 1], got {ratio}.")
  if batch % shards:
    raise ValueError(f"meanflow: a batch of {batch} rows does not divide into {shards} shards.")
  m = batch // shards
  k = round(ratio * m)
  i = np.arange(m)
  chosen = (i + 1) * k // m > i * k // m
  return np.flatnonzero(chosen), np.flatnonzero(~chosen)


def take_rows(tree: Any, rows: np.ndarray, shards: int = 1) -> Any:
  """The given rows of every shard, without moving data between shards."""
  pick = lambda x: x.reshape(shards, -1, *x.shape[1:])[:, rows].reshape(-1, *x.shape[1:])
  return jax.tree.map(pick, tree)


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
  mask=None,
  p: float = 1.0,
  eps: float = 0.01,
  shards: int = 1,
  full: bool = False,
  tangent: tuple[float, float] = (1.0, 1.0),
) -> tuple[jax.Array, dict]:
  """MeanFlow's loss, or improved MeanFlow's.

  Args:
    fn: u(z, t, h, cond) -> f32[B, ...]; every operation in it must have a forward derivative.
    x, e: data and noise, f32[B, ...].
    t, r: f32[B], from `sample_t_r` with the same ratio and shards.
    ratio: share of rows with r < t.
    improved: the improved loss (iMF) in place of the original's.
    cond: any pytree with leading axis B, handed to fn.
    mask: bool[B, F] or None, frames that count.
    p, eps: see `flow.adaptive`; 1 and .01 are the official settings.
    shards: number of device shards of the batch.
    full: run the JVP on all rows. The same loss and gradients, slower; the tests' reference.
    tangent: of (t, h) along the path; anything but (1, 1) is wrong, and is there for the tests.

  Returns:
    (loss f32[B], {"mse": f32[B], "mse_equal": (values, weights), "mse_below": ...}): the raw mean
    square errors, of all rows, of those with r = t, and of those with r < t.
  """
  batch = x.shape[0]
  rows, rest = jvp_rows(batch, 1.0 if full else ratio, shards)
  z, v, h = flow.interpolate(x, e, t), e - x, t - r
  everything = dict(z=z, v=v, t=t, h=h, cond=cond)
  sg = jax.lax.stop_gradient
  parts = []
  if len(rest):
    a = take_rows(everything, rest, shards)
    parts.append(fn(a["z"], a["t"], a["h"], a["cond"]) - a["v"])
  if len(rows):
    b = take_rows(everything, rows, shards)
    own = fn(b["z"], b["t"], jnp.zeros_like(b["h"]), b["cond"]) if improved else b["v"]
    u, du = jax.jvp(
      lambda z, t, h: fn(z, t, h, b["cond"]),
      (b["z"], b["t"], b["h"]),
      (sg(own), jnp.full_like(b["t"], tangent[0]), jnp.full_like(b["h"], tangent[1])),
    )
    # V - v (iMF) and u - (v - h du) (MF) are the same difference; only the tangent is not.
    parts.append(u + flow.expand(b["h"], u) * sg(du) - b["v"])
  err = parts[0] if len(parts) == 1 else _join(*parts, rest, rows, shards)
  mse = flow.frame_mean(jnp.square(err), mask)
  below = (h > 0).astype(mse.dtype)
  logs = {"mse": mse, "mse_equal": (mse, 1 - below), "mse_below": (mse, below)}
  return flow.adaptive(mse, x[0].size, p, eps), logs
