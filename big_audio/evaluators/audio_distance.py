"""Distances between recordings and what a codec makes of them, on paired items.

Rows: the model at each number of evaluations, its deterministic decoder ("ae"), and two controls:
"identity" (the recording itself, the ceiling) and "zero" (silence, the trivial baseline).
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from big_audio.dsp import distances
from big_audio.evaluators import common

MEASURES = ("si_sdr", "lsd", "mel")


class Evaluator:
  """SI-SDR (dB), log-spectral distance (dB), multi-scale mel distance, and payload kbps.

  Args:
    predict: needs fn: (state, batch, rng, nfe) -> {"wav", "ae" f32[B,T,C], "bits" f32[B]}.
    data: a data set of the config, with its pp; batch_size: rows of a batch.
    mesh, workdir: of the run.
    sr: Hz of the waves.
    nfe: numbers of evaluations, a row each; [0] for a codec without a refiner.
    pp: in place of the data set's own.
    limit: only the first `limit` items.
    seed: of the decoder's noise.
    fn: which function of `predict`.
  """

  def __init__(
    self, predict, *, data, batch_size, mesh, workdir, sr, nfe=(1,), pp=None, aux=(), limit=None,
    seed=0, fn="reconstruct",
  ):  # fmt: skip
    if not nfe or min(nfe) < 0:
      raise ValueError(f"evaluators.audio_distance: nfe={nfe!r}: expected numbers >= 0.")
    self._predict, self._mesh, self._sr, self._nfe = predict[fn], mesh, sr, tuple(nfe)
    self._batches, self._seed = common.reader(data, pp, batch_size, limit), seed

    def measure(estimate, reference, mask):
      values = {
        "si_sdr": distances.si_sdr(estimate, reference),
        "lsd": distances.log_spectral_distance(
          estimate, reference, window=distances.window_for(sr, 0.046)
        ),
        "mel": distances.mel_distance(estimate, reference, sr),
      }
      # SI-SDR is one number a channel.
      values = {k: jnp.mean(v.reshape(v.shape[0], -1), axis=1) for k, v in values.items()}
      return {k: jnp.sum(jnp.where(mask > 0, v, 0.0)) for k, v in values.items()}

    self._measure = jax.jit(measure)

  def run(self, state) -> Iterator[tuple[str, float]]:
    """Yields (<row>/<measure>, mean over items) and ("kbps", payload bits by time)."""
    sums: dict[str, dict[str, float]] = {}
    items = bits = secs = 0.0
    key = jax.random.key(self._seed)
    for i, (batch, _) in enumerate(common.device_batches(self._batches, self._mesh)):
      wav, mask = batch["wav"], batch["_mask"]
      rows = {"identity": wav, "zero": jnp.zeros_like(wav)}
      for n in self._nfe:
        out = self._predict(state, batch, jax.random.fold_in(key, i), nfe=n)
        if n:
          rows[f"nfe{n}"] = out["wav"]
        rows["ae"] = out["ae"]
      for name, estimate in rows.items():
        got = jax.device_get(self._measure(estimate, wav, mask))
        mine = sums.setdefault(name, dict.fromkeys(MEASURES, 0.0))
        for k, v in got.items():
          mine[k] += float(v)
      items += float(jnp.sum(mask))
      bits += float(jnp.sum(mask * out["bits"]))
      secs += float(jnp.sum(mask)) * wav.shape[1] / self._sr
    for name, values in sums.items():
      for k, v in values.items():
        yield f"{name}/{k}", v / max(items, 1.0)
    yield "kbps", bits / max(secs, 1e-9) / 1000
    yield "items", np.float64(items)
