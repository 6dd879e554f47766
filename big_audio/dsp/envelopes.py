"""Envelopes of a batch of sounds: each row has its own times."""

from typing import Any

import numpy as np

from big_audio.dsp.namespace import constant, namespace

Array = Any


def column(value: float | Array) -> float | Array:
  """f[B] -> f[B,1], against time; a number stays a number."""
  return value[:, None] if getattr(value, "ndim", 0) else value


def adsr(
  attack: float | Array,
  decay: float | Array,
  sustain: float | Array,
  release: float | Array,
  *,
  sr: float,
  total: int,
  like: Array,
  samples: int | None = None,
) -> Array:
  """Linear attack to 1, decay to `sustain`, which is held, and a release to 0 at the end.

  Segments have int(secs sr) samples and reach both of their ends (a segment of one sample has its
  start). Where attack, decay and release together exceed the sound, all three shrink in
  proportion. The release starts from the sustain level, or where nothing is sustained from the
  last value of the decay.

  Args:
    attack, decay, release: f[B] or numbers, s.
    sustain: f[B] or a number, level in [0,1].
    sr: samples per second.
    total: samples of the whole sound.
    like: f[...], whose namespace and dtype the envelope gets.
    samples: only the first that many; default all.

  Returns:
    f[B,samples] in [0,1] (B = 1 if all are numbers).
  """
  xp = namespace("envelopes.adsr", like)
  level = column(xp.asarray(sustain, like.dtype).reshape(-1))
  counts = [
    column(xp.floor(xp.asarray(secs, like.dtype).reshape(-1) * sr))
    for secs in (attack, decay, release)
  ]
  asked = sum(counts)
  fit = xp.where(asked > total, total / xp.maximum(asked, 1), 1)
  rise, fall, end = (xp.floor(count * fit) for count in counts)
  held = total - rise - fall - end
  i = constant(np.arange(total if samples is None else samples, dtype=np.float64), like)
  # A decay of one sample is its start, 1; without any, the release starts there too.
  top = xp.where((held > 0) | (fall > 1), level, 1)
  out = xp.where(i < total - end, level, _line(xp, i - (total - end), end, top, 0))
  out = xp.where(i < rise + fall, _line(xp, i - rise, fall, 1, level), out)
  return xp.where(i < rise, _line(xp, i, rise, 0, 1), out)


def _line(xp, i, count, start, stop):
  """`count` values from start to stop, both included."""
  out = i * ((stop - start) / xp.maximum(count - 1, 1)) + start
  return xp.where((i == count - 1) & (count > 1), stop, out)
