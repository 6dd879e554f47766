"""Moog's ladder of four low-pass stages with feedback, over a batch of sounds at once.

What a sample becomes depends on all before it, so the loop over time stays: numpy takes a whole
batch in each of its steps, jax compiles it as a scan (and differentiates through it).
"""

from typing import Any

import numpy as np

from big_audio.dsp.namespace import namespace

Array = Any
_UNROLL = 8  # samples in one step of jax's loop


def moog(x: Array, cutoff: float | Array, resonance: float | Array, sr: float) -> Array:
  """Four one-pole low-passes, each with a tanh behind it, and the last fed back to the first.

  u_1 = x - 4 r y_4 (of the sample before), s_k = (1-a) u_k + a s_k, y_k = u_{k+1} = tanh(s_k),
  a = 1 / (1 + 2 tan(pi fc / sr)); the output is y_4. A ladder after Moog (1965) with one sample of
  delay in its feedback, as `SimpleSawSynth` of NSMT has it.

  Args:
    x: f[B,T].
    cutoff: a number, f[B] or f[B,T], Hz; clipped to [20, 0.45 sr].
    resonance: a number or f[B], r; clipped to [0, 0.99].
    sr: samples per second.

  Returns:
    f[B,T] in (-1,1).

  Raises:
    ValueError: a shape that does not fit.
  """
  xp = namespace("ladder.moog", x)
  if x.ndim != 2:
    raise ValueError(f"ladder.moog: expected x [B,T], got shape {tuple(x.shape)}.")
  for name, value, shapes in (
    ("cutoff", cutoff, ((), x.shape[:1], x.shape)),
    ("resonance", resonance, ((), x.shape[:1])),
  ):
    if np.shape(value) not in shapes:
      raise ValueError(
        f"ladder.moog: x is {tuple(x.shape)}; {name} of shape {np.shape(value)} does not fit. "
        f"Expected one of {shapes}."
      )
  keep = 1 / (1 + 2 * xp.tan(np.pi * xp.clip(xp.asarray(cutoff, x.dtype), 20, 0.45 * sr) / sr))
  feedback = 4 * xp.clip(xp.asarray(resonance, x.dtype), 0, 0.99)
  moving = keep.ndim == 2
  loop = _numpy_loop if xp is np else _jax_loop
  # Time first: a step reads and writes one row.
  return loop(x.T, keep.T if moving else keep, feedback, moving).T


def _step(xp, state, x, keep, pass_, feedback):
  """One sample of all sounds: state (s_1, .., s_4, y_4), each f[B], to the next."""
  *stages, y = state
  y = x - feedback * y
  for k in range(4):
    stages[k] = pass_ * y + keep * stages[k]
    y = xp.tanh(stages[k])
  return (*stages, y)


def _numpy_loop(x, keep, feedback, moving):
  x = np.ascontiguousarray(x)
  keep = np.ascontiguousarray(keep)
  pass_ = 1 - keep
  out = np.empty_like(x)
  state = (np.zeros(x.shape[1], x.dtype),) * 5
  for t in range(len(x)):
    state = _step(np, state, x[t], keep[t] if moving else keep, pass_[t] if moving else pass_,
                  feedback)  # fmt: skip
    out[t] = state[4]
  return out


def _jax_loop(x, keep, feedback, moving):
  import jax
  import jax.numpy as jnp

  def step(state, now):
    a = now[1] if moving else keep
    state = _step(jnp, state, now[0], a, 1 - a, feedback)
    return state, state[4]

  start = (jnp.zeros(x.shape[1], x.dtype),) * 5
  return jax.lax.scan(step, start, (x, keep) if moving else (x,), unroll=_UNROLL)[1]
