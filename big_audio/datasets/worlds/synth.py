"""Synthesised VIMH data sets without files: rendered when they are opened.

    data=dict(x=dict(source="worlds.synth", synth="moog_basic", size=4096, split="train", pp="..."))

The items are those of `datasets.vimh` in the folder that `make_vimh generate` writes with the same
arguments. Seconds for 4096 sounds on one core: simple_saw 0.3, moog_basic 0.9, moog_envelope 2.4,
pluck 4.6, fm 5.6, additive 8.2.
"""

import functools
from typing import Any

import numpy as np

from big_audio.datasets import synth_render, synths, vimh
from big_audio.datasets.vimh_records import Records

SIZE = 4096


class Source:
  """Items as `vimh.example` has them, and with `wav` the sounds.

  Attributes:
    metadata: what the JSON file of the data set would say.
    recipe: what it is made of.
  """

  def __init__(
    self,
    synth: str = "simple_saw",
    split: str = "train",
    *,
    size: int | None = None,
    seed: int = synths.SEED,
    validation: float = 0.1,
    split_seed: int = 0,
    classes: str | int = "step",
    wav: bool = False,
    **overrides: Any,
  ):
    """Renders the data set, or takes it from memory if it was opened before.

    Args:
      synth: a recipe, see `synths.build`.
      split: "train", "validation", "test" or "all", see `vimh.choose`.
      size: items of all splits together; default 4096, or what a larger recipe has.
      seed: of the parameters.
      validation: share of the train part that is kept for validation.
      split_seed: decides which items these are.
      classes: "step", a class for each step of a parameter, or 256, its byte.
      wav: also "wav" f32[T,1] and "sr" (Hz); all of the sounds then stay in memory.
      **overrides: further fields of `synths.Recipe`.

    Raises:
      ValueError: as `synths.build` and `vimh.choose`.
    """
    if size is None:
      size = max(SIZE, synths.build(synth).size)
    self.recipe = synths.build(synth, size=size, seed=seed, **overrides)
    self.metadata = m = self.recipe.metadata()
    m.heads(classes)  # raises for others
    where = f"worlds.synth({synth})"
    vimh.check_split(split, validation, split_seed, where)
    self._classes = classes
    self._records = Records(synth_render.records(self.recipe), m, where)
    self._chosen = vimh.choose(
      m.train, m.test, split, validation=validation, seed=split_seed, where=where
    )
    self._wav = _sounds(self.recipe) if wav else None

  def __len__(self) -> int:
    return len(self._chosen)

  def __getitem__(self, i: int) -> dict[str, Any]:
    at, m, r = int(self._chosen[i]), self.metadata, self._records
    id = f"train/{at}" if at < m.train else f"test/{at - m.train}"
    out = vimh.example(m, r.image(at), r.scale[at], r.labels[at], id, self._classes)
    if self._wav is not None:
      out.update(wav=self._wav[at][:, None].copy(), sr=self.recipe.sr)
    return out

  def values(self) -> dict[str, np.ndarray]:
    """{parameter: f64[len(self)]}, the true values in physical units, without any picture."""
    return vimh.decoded(self.metadata, self._records.labels[self._chosen])


@functools.lru_cache(maxsize=2)
def _sounds(recipe) -> np.ndarray:
  needed = 8 * recipe.size * int(recipe.secs * recipe.sr)
  synth_render.check_memory(f"worlds.synth({recipe.name}): wav=True, size={recipe.size}", needed)
  metadata, values = recipe.metadata(), synth_render.draw(recipe)
  out = synth_render.sounds(metadata, dict(zip(metadata.names, values.T, strict=True)))
  out.setflags(write=False)
  return out
