"""Where the chunks of a recording begin: in sequence, at random, or equally spaced."""

import difflib
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

STRATEGIES = ("random", "sequential", "spaced")
SHORT = ("pad", "skip")


@dataclass(frozen=True)
class Chunks:
  """How recordings are cut.

  Attributes:
    secs: length of a chunk.
    strategy: `sequential` (from the begin on, `overlap` apart), `random` (without overlap, uniform
      over all such choices) or `spaced` (equally, from the first to the last possible begin; a
      single one in the centre).
    most: chunks of a recording at most, fewer where they would overlap; None: as many as fit.
    overlap: share in [0,1) of a chunk that the next one repeats, with `sequential` alone.
    edge_secs: left out at both ends of a recording, where a chunk still fits between; where none
      does, the recording is used up to its ends.
    seed: of `random`, together with the name of the recording.
    short: a recording shorter than a chunk is one shorter chunk (`pad`: it is left to preprocessing
      to fill it up) or left out (`skip`).
    min_secs: shorter recordings are left out in any case.
  """

  secs: float = 10.24
  strategy: str = "random"
  most: int | None = 3
  overlap: float = 0.0
  edge_secs: float = 0.0
  seed: int = 0
  short: str = "pad"
  min_secs: float = 1.0

  @classmethod
  def of(cls, settings: Mapping, where: str) -> "Chunks":
    """Checks the settings of a config.

    Raises:
      ValueError: unknown settings or values (with the nearest names), or out of range.
    """
    names = [f.name for f in fields(cls)]
    for key in settings:
      _check(f"{where}: setting of chunk", key, names)
    made = cls(**settings)
    _check(f"{where}: chunk strategy", made.strategy, STRATEGIES)
    _check(f"{where}: chunk short", made.short, SHORT)
    ok = (
      made.secs > 0
      and (made.most is None or made.most >= 1)
      and 0 <= made.overlap < 1
      and made.edge_secs >= 0
      and made.min_secs >= 0
    )
    if not ok:
      raise ValueError(
        f"{where}: chunk={dict(settings)}: expected secs > 0, most >= 1 (or None), 0 <= overlap < "
        "1, edge_secs >= 0 and min_secs >= 0."
      )
    if made.overlap and made.strategy != "sequential":
      raise ValueError(
        f'{where}: chunk overlap={made.overlap} needs strategy="sequential", got '
        f'"{made.strategy}", whose chunks never overlap.'
      )
    return made

  def refuse(self, secs: float) -> str:
    """Why a recording of that length has no chunk; empty if it has one."""
    if secs < self.min_secs:
      return f"{secs:.2f} s, shorter than min_secs={self.min_secs:g}"
    if self.short == "skip" and secs < self.secs:
      return f'{secs:.2f} s, shorter than a chunk of {self.secs:g} s (short="skip")'
    return ""

  def edge(self, frames: int, sr: int) -> int:
    """Samples left out at each end of a recording of `frames` samples at `sr` Hz."""
    edge = round(self.edge_secs * sr)
    return edge if frames - 2 * edge >= round(self.secs * sr) else 0

  def starts(self, frames: int, length: int, sr: int, name: str) -> np.ndarray:
    """The first samples of the chunks of a recording.

    Args:
      frames: samples of the recording.
      length: samples of a chunk.
      sr: Hz of both.
      name: of the recording.

    Returns:
      i64[k], ascending; a recording that is not longer than a chunk has one, at 0.
    """
    if frames <= length:
      return np.zeros(1, np.int64)
    edge = self.edge(frames, sr)
    room = max(frames - 2 * edge, length)
    fit = room // length
    count = fit if self.most is None else min(self.most, fit)
    if self.strategy == "sequential":
      step = max(1, round((1 - self.overlap) * length))
      fit = 1 + (room - length) // step
      found = np.arange(fit if self.most is None else min(self.most, fit)) * step
    elif self.strategy == "spaced":
      last = room - length
      found = np.array([last // 2]) if count == 1 else np.linspace(0, last, count).astype(np.int64)
    else:
      found = _random_starts(room, length, count, self.seed, name)
    return edge + found.astype(np.int64)


def _random_starts(room, length, count, seed, name):
  """Uniform over all ways to place `count` chunks without overlap, in O(count)."""
  key = hashlib.blake2b(os.fsencode(f"{seed}/{name}"), digest_size=16).digest()
  rng = np.random.default_rng(int.from_bytes(key, "little"))
  # Take `length - 1` samples out of each chunk: its begin is one of `free + count` places, and any
  # `count` different places are one placement.
  free = room - count * length
  places = np.sort(rng.choice(free + count, count, replace=False, shuffle=False))
  return places + np.arange(count) * (length - 1)


def _check(what, got, choices):
  if got not in choices:
    near = difflib.get_close_matches(str(got), choices, n=1)
    hint = f' Did you mean "{near[0]}"?' if near else ""
    raise ValueError(f'{what} "{got}" is unknown.{hint} Expected {", ".join(choices)}.')
