"""Distances between recordings and what a codec makes of them, on paired items.

Rows: the model at each number of evaluations, its deterministic decoder ("ae"), and two controls:
"identity" (the recording itself, the ceiling) and "zero" (silence, the trivial baseline).

Where the batch has `wav_mask` (pp `pad(mask=True)`), distances and kbps are those of the recorded
part alone. Measures by packages get the clip with its silence: they look for speech themselves and
refuse clips that are shorter than their windows. All are of the clips that `pp` cuts, not of whole
recordings.
"""

import functools
import sys
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from big_audio import config as C
from big_audio.dsp import distances, perceptual
from big_audio.evaluators import bootstrap, common

DEFAULT = ("si_sdr", "lsd", "mel")
# name -> fn(estimate, reference, sr), [B, T, C] -> [B]
DISTANCES = {
  "si_sdr": lambda x, y, sr: distances.si_sdr(x, y),
  "lsd": lambda x, y, sr: distances.log_spectral_distance(
    x, y, window=distances.window_for(sr, 0.046)
  ),
  "mel": distances.mel_distance,
  "dac_mel": distances.dac_mel_distance,
  "dac_train_mel": distances.dac_train_mel_distance,
  "dac_stft": lambda x, y, sr: distances.dac_stft_distance(x, y),
  "mr_stft": lambda x, y, sr: distances.mr_stft_distance(x, y),
}
MEASURES = (*DISTANCES, *perceptual.MEASURES)
# As published, waves are reflected at their ends, for which a clip can be too short.
REFLECTED = ("dac_mel", "dac_train_mel", "dac_stft", "mr_stft")


class Evaluator:
  """Paired measures, and payload kbps.

  Args:
    predict: needs fn: (state, batch, rng, nfe) -> {"wav", "ae" f32[B,T,C], "bits" f32[B]}.
    data: a data set of the config, with its pp; batch_size: rows of a batch.
    mesh, workdir: of the run.
    sr: Hz of the waves.
    nfe: numbers of evaluations, a row each; [0] for a codec without a refiner.
    measures: of MEASURES: si_sdr (dB), lsd (dB), mel, dac_mel, dac_train_mel, dac_stft, mr_stft
      (dsp/distances.py), pesq_nb, pesq_wb, stoi, estoi, visqol_speech, visqol_audio
      (dsp/perceptual.py, on the host: up to seconds an item).
    ci: also 95 % bootstrap intervals over items, <row>/<measure>_lo and _hi.
    pp: in place of the data set's own.
    limit: only the first `limit` items.
    seed: of the decoder's noise.
    fn: which function of `predict`.

  Raises:
    ValueError: an unknown measure, with the nearest names, or a negative number of evaluations.
  """

  def __init__(
    self, predict, *, data, batch_size, mesh, workdir, sr, nfe=(1,), measures=DEFAULT, ci=False,
    pp=None, aux=(), limit=None, seed=0, fn="reconstruct",
  ):  # fmt: skip
    for m in measures:
      if m not in MEASURES:
        raise ValueError(
          f"evaluators.audio_distance: measure {m!r} is unknown. {C.nearest(m, MEASURES)}"
        )
    self._predict, self._mesh, self._sr = predict[fn], mesh, sr
    self._nfe, self._ci = common.check_nfe("audio_distance", nfe), ci
    self._batches, self._seed = common.reader(data, pp, batch_size, limit), seed
    self._measures = tuple(measures)
    self._perceptual = [m for m in measures if m in perceptual.MEASURES]
    for m in self._perceptual:
      if not perceptual.available(m) and jax.process_index() == 0:
        print(
          f"evaluators.audio_distance: {m} is unavailable, its package is not installed: "
          "`uv sync --extra metrics` or `pip install -e '.[metrics]'`.",
          file=sys.stderr,
        )
    self._measure = common.Paired(
      {m: functools.partial(DISTANCES[m], sr=sr) for m in measures if m in DISTANCES}
    )

  def run(self, state) -> Iterator[tuple[str, float]]:
    """Yields <row>/<measure>, its mean over items, and ("kbps", payload bits by time).

    Of measures by packages and of REFLECTED also <row>/<measure>_failed, the number of items
    without a score (they are left out of the mean; NaN if none has one), or unavailable/<measure> =
    1 and no mean.
    """
    values: dict[str, dict[str, list]] = {}
    scores: dict[str, perceptual.Scores] = {}
    items = bits = secs = 0.0
    key = jax.random.key(self._seed)
    for i, (batch, _) in enumerate(common.device_batches(self._batches, self._mesh)):
      wav, mask, recorded = batch["wav"], batch["_mask"], batch.get("wav_mask")
      rng = jax.random.fold_in(key, i)
      found, out = common.versions(self._predict, state, batch, rng, self._nfe, "wav")
      rows = {"identity": wav, "zero": jnp.zeros_like(wav), **found}
      real = common.gather(mask) > 0
      for name, estimate in rows.items():
        got = self._measure(estimate, wav, recorded)
        mine = values.setdefault(name, {})
        for k, v in got.items():
          mine.setdefault(k, []).append(v[real])
        if self._perceptual:
          heard = scores.setdefault(name, perceptual.Scores(self._perceptual, self._sr))
          x, y = common.gather((estimate, wav))
          for n in np.flatnonzero(real):
            heard.add(y[n], x[n])
      items += float(jnp.sum(mask))
      bits += float(jnp.sum(mask * out["bits"])) if "bits" in out else float("nan")
      samples = wav.shape[1] if recorded is None else jnp.sum(recorded, axis=1)
      secs += float(jnp.sum(mask * samples)) / self._sr
    for name, mine in values.items():
      for m in self._measures:
        if m in mine:
          found = np.concatenate(mine[m])
          yield from bootstrap.rows(f"{name}/{m}", found, ci=self._ci)
          if m in REFLECTED:
            yield f"{name}/{m}_failed", float(np.isnan(found).sum())
        elif (found := scores[name].values[m]) is not None:
          yield from bootstrap.rows(f"{name}/{m}", found, ci=self._ci)
          yield f"{name}/{m}_failed", float(len(scores[name].failed[m]))
    for m in self._perceptual:
      if any(s.values[m] is None for s in scores.values()):
        yield f"unavailable/{m}", 1.0
    if np.isfinite(bits):
      yield "kbps", bits / max(secs, 1e-9) / 1000
    yield "items", items
