"""Samplers from noise (t=1) to data (t=0) by average or instantaneous velocities.

All take `n`, the number of network evaluations, so that a comparison at one n is fair: midpoint and
Heun take n / 2 steps, and a guided function (samplers/guidance.py) costs two evaluations a call.

  u_steps      z -= h u(z, t, h): average velocities (MeanFlow)
  euler        z -= h u(z, t, 0): instantaneous velocities, first order
  midpoint     second order        heun  second order
  consistency  x = z - t u(z, t, t), then noise again (average velocities)
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from big_audio import config as C


def u_steps(fn: Callable, e, n: int, cond=None) -> jax.Array:
  """n steps of z -= (t_i - t_{i+1}) u(z, t_i, h_i) on the uniform grid 1 = t_0 > ... > t_n = 0.

  Exact for a perfect average velocity (MeanFlow, 2505.13447); with a net that was trained at h = 0
  only, use `v_steps`.

  Args:
    fn: u(z, t f32[B], h f32[B], cond) -> like z.
    e: f32[B, ...], the state at t=1.
    n: number of network evaluations, >= 1.
    cond: handed to fn.

  Raises:
    ValueError: n < 1, or not a multiple of what a step costs.
  """
  return _grid(fn, e, n, lambda z, t, h: z - _by(h, z) * fn(z, t, h, cond))


def v_steps(fn: Callable, e, n: int, cond=None) -> jax.Array:
  """Euler steps with the instantaneous velocity u(z, t, 0); arguments as in `u_steps`."""
  return _grid(fn, e, n, lambda z, t, h: z - _by(h, z) * fn(z, t, 0 * h, cond))


def midpoint(fn: Callable, e, n: int, cond=None) -> jax.Array:
  """n / 2 steps of the midpoint rule with u(z, t, 0); arguments as in `u_steps`."""

  def step(z, t, h):
    half = z - _by(h / 2, z) * fn(z, t, 0 * h, cond)
    return z - _by(h, z) * fn(half, t - h / 2, 0 * h, cond)

  return _grid(fn, e, n, step, stages=STAGES["midpoint"])


def heun(fn: Callable, e, n: int, cond=None) -> jax.Array:
  """n / 2 steps of Heun's rule (the trapezoid) with u(z, t, 0); arguments as in `u_steps`."""

  def step(z, t, h):
    first = fn(z, t, 0 * h, cond)
    # The last step's second stage is at t = 0 exactly, where rounding must not leave t < 0.
    second = fn(z - _by(h, z) * first, jnp.maximum(t - h, 0), 0 * h, cond)
    return z - _by(h / 2, z) * (first + second)

  return _grid(fn, e, n, step, stages=STAGES["heun"])


def consistency(fn: Callable, e, n: int, cond=None, noise: Callable | None = None) -> jax.Array:
  """Jumps to the data, x = z - t u(z, t, h=t), and back to z = (1-t) x + t e with fresh noise.

  Args:
    fn, e, n, cond: as in `u_steps`; times are its grid.
    noise: i -> a fresh state at t=1 like e, for i = 1 .. n - 1 (may be traced). With a shifted
      prior it must be shifted too. Needed for n > 1.

  Raises:
    ValueError: as `u_steps`, or n > 1 without noise.
  """
  steps = _steps(fn, n)
  if steps > 1 and noise is None:
    raise ValueError(
      f"Consistency sampling with {n} evaluations draws noise again: give noise=, or use u_steps."
    )
  ones = jnp.ones((e.shape[0],), e.dtype)
  jump = lambda z, t: z - _by(t, z) * fn(z, t, t, cond)
  x = jump(e, ones)
  if steps == 1:
    return x

  def step(x, i):
    t = ones * (1 - i.astype(e.dtype) / steps)
    return jump((1 - _by(t, x)) * x + _by(t, x) * noise(i), t), None

  return jax.lax.scan(step, x, jnp.arange(1, steps))[0]


SAMPLERS = {
  "u_steps": u_steps,
  "euler": v_steps,
  "midpoint": midpoint,
  "heun": heun,
  "consistency": consistency,
}
STAGES = {"midpoint": 2, "heun": 2}  # evaluations of a step, where they are more than one
AVERAGE = ("u_steps", "consistency")  # need a net that was trained at h > 0


def sample(
  name: str, fn: Callable, e, n: int, cond=None, *, noise: Callable | None = None
) -> jax.Array:
  """x f32[B, ...] by the sampler of that name; arguments and errors as of its function."""
  sampler = C.pick("sampler", SAMPLERS, name)
  kw = {"noise": noise} if name == "consistency" else {}
  return sampler(fn, e, n, cond, **kw)


def _by(t, z):
  return t.reshape(t.shape + (1,) * (z.ndim - t.ndim))


def _steps(fn, n, stages=1):
  """Number of steps for n network evaluations."""
  if n < 1:
    raise ValueError(f"A sampler needs at least one network evaluation, got {n}.")
  cost = stages * getattr(fn, "evaluations", 1)
  if n % cost:
    raise ValueError(
      f"A step of this sampler costs {cost} network evaluations ({stages} stages, "
      f"{getattr(fn, 'evaluations', 1)} evaluations each), which do not divide {n}. "
      f"Use {n // cost * cost or cost} or {-(-n // cost) * cost}."
    )
  return n // cost


def _grid(fn, e, n, step, stages=1):
  steps = _steps(fn, n, stages)
  ones = jnp.ones((e.shape[0],), e.dtype)
  if steps == 1:
    return step(e, ones, ones)

  def body(z, i):
    return step(z, ones * (1 - i / steps), ones / steps), None

  return jax.lax.scan(body, e, jnp.arange(steps, dtype=e.dtype))[0]
