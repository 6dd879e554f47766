"""How far the distribution of what a model makes is from that of the data, with the floor.

  evals.fid = dict(type="frechet", key="image", aux=dict(embed="runs/classifier:embed"), nfe=[1, 4],
                   measures=["fd", "kid", "manifold"], data=..., batch_size=64)
  evals.fd = dict(type="frechet", key="wav", embed="logmel", sr=8000, ...)

Embeddings are pluggable: log-mel frames, or a function of another run that gives "features".

Finite sets of one distribution are apart as well, so every distance comes with its floor. A row
`<row>/fd_half` compares reconstructions of a random half of the items with the originals of the
other half; `real/fd_half`, the floor at the same size, compares originals with originals.
So `fd_half` is the number to compare with its floor, and the one for tables.
`<row>/fd` compares all items: with their own originals (which favours them: the sets are paired, so
it can lie below any floor), or with the `reference` set, which then has the floor `real/fd`, its
distance from the originals.

Log-mel frames whose centre lies in the padding of a clip (`wav_mask` of the batch) are left out;
another run's embedding is of the padded clip, as it was trained.
"""

from collections.abc import Iterator

import jax
import numpy as np

from big_audio import config as C
from big_audio.dsp import distances, mel
from big_audio.evaluators import common, distributions

LOG_MEL = "logmel"
MEASURES = ("fd", "kid", "manifold")


def log_mel_frames(wav, sr: int, *, n_mels: int = 64, secs: float = 0.032, floor: float = 1e-3):
  """Log-mel frames as features: f32[..., T, C] at sr Hz -> [..., F, n_mels].

  log10 of Slaney mel magnitudes, averaged over channels. The floor of -60 dB re a mel magnitude of
  1 keeps digital silence, which no codec returns exactly, from outweighing all else.

  Args:
    wav: numpy or jax array in [-1, 1].
    sr: Hz.
    n_mels: filters; where they are narrower than a bin of the FFT some stay constant.
    secs: window, rounded to a power of two of samples; the hop is a quarter of it.
    floor: least magnitude.
  """
  xp = wav.__array_namespace__()
  window = _window(sr, secs)
  frames = mel.mel_spectrogram(wav, sr, window, window // 4, n_mels, pad_mode="constant")
  return xp.log10(xp.maximum(xp.mean(frames, axis=-1), floor))


def _window(sr, secs=0.032):
  return distances.window_for(sr, secs)


class Evaluator:
  """Frechet distance, kernel distance and manifold measures of reconstructions.

  Args:
    predict: needs fn: (state, batch, rng, nfe) -> {key, "ae"}.
    data: a data set of the config, with its pp; batch_size: rows of a batch.
    mesh, workdir: of the run.
    pp: in place of the data set's own.
    aux: {name: function of another run}; its output "features" is [B, D] or [B, F, D].
    key: "wav" or "image".
    embed: "logmel" or a name in aux; None: the only one of aux, or "logmel" for waves.
    sr: Hz of the waves.
    nfe: numbers of evaluations, a row each.
    reference: a data set of real items to compare with in place of the originals themselves.
    measures: "fd" (Frechet distance), "kid" (kernel distance), "manifold" (precision, recall,
      density, coverage).
    halves: random splits into halves that the `_half` values are means over.
    neighbours: k of manifold; max_rows: at most so many rows of each set enter it.
    subsets, subset_size: of kid.
    limit: only the first `limit` items.
    fn: which function of `predict`.
    seed: of the model's noise, the halves and the subsets.

  Raises:
    ValueError: an unknown name, an embedding that is not there, or one made for another rate.
  """

  def __init__(
    self, predict, *, data, batch_size, mesh, workdir, pp=None, aux=None, key="wav", embed=None,
    sr=None, nfe=(1,), reference=None, measures=("fd", "kid"), halves=4, neighbours=5,
    max_rows=3000, subsets=20, subset_size=1000, limit=None, fn="reconstruct", seed=0,
  ):  # fmt: skip
    where = "evaluators.frechet"
    aux = dict(aux or {})
    if key not in ("wav", "image"):
      raise ValueError(f"{where}: key={key!r}: expected wav or image.")
    for m in measures:
      if m not in MEASURES:
        raise ValueError(f"{where}: measure {m!r} is unknown. {C.nearest(m, MEASURES)}")
    if embed is None:
      embed = next(iter(aux)) if len(aux) == 1 else LOG_MEL if key == "wav" else ""
    known = [*aux, *([LOG_MEL] if key == "wav" else [])]
    if embed not in known:
      raise ValueError(
        f"{where}: embed={embed!r}: expected one of {known}. Name a trained embedder: "
        'aux=dict(embed="WORKDIR:embed").'
      )
    if embed == LOG_MEL:
      if not sr:
        raise ValueError(f"{where}: embed={LOG_MEL!r} needs sr, the rate of the waves in Hz.")
      frames = jax.jit(lambda x: log_mel_frames(x, sr))
      self._embed, self._hop = frames, _window(sr) // 4
    else:
      self._embed, self._hop = lambda x: aux[embed]({key: x})["features"], None
      theirs = getattr(aux[embed], "config", {}).get("models", {})
      rates = {m["sr"] for m in theirs.values() if m.get("sr")}
      if key == "wav" and sr and rates - {sr}:
        raise ValueError(f"{where}: {aux[embed].spec} was trained at {rates} Hz, not at {sr}.")
    self._predict, self._mesh, self._key = C.pick(where, predict, fn), mesh, key
    self._nfe, self._measures = common.check_nfe("frechet", nfe), tuple(measures)
    self._halves, self._k, self._max_rows = halves, neighbours, max_rows
    self._subsets, self._subset_size, self._seed = subsets, subset_size, seed
    self._batches = common.reader(data, pp, batch_size, limit)
    # The same operations, unless the set names its own, and at most as many items.
    pp = C.to_dict(data).get("pp", "") if pp is None else pp
    self._reference = None
    if reference is not None:
      own = C.to_dict(reference).get("pp", pp)
      self._reference = common.reader(reference, own, batch_size, limit)

  def _features(self, x, mask, recorded):
    """[F, D] of each item in `mask`, of the frames that are recorded."""
    out = np.asarray(jax.device_get(self._embed(x)), np.float64)
    out = out[:, None] if out.ndim == 2 else out
    here = np.ones(out.shape[:2], bool)
    if self._hop and recorded is not None:
      here = recorded[:, np.maximum(np.arange(out.shape[1]) * self._hop - 1, 0)]
    return [out[n][here[n]] for n in np.flatnonzero(mask)]

  def _collect(self, state):
    """{row: list of [F, D]}, "real" first."""
    found: dict[str, list] = {}
    key = jax.random.key(self._seed)
    for i, (batch, _) in enumerate(common.device_batches(self._batches, self._mesh)):
      rng = jax.random.fold_in(key, i)
      rows, _ = common.versions(self._predict, state, batch, rng, self._nfe, self._key)
      rows = {"real": batch[self._key], **rows}
      given = batch["_mask"], batch.get(f"{self._key}_mask")
      rows, (mask, recorded) = common.gather((rows, given))
      for name, x in rows.items():
        found.setdefault(name, []).extend(self._features(x, mask > 0, recorded))
    return found

  def _collect_reference(self):
    parts = []
    for batch, _ in common.device_batches(self._reference, self._mesh):
      given = batch[self._key], batch["_mask"], batch.get(f"{self._key}_mask")
      x, mask, recorded = common.gather(given)
      parts += self._features(x, mask > 0, recorded)
    return parts

  def _compare(self, real, fake):
    """{measure: value} of two sets of items [F, D]."""
    real, fake = np.concatenate(real), np.concatenate(fake)
    out = {}
    if "fd" in self._measures:
      out["fd"] = distributions.frechet_distance(real, fake)
    if "kid" in self._measures:
      out["kid"], _ = distributions.kernel_distance(
        real, fake, subsets=self._subsets, subset_size=self._subset_size, seed=self._seed
      )
    if "manifold" in self._measures:
      rng = np.random.default_rng(self._seed)
      take = lambda s: s[np.sort(rng.permutation(len(s))[: self._max_rows])]
      out |= vars(distributions.manifold(take(real), take(fake), k=self._k))
    return out

  def run(self, state) -> Iterator[tuple[str, float]]:
    """Yields (<row>/<measure>, value), <row>/<measure>_half and its deviation over the splits
    (_half_std), and the sizes of the sets. All rows share the splits: compare them with each other.
    """
    found = self._collect(state)
    real = found["real"]
    if len(real) < 2:
      raise ValueError("evaluators.frechet: needs at least two items; raise limit.")
    reference = real if self._reference is None else self._collect_reference()
    rng = np.random.default_rng(self._seed)
    halves = [np.array_split(rng.permutation(len(real)), 2) for _ in range(self._halves)]
    for name, items in found.items():
      if not (name == "real" and self._reference is None):
        for k, v in self._compare(reference, items).items():
          yield f"{name}/{k}", v
      crossed = [self._compare([real[i] for i in a], [items[i] for i in b]) for a, b in halves]
      for k in crossed[0] if crossed else ():
        split = [c[k] for c in crossed]
        yield f"{name}/{k}_half", float(np.mean(split))
        yield f"{name}/{k}_half_std", float(np.std(split))
    yield "items", float(len(real))
    yield "reference_items", float(len(reference))
    yield "features_per_item", float(np.mean([len(item) for item in real]))
    yield "dims", float(real[0].shape[1])
