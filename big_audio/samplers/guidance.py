"""Classifier-free guidance when sampling (Ho & Salimans 2207.12598)."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp


class Guided:
  """u_null + scale (u_cond - u_null) for t in `interval`, u_cond outside.

  Both are computed in one call of twice the batch; `evaluations` makes samplers count two.

  Args:
    fn: u(z, t, h, cond) -> like z.
    null: like cond, of what broadcasts against its leaves.
    scale: 1 is no guidance.
    interval: of t (2404.07724).
  """

  evaluations = 2

  def __init__(self, fn: Callable, null: Any, scale: float, interval: Sequence[float] = (0.0, 1.0)):
    self._fn, self._null, self._scale, self._interval = fn, null, scale, tuple(interval)

  def __call__(self, z, t, h, cond):
    both = lambda a, b: jnp.concatenate([a, jnp.broadcast_to(jnp.asarray(b, a.dtype), a.shape)])
    twice = lambda a: jnp.concatenate([a, a])
    out = self._fn(twice(z), twice(t), twice(h), jax.tree.map(both, cond, self._null))
    given, null = jnp.split(out, 2)
    active = (t >= self._interval[0]) & (t <= self._interval[1])
    scale = jnp.where(active, self._scale, 1.0).reshape(t.shape + (1,) * (z.ndim - 1))
    return null + scale * (given - null)
