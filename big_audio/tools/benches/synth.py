"""Synthesised sounds and data sets, ms a sound: ours in batches, and one at a time in Python.

What is compared with is the usual program of such data sets: a sound at a time, the filter a Python
loop over its samples. (CPU times do not count the work of further processes.)
"""

import concurrent.futures
import multiprocessing

import jax
import jax.numpy as jnp
import numpy as np

from big_audio.datasets import synth_render, synths
from big_audio.dsp import voices
from big_audio.tools import timing

SR, SECS, BATCH, PROCESSES = 8000, 1.0, 1024, 2


def run(rounds: int) -> list[timing.Row]:
  """Sounds of 1 s at 8 kHz and data sets' records; candidates are compared with ours first."""
  spawn = multiprocessing.get_context("spawn")
  with concurrent.futures.ProcessPoolExecutor(PROCESSES, mp_context=spawn) as pool:
    rows = []
    for name in ("simple_saw", "moog_basic"):
      rows += _sounds(name, rounds)
      rows += _records(name, rounds, pool)
  return rows


def _sounds(name, rounds):
  recipe = synths.build(name, size=BATCH)
  fixed, values = _values(recipe)
  device = {k: jnp.asarray(v, jnp.float32) for k, v in values.items()}
  scan = jax.jit(lambda x: voices.render("simple", {**fixed, **x}, SR, SECS))
  one = lambda i: one_at_a_time({**fixed, **{k: float(v[i]) for k, v in values.items()}})
  ours = render(fixed, values)
  for i in range(2):
    if not np.allclose(one(i), ours[i], atol=1e-9):
      raise ValueError("bench synth: the loop computes something else than dsp.voices.")
  if not np.allclose(scan(device), ours, atol=2e-3):
    raise ValueError("bench synth: jax computes something else than numpy.")
  counts = {"numpy": BATCH, "jax, compiled": BATCH, "one at a time": 2}
  rows = timing.interleaved(
    {
      "numpy": lambda: render(fixed, values),
      "jax, compiled": lambda: scan(device),
      "one at a time": lambda: [one(i) for i in range(2)],
    },
    rounds,
    group=f"{name}: sounds of {SECS:g} s at {SR} Hz, in batches of {BATCH}; ms a sound",
  )
  return _each(rows, counts)


def _records(name, rounds, pool):
  recipe = synths.build(name, size=BATCH)
  values = synth_render.draw(recipe)
  halves = np.array_split(values, PROCESSES)
  short = _values(recipe)[0]
  names = [p.name for p in recipe.varying]

  def one():
    sound = one_at_a_time({**short, **dict(zip(names, values[0], strict=True))})
    return synth_render.pictures(recipe, sound[None].astype(np.float32))

  if np.abs(one()[0].astype(int) - synth_render.block(recipe, values[:1])["pixels"]).max() > 1:
    raise ValueError("bench synth: the loop makes another picture than datasets.synth_render.")
  counts = {"numpy": BATCH, f"numpy, {PROCESSES} processes": BATCH, "one at a time": 1}
  rows = timing.interleaved(
    {
      "numpy": lambda: synth_render.block(recipe, values),
      f"numpy, {PROCESSES} processes": lambda: list(
        pool.map(synth_render.block, [recipe] * PROCESSES, halves)
      ),
      "one at a time": one,
    },
    rounds,
    group=f"{name}: records of a data set, in blocks of {BATCH}; ms a record",
  )
  return _each(rows, counts)


def _each(rows, counts):
  """Times of calls -> times of sounds."""
  mine = rows[0]
  first = {k: mine[k] / counts[mine["name"]] for k in ("wall_ms", "cpu_ms")}
  for row in rows:
    for key in ("wall", "cpu"):
      row[f"{key}_ms"] /= counts[row["name"]]
      row[f"{key}_ratio"] = row[f"{key}_ms"] / first[f"{key}_ms"]
    row["a_sec"] = 1e3 / row["wall_ms"]
  return rows


def _values(recipe):
  metadata = recipe.metadata()
  columns = synth_render.draw(recipe).T
  return dict(metadata.fixed), dict(zip(metadata.names, columns, strict=True))


def render(fixed, values):
  """f64[B,T]."""
  return voices.render("simple", {**fixed, **values}, SR, SECS)


def one_at_a_time(p):
  """One sound of the voice "simple" from numbers, with a plain loop for the filter: f64[T]."""
  t = np.arange(int(SR * SECS)) / SR
  cycles = 440.0 * 2.0 ** ((p["note_number"] - 69.0) / 12.0) * t - 0.5
  x = p["note_velocity"] / 127.0 * (2.0 * (cycles - np.floor(cycles)) - 1.0)
  x = x * np.exp(-t / 10.0 ** p["log10_decay_time"])
  if not p.get("filter_enabled"):
    return x
  out, s, y = np.zeros_like(x), np.zeros(4), np.zeros(4)
  cutoffs = np.full_like(x, p["filter_cutoff"])
  for i, (value, hz) in enumerate(zip(x, cutoffs, strict=True)):
    a = 1 / (1 + 2 * np.tan(np.pi * np.clip(hz, 20, 0.45 * SR) / SR))
    value = value - 4 * np.clip(p["filter_resonance"], 0, 0.99) * y[3]
    for k in range(4):
      s[k] = (1 - a) * value + a * s[k]
      value = y[k] = np.tanh(s[k])
    out[i] = y[3]
  return out
