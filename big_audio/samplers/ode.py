"""Samplers from noise (t=1) to data (t=0) by average or instantaneous velocities."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def u_steps(fn: Callable, e, n: int, cond=None) -> jax.Array:
  """n steps of z -= (t_i - t_{i+1}) u(z, t_i, h_i) on the uniform grid 1 = t_0 > ... > t_n = 0.

  Exact for a perfect average velocity (MeanFlow, 2505.13447); with a net that was trained at h = 0
  only, use `v_steps`. One network evaluation a step.

  Args:
    fn: u(z, t f32[B], h f32[B], cond) -> like z.
    e: f32[B, ...], the state at t=1.
    n: number of network evaluations, >= 1.
    cond: handed to fn.

  Raises:
    ValueError: n < 1.
  """
  return _grid(fn, e, n, cond, lambda h: h)


def v_steps(fn: Callable, e, n: int, cond=None) -> jax.Array:
  """n Euler steps with the instantaneous velocity u(z, t, 0); arguments as in `u_steps`."""
  return _grid(fn, e, n, cond, jnp.zeros_like)


def _grid(fn, e, n, cond, h_of):
  if n < 1:
    raise ValueError(f"A sampler needs at least one network evaluation, got {n}.")
  ones = jnp.ones((e.shape[0],), e.dtype)
  if n == 1:
    return e - fn(e, ones, h_of(ones), cond)

  def step(z, i):
    t = ones * (1 - i / n)
    h = ones / n
    return z - fn(z, t, h_of(h), cond) / n, None

  return jax.lax.scan(step, e, jnp.arange(n, dtype=e.dtype))[0]
