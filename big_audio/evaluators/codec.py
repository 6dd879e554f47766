"""What else to know of a codec: its codes, how it drifts, what its noise changes, and its speed.

evals.codec = dict(type="codec", sr=8000, nfe=[1, 2], sizes=[1000, 1000, 1000],
                   measures=["codes", "drift", "diversity", "speed"], data=..., batch_size=16)

Codes and distances are of the recorded part of a clip, where the batch has `<key>_mask`.
"""

import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from big_audio import config as C
from big_audio.dsp import distances
from big_audio.evaluators import code_stats, common

MEASURES = ("codes", "drift", "diversity", "speed")


class Evaluator:
  """Codebook usage and entropy, re-encoding drift, diversity over seeds, real-time factors.

  Args:
    predict: needs fn: (state, batch, rng, nfe) -> {key, "ae", "codes"} and "code_mask" bool[B, F]
      where not all codes count; speed also encode and decode where the trainer has them.
    data: a data set of the config, with its pp; batch_size: rows of a batch.
    mesh, workdir: of the run.
    pp: in place of the data set's own.
    measures: which of MEASURES.
    key: "wav" (distances are mel distances) or "image" (mean squared errors).
    sr: Hz of waves.
    nfe: numbers of evaluations, a row each.
    sizes: codebook sizes of the groups, for "codes".
    generations: how often drift encodes and decodes.
    seeds: noises that diversity compares, two or more.
    repeats: timed runs; the median counts.
    limit: only the first `limit` items; speed uses the first batch alone.
    fn: which function of `predict`.
    seed: of the first noise.

  Raises:
    ValueError: an unknown measure, or an argument that a measure needs is missing.
  """

  def __init__(
    self, predict, *, data, batch_size, mesh, workdir, pp=None, aux=(), measures=MEASURES,
    key="wav", sr=None, nfe=(1,), sizes=None, generations=4, seeds=3, repeats=3, limit=None,
    fn="reconstruct", seed=0,
  ):  # fmt: skip
    where = "evaluators.codec"
    for m in measures:
      if m not in MEASURES:
        raise ValueError(f"{where}: measure {m!r} is unknown. {C.nearest(m, MEASURES)}")
    if key not in ("wav", "image"):
      raise ValueError(f"{where}: key={key!r}: expected wav or image.")
    if key == "wav" and not sr:
      raise ValueError(f"{where}: key='wav' needs sr, the rate of the waves in Hz.")
    if "codes" in measures and not sizes:
      raise ValueError(f"{where}: codes needs sizes, the codebook size of each group.")
    if seeds < 2 or generations < 1 or repeats < 1:
      raise ValueError(
        f"{where}: expected seeds >= 2, generations and repeats >= 1, got {seeds}, {generations} "
        f"and {repeats}."
      )
    if "speed" in measures and key != "wav":
      raise ValueError(f"{where}: speed is a real-time factor and needs key='wav'.")
    self._fns, self._predict = predict, C.pick(where, predict, fn)
    self._mesh, self._key, self._sr, self._sizes = mesh, key, sr, sizes
    self._nfe, self._measures = common.check_nfe("codec", nfe), tuple(measures)
    self._generations, self._seeds, self._repeats = generations, seeds, repeats
    self._batches, self._seed = common.reader(data, pp, batch_size, limit), seed

    def distance(estimate, reference):
      if key == "image":
        return jnp.mean(jnp.square(estimate - reference), axis=tuple(range(1, estimate.ndim)))
      return distances.mel_distance(estimate, reference, sr)

    paired = common.Paired({"": distance})
    self._distance = lambda x, batch, y: paired(x, y, batch.get(f"{key}_mask"))[""]

  def run(self, state) -> Iterator[tuple[str, float]]:
    """Yields

    codes/<name>: see `code_stats.code_statistics`;
    drift/<row>/gen<i>: distance to the recording after i times of encoding and decoding, and
      drift/<row>/gen<i>_same_codes: share of codes equal to those of the generation before;
    diversity/<row>: mean distance between outputs of two seeds, diversity/<row>_to_original: of
      one output to the recording, both of the same items;
    z/rtf_encode, z/rtf_<row>: seconds of computation per second of sound in a batch of
      z/rtf_batch items, encoding and decoding (or both where there is one function, or no codes).
    """
    key = jax.random.key(self._seed)
    codes: list[np.ndarray] = []
    sums: dict[str, float] = {}
    items = 0.0

    def add(name, values, real):
      sums[name] = sums.get(name, 0.0) + float(np.sum(values[real]))

    for i, (batch, _) in enumerate(common.device_batches(self._batches, self._mesh)):
      real, rng = common.gather(batch["_mask"]) > 0, jax.random.fold_in(key, i)
      items += float(np.sum(real))
      if "codes" in self._measures:
        found, inside = common.gather(self._codes(state, batch, rng))
        codes += [found[n][inside[n]] for n in np.flatnonzero(real)]
      for nfe in self._nfe:
        row = f"nfe{nfe}" if nfe else "ae"
        if "drift" in self._measures:
          for name, values in self._drift(state, batch, rng, nfe):
            add(f"drift/{row}/{name}", values, real)
        if "diversity" in self._measures:
          for name, values in self._diversity(state, batch, rng, nfe):
            add(f"diversity/{row}{name}", values, real)
      if i == 0 and "speed" in self._measures:
        yield from self._speed(state, batch, rng)
    if codes:
      for k, v in code_stats.code_statistics(codes, self._sizes).items():
        yield f"codes/{k}", v
    for k, v in sums.items():
      yield k, v / max(items, 1.0)
    yield "items", items

  def _codes(self, state, batch, rng):
    out = self._predict(state, batch, rng, nfe=0)
    if "codes" not in out:
      raise ValueError(f"evaluators.codec: the model gives no codes, only {', '.join(out)}.")
    return self._marked(out)

  def _marked(self, out):
    """(codes [B, F, G], bool[B, F]: which of them count), or None of a continuous bottleneck."""
    if "codes" not in out or not out["codes"].shape[-1]:
      return None
    return out["codes"], out.get("code_mask", jnp.ones(out["codes"].shape[:2], bool))

  def _output(self, state, batch, rng, nfe):
    out = self._predict(state, batch, rng, nfe=nfe)
    x = out["ae"] if nfe == 0 and "ae" in out else out[self._key]
    return common.within(batch, self._key, x), self._marked(out)

  def _drift(self, state, batch, rng, nfe):
    x, before = batch[self._key], None
    for i in range(1, self._generations + 1):
      # Another noise each time, as files that are coded again have.
      rng, now = jax.random.split(rng)
      x, marked = self._output(state, {**batch, self._key: x}, now, nfe)
      yield f"gen{i}", self._distance(x, batch, batch[self._key])
      if before is not None and marked is not None:
        codes, inside = marked
        same = jnp.mean(codes == before[0], axis=-1)  # [B, F]
        count = jnp.maximum(jnp.sum(inside, axis=1), 1)
        yield f"gen{i}_same_codes", common.gather(jnp.sum(same * inside, axis=1) / count)
      before = marked

  def _diversity(self, state, batch, rng, nfe):
    outputs = [
      self._output(state, batch, jax.random.fold_in(rng, s), nfe)[0] for s in range(self._seeds)
    ]
    pairs = [(a, b) for n, a in enumerate(outputs) for b in outputs[n + 1 :]]
    yield "", sum(self._distance(a, batch, b) for a, b in pairs) / len(pairs)
    original = batch[self._key]
    yield "_to_original", sum(self._distance(a, batch, original) for a in outputs) / len(outputs)

  def _speed(self, state, batch, rng):
    wav = batch["wav"]
    secs = wav.shape[0] * wav.shape[1] / self._sr

    def timed(fn):
      jax.block_until_ready(fn())  # compiles
      times = []
      for _ in range(self._repeats):
        start = time.perf_counter()
        jax.block_until_ready(fn())
        times.append(time.perf_counter() - start)
      return float(np.median(times)) / secs

    encode, codes = lambda: self._fns["encode"](state, {"wav": wav}, rng), None
    if {"encode", "decode"} <= self._fns.keys():
      codes = encode()["codes"]
    if codes is not None and codes.shape[-1]:
      yield "z/rtf_encode", timed(encode)
      rows, frames = codes.shape[:2]
      tokens = {
        "codes": codes,
        "mask": jnp.ones((rows, frames), bool),
        "token": jnp.broadcast_to(jnp.arange(frames, dtype=jnp.int32), (rows, frames)),
        "seed": jnp.zeros((rows,), jnp.uint32),
      }
      run = lambda nfe: self._fns["decode"](state, tokens, rng, nfe=nfe)
    else:
      run = lambda nfe: self._predict(state, batch, rng, nfe=nfe)
    for nfe in self._nfe:
      yield f"z/rtf_{f'nfe{nfe}' if nfe else 'ae'}", timed(lambda n=nfe: run(n))
    yield "z/rtf_batch", float(wav.shape[0])
