"""Recipes -> items: values of the parameters, their sounds, pictures and records."""

import functools
import math
import os
from collections.abc import Iterator, Mapping

import numpy as np

from big_audio.datasets import synth_images, synth_sampling, vimh_write
from big_audio.datasets.synths import Recipe
from big_audio.datasets.vimh_meta import Metadata
from big_audio.datasets.vimh_records import record_dtype
from big_audio.dsp import voices

BLOCK = 512  # sounds that are made at once


def sounds(
  metadata: Metadata, values: Mapping[str, np.ndarray], samples: int | None = None
) -> np.ndarray:
  """The sounds that a data set's synthesiser makes of values of its parameters.

  Args:
    metadata: names the voice, the rate and the length; its fixed parameters are used.
    values: {parameter: f[B]}, any of the voice; what varies in the data set has to be there.
    samples: only the first that many.

  Returns:
    f32[B,T].

  Raises:
    ValueError: a parameter that varies is missing; `voices.render` refuses the voice or a name.
  """
  missing = [n for n in metadata.names if n not in values]
  if missing:
    raise ValueError(f"{metadata.where}: sounds need values of {', '.join(missing)}.")
  columns = {k: np.asarray(v, np.float64) for k, v in values.items()}
  count = len(next(iter(columns.values())))
  out = [np.zeros((0, samples or int(metadata.sr * metadata.secs)), np.float32)]
  for start in range(0, count, BLOCK):
    part = {k: v[start : start + BLOCK] for k, v in columns.items()}
    wav = voices.render(
      metadata.voice, {**metadata.fixed, **part}, metadata.sr, metadata.secs, samples
    )
    # Stored in 32 bits before anything is measured, as the format's generator does.
    out.append(wav.astype(np.float32))
  return np.concatenate(out)


def pictures(recipe: Recipe, wav: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(u8[B,C,H,W], f32[B,2] scale) of f32[B,T], at least the first recipe.samples of the sounds."""
  wav = voices.pre_emphasis(wav, np.float32(recipe.pre_emphasis))
  db = synth_images.decibels(
    wav.astype(np.float64), recipe.spectrogram, recipe.height, recipe.width, recipe.sr
  )
  images, scale = synth_images.to_bytes(db)
  if not (recipe.temporal or recipe.spectral):
    return np.repeat(images[:, None], recipe.channels, axis=1), scale
  return synth_images.envelopes(
    images,
    scale,
    temporal=recipe.temporal,
    spectral=recipe.spectral,
    normalize=recipe.normalize,
    joint_scaling=recipe.joint_scaling,
  )


def draw(recipe: Recipe) -> np.ndarray:
  """f64[size,P]: the values of the parameters that vary, in the order of the items."""
  r = recipe
  return synth_sampling.draw(
    r.varying, r.size, r.seed, r.sampling, jitter=r.jitter, shuffle=r.shuffled
  )


def block(recipe: Recipe, values: np.ndarray) -> np.ndarray:
  """Records (`vimh_records.record_dtype`) of f64[B,P] values."""
  metadata = recipe.metadata()
  named = {p.name: values[:, i] for i, p in enumerate(metadata.parameters)}
  images, scale = pictures(recipe, sounds(metadata, named, recipe.samples))
  labels = [p.encode(named[p.name]) for p in metadata.parameters]
  return vimh_write.to_records(metadata, images, scale, np.stack(labels, axis=1))


def blocks(recipe: Recipe) -> Iterator[tuple[int, np.ndarray]]:
  """(first item, f64[B,P] values) of blocks of BLOCK items."""
  values = draw(recipe)
  for start in range(0, recipe.size, BLOCK):
    yield start, values[start : start + BLOCK]


def check_memory(where: str, count: int) -> None:
  """Raises ValueError if that many bytes cannot be held in this machine's memory."""
  names = ("SC_PHYS_PAGES", "SC_PAGE_SIZE")
  if not all(n in getattr(os, "sysconf_names", ()) for n in names):
    return
  there = math.prod(map(os.sysconf, names))
  if count > there:
    raise ValueError(
      f"{where}: {count / 1e9:.1f} GB are needed in memory, this machine has {there / 1e9:.1f} GB. "
      "Use a smaller size."
    )


def drawn_bytes(recipe: Recipe) -> int:
  """Bytes that `draw` needs."""
  return 3 * 8 * recipe.size * len(recipe.varying)


@functools.lru_cache(maxsize=4)
def records(recipe: Recipe) -> np.ndarray:
  """All records of a recipe, train before test; read-only, kept for the next who asks."""
  itemsize = record_dtype(recipe.metadata()).itemsize
  needed = drawn_bytes(recipe) + 2 * itemsize * recipe.size
  check_memory(f"synth {recipe.name!r}: size={recipe.size}", needed)
  out = np.concatenate([block(recipe, values) for _, values in blocks(recipe)])
  out.setflags(write=False)
  return out
