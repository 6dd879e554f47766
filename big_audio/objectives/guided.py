"""Classifier-free guidance that is learned: the field to regress is the guided one.

MeanFlow (2505.13447, section 4.2) trains one fixed guidance into the net, so that sampling with it
costs nothing. Improved MeanFlow (2512.02012) gives strength and interval to the net as inputs
(`ctx`), so that they are chosen when sampling.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from big_audio.objectives import flow, meanflow


def drop_condition(rng, cond: Any, null: Any, share: float) -> tuple[Any, jax.Array]:
  """(cond with a random share of its rows replaced by null, which rows: bool[B]).

  Args:
    rng: key.
    cond: pytree with leading axis B.
    null: the same tree, of what broadcasts against cond's leaves.
    share: of the rows, in [0, 1].
  """
  batch = jax.tree.leaves(cond)[0].shape[0]
  dropped = jax.random.bernoulli(rng, share, (batch,))
  pick = lambda c, n: jnp.where(flow.expand(dropped, c), jnp.asarray(n, c.dtype), c)
  return jax.tree.map(pick, cond, null), dropped


def whole_null(cond: Any, null: Any) -> Any:
  """null, broadcast to the shapes of cond."""
  return jax.tree.map(lambda c, n: jnp.broadcast_to(jnp.asarray(n, c.dtype), c.shape), cond, null)


def velocity(fn: Callable, z, t, cond, ctx=None) -> jax.Array:
  """The net's instantaneous velocity, without gradient: its v-head, or u at h = 0."""
  u, v = meanflow.heads(meanflow.call(fn, z, t, jnp.zeros_like(t), cond, ctx))
  return jax.lax.stop_gradient(u if v is None else v)


def fixed(
  fn: Callable, z, t, v, cond, null, dropped, *, omega: float, kappa: float = 0.0,
  interval: Sequence[float] = (0.0, 1.0),
):  # fmt: skip
  """MeanFlow's guided field omega v + (1 - omega - kappa) u(z, t, t | null) + kappa u(z, t, t | c).

  Outside of `interval` and on dropped rows it is v. The effective strength is omega / (1 - kappa).

  Args:
    fn: u(z, t, h, cond).
    z, v: f32[B, ...], the state and e - x there; t: f32[B].
    cond, null: see `drop_condition`.
    dropped: bool[B].
    omega, kappa: weights.
    interval: of t.

  Returns:
    f32[B, ...].
  """
  field = omega * v + (1 - omega - kappa) * velocity(fn, z, t, whole_null(cond, null))
  if kappa:
    field = field + kappa * velocity(fn, z, t, cond)
  active = (t >= interval[0]) & (t <= interval[1]) & ~dropped
  return jnp.where(flow.expand(active, v), field, v)


def sample_context(rng, t, r, dropped, *, largest: float = 8.0) -> dict:
  """{"w", "t_min", "t_max": f32[B]}: strengths and intervals to train guidance as input with.

  w is log-uniform in [1, largest], t_min uniform in [0, .5] and t_max in [.5, 1]; rows with r = t
  have the whole interval, dropped rows w = 1.
  """
  k1, k2, k3 = jax.random.split(rng, 3)
  w = jnp.exp(jax.random.uniform(k1, t.shape) * jnp.log(largest))
  t_min = jax.random.uniform(k2, t.shape, maxval=0.5)
  t_max = jax.random.uniform(k3, t.shape, minval=0.5)
  equal = r >= t
  return {
    "w": jnp.where(dropped, 1.0, w),
    "t_min": jnp.where(equal, 0.0, t_min),
    "t_max": jnp.where(equal, 1.0, t_max),
  }


def flexible(fn: Callable, z, t, v, cond, null, ctx) -> tuple[jax.Array, jax.Array]:
  """Improved MeanFlow's guided field v + (1 - 1/w) (v_c(w) - v_null), and v_c(w), the tangent.

  w counts as 1 outside of [t_min, t_max]. The net is asked for velocities with the whole interval,
  the only one that it is trained with at h = 0 (`sample_context`). Arguments as in `fixed`; fn
  takes ctx too.

  Returns:
    (field, v_c), both f32[B, ...] without gradient.
  """
  w = jnp.where((t >= ctx["t_min"]) & (t <= ctx["t_max"]), ctx["w"], 1.0)
  whole = {"t_min": jnp.zeros_like(t), "t_max": jnp.ones_like(t)}
  v_c = velocity(fn, z, t, cond, {**whole, "w": w})
  v_null = velocity(fn, z, t, whole_null(cond, null), {**whole, "w": jnp.ones_like(w)})
  return v + flow.expand(1 - 1 / w, v) * (v_c - v_null), v_c
