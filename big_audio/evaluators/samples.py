"""Samples to look at and listen to: samples/<step>/*.wav and *.png of the workdir."""

import os
import re
from collections.abc import Iterator

import jax
import numpy as np

from big_audio.evaluators import common, plots


def file_name(index, name):
  """A file name for example `index`: "007_" and what of its id is safe in any file system."""
  name = re.sub(r"\.(wav|flac|ogg|mp3|opus|m4a)$", "", str(name), flags=re.IGNORECASE)
  return f"{index:03}_" + re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("._")[:80]


class Evaluator:
  """Writes the first `count` examples and what the model makes of them.

  Sounds: `<id>_input.wav`, `<id>_<name>.wav` (16 bit) and `<id>.png` with their spectrograms.
  Images: `images.png`, a row for each name.

  Args:
    predict: {name: fn(state, batch, rng, **kw) -> {key: like the input, ...}}.
    data: a data set of the config, with its pp; batch_size: rows of a batch.
    mesh: of the run; workdir: where samples/ lies.
    pp: in place of the data set's own.
    count: how many examples.
    fn: which function of `predict`.
    key: what to show: "wav" f32[B,T,C] in [-1,1] or "image" f32[B,H,W,C] in [-1,1].
    variants: {name: arguments of fn}, e.g. {"nfe1": {"nfe": 1}}; of each, out[key] is shown.
    also: other outputs of the first variant to show, e.g. ("ae",).
    sr: Hz of "wav"; None takes the batch's own "sr".
    prefix: of the file names, where one run has several of these evaluators.
    seed: of the model's noise, the same at every step: then only the model changes.

  Raises:
    ValueError: an unknown function, key or output, or sounds of unknown rate.
  """

  def __init__(
    self, predict, *, data, batch_size, mesh, workdir, pp=None, aux=(), count=4,
    fn="reconstruct", key="wav", variants=None, also=(), sr=None, prefix="", seed=0,
  ):  # fmt: skip
    if fn not in predict:
      raise ValueError(f"evaluators.samples: fn={fn!r}: expected one of {', '.join(predict)}.")
    if key not in ("wav", "image"):
      raise ValueError(f"evaluators.samples: key={key!r}: expected wav or image.")
    if count < 1:
      raise ValueError(f"evaluators.samples: count={count}: expected at least 1.")
    self._predict, self._fn, self._mesh, self._workdir = predict[fn], fn, mesh, workdir
    self._count, self._key, self._also, self._sr = count, key, tuple(also), sr
    self._variants = dict(variants or {"output": {}})
    if clash := [n for n in self._also if n in self._variants] + [
      n for n in ("input",) if n in self._variants or n in self._also
    ]:
      raise ValueError(f"evaluators.samples: the name {clash[0]!r} is used twice.")
    self._prefix, self._seed = prefix, seed
    self._batches = common.reader(data, pp, batch_size, count)

  def _versions(self, state, batch, host, number):
    """{name: array of this process's rows}, the input first."""
    key = jax.random.fold_in(jax.random.key(self._seed), number)
    found = {}
    for i, (name, kw) in enumerate(self._variants.items()):
      out = self._predict(state, batch, key, **kw)
      for shown, source in [(name, self._key), *((a, a) for a in self._also if i == 0)]:
        if source not in out:
          raise ValueError(
            f"evaluators.samples: {self._fn} has no output {source!r}, only {', '.join(out)}."
          )
        found[shown] = out[source]
    if jax.process_count() > 1:  # rows lie on several hosts: every process gets all of them
      from jax.experimental import multihost_utils

      found = multihost_utils.process_allgather(found, tiled=True)
      rows = len(host["_mask"])
      first = jax.process_index() * rows
      found = {k: v[first : first + rows] for k, v in found.items()}
    if self._key not in host:
      raise ValueError(
        f"evaluators.samples: the batch has no {self._key!r}, only {', '.join(host)}. "
        f"Keep it at the end of pp: keep({self._key!r})."
      )
    found = {"input": host[self._key], **jax.device_get(found)}
    return {k: np.asarray(v, np.float32) for k, v in found.items()}

  def run(self, state) -> Iterator[tuple[str, float]]:
    """Writes the files.

    Yields (<name>_clipped, share of samples outside [-1,1] or not finite) of sounds, where one
    process sees all of them.
    """
    step = int(jax.device_get(state["step"]))
    folder = os.path.join(self._workdir, "samples", str(step))
    os.makedirs(folder, exist_ok=True)
    parts, outside, total = {}, {}, {}
    for number, (batch, host) in enumerate(common.device_batches(self._batches, self._mesh)):
      versions = self._versions(state, batch, host, number)
      mask = np.asarray(host["_mask"]) > 0
      for name, x in versions.items():
        real = x[mask]
        with np.errstate(invalid="ignore"):
          bad = ~(np.abs(real) <= 1 + 1e-6)
        outside[name] = outside.get(name, 0) + int(bad.sum())
        total[name] = total.get(name, 0) + real.size
        # Not finite becomes silence: a wav cannot hold it, and the row tells how much it was.
        versions[name] = np.clip(np.nan_to_num(x, nan=0.0, posinf=1.0, neginf=-1.0), -1, 1)
      if self._key == "image":
        for name, x in versions.items():
          parts.setdefault(name, []).append(x[mask])
        continue
      first = (number * jax.process_count() + jax.process_index()) * len(mask)
      for row in np.flatnonzero(mask):
        self._write_sound(folder, first + row, host, {k: v[row] for k, v in versions.items()}, row)
    if parts:
      suffix = f"_{jax.process_index()}" if jax.process_count() > 1 else ""
      path = os.path.join(folder, f"{self._prefix}images{suffix}.png")
      plots.image_grid(path, {k: np.concatenate(v) for k, v in parts.items()})
    for name in outside:
      if name != "input" and self._key == "wav" and jax.process_count() == 1:
        yield f"{name}_clipped", outside[name] / max(total[name], 1)

  def _write_sound(self, folder, index, host, versions, row):
    import soundfile

    sr = self._sr or (int(host["sr"][row]) if "sr" in host else None)
    if not sr:
      raise ValueError(
        "evaluators.samples: the rate of wav is unknown: set sr=, or keep('wav', 'sr') in pp."
      )
    name = host["id"][row] if "id" in host else index
    stem = os.path.join(folder, self._prefix + file_name(index, name))
    for label, wav in versions.items():
      soundfile.write(f"{stem}_{label}.wav", wav, sr, subtype="PCM_16")
    plots.spectrograms(f"{stem}.png", versions, sr, title=str(name))
