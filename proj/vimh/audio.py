"""What the estimated parameters sound like beside the true ones.

The evaluator of type "proj.vimh.audio" renders three sounds for each item: of its true parameters,
of the estimated ones and of the constant that errs least on the training items. Distances of the
last two from the first say whether errors of parameters can be heard, which no accuracy tells.
"""

import csv
import functools
import os
import sys
from collections.abc import Iterator, Mapping

import jax
import numpy as np

from big_audio import config as C
from big_audio.datasets import build as sources
from big_audio.datasets import synth_render
from big_audio.dsp import distances, voices
from big_audio.evaluators import common

# A head whose estimates vary less than this share of the true values has stopped listening.
ALARM = 0.1


class Evaluator:
  """Distances between sounds of estimated and of true parameters; writes some as wav.

  Files: samples/<step>/<prefix>audio.csv, a line an item, and of the first `count` items
  <prefix><n>_true.wav, _estimate.wav.

  Args:
    predict: needs fn: (state, batch, rng) -> {parameter: f32[B]} in physical units.
    data: a data set of the config with `metadata` and the items' "<parameter>/value"; its split
      "train" gives the constant.
    batch_size: rows of a batch; mesh: of the run; workdir: where samples/ lies.
    pp: in place of the data set's own.
    limit: only the first `limit` items.
    count: how many to write as wav.
    prefix: of the file names.
    fn: which function of `predict`.

  Raises:
    ValueError: sounds of an unknown synthesiser, parameters that the model does not estimate.
  """

  def __init__(
    self, predict, *, data, batch_size, mesh, workdir, pp=None, aux=(), limit=128, count=4,
    prefix="", fn="values",
  ):  # fmt: skip
    self._predict = C.pick("proj.vimh.audio: fn", predict, fn)
    self._mesh, self._workdir, self._prefix = mesh, workdir, prefix
    self._count = count
    given = {k: v for k, v in C.to_dict(data).items() if k not in ("pp", "weight")}
    self._source = functools.partial(sources.build, given.pop("source"), "proj.vimh.audio: data")
    self._data = given
    self._batches = common.reader(data, pp, batch_size, limit)
    self.metadata = self._source(**self._data).metadata
    if self.metadata.voice not in voices.VOICES:
      raise ValueError(
        f"proj.vimh.audio: {self.metadata.where}: its sounds are of {self.metadata.voice!r}, which "
        f"cannot be rendered here. {C.nearest(self.metadata.voice, voices.VOICES)} Leave the "
        "evaluator out: audio=false in configs/vimh.py."
      )

  def run(self, state) -> Iterator[tuple[str, float]]:
    """Yields estimate/<measure> and constant/<measure> (means over items), <row>/<parameter>_mae,
    <parameter>_spread (deviation of the estimates over that of the true values), and degenerate,
    the number of parameters whose spread is below .1."""
    true, found = self._collect(state)
    step = int(jax.device_get(state["step"]))
    constant = self._constant(len(next(iter(true.values()))))
    sounds = {
      k: synth_render.sounds(self.metadata, v)
      for k, v in dict(true=true, estimate=found, constant=constant).items()
    }
    rows = {k: measures(sounds[k], sounds["true"], self.metadata.sr) for k in
            ("estimate", "constant")}  # fmt: skip
    for name, values in (("estimate", found), ("constant", constant)):
      for k, v in rows[name].items():
        yield f"{name}/{k}", float(np.mean(v))
      for k in true:
        yield f"{name}/{k}_mae", float(np.mean(np.abs(values[k] - true[k])))
    spread = {k: float(np.std(found[k]) / np.std(true[k])) for k in true if np.std(true[k]) > 0}
    yield from ((f"{k}_spread", v) for k, v in spread.items())
    dead = [k for k, v in spread.items() if v < ALARM]
    if dead:
      print(
        f"proj.vimh.audio: the estimates of {', '.join(dead)} hardly vary at step {step}: these "
        "heads say the same for every sound.", file=sys.stderr,
      )  # fmt: skip
    yield "degenerate", float(len(dead))
    yield "items", float(len(sounds["true"]))
    if jax.process_index() == 0:
      self._write(step, true, found, rows["estimate"], sounds)

  def _collect(self, state):
    """({parameter: true f64[N]}, {parameter: estimated f64[N]})."""
    true, found = {}, {}
    for batch, _ in common.device_batches(self._batches, self._mesh):
      out = self._predict(state, batch, jax.random.key(0))
      for name in self.metadata.names:
        key = f"{name}/value"
        if name not in out or key not in batch:
          there = out if name not in out else batch
          raise ValueError(
            f"proj.vimh.audio: {name if name not in out else key!r} is missing. "
            f"{C.nearest(name, there)}"
          )
      keep = {k: batch[f"{k}/value"] for k in self.metadata.names}
      out, keep, mask = common.gather(
        ({k: out[k] for k in self.metadata.names}, keep, batch["_mask"])
      )
      for into, values in ((true, keep), (found, out)):
        for k, v in values.items():
          into.setdefault(k, []).append(np.asarray(v, np.float64).reshape(-1)[mask > 0])
    join = lambda lists: {k: np.concatenate(v) for k, v in lists.items()}
    return join(true), join(found)

  def _constant(self, count):
    """{parameter: f64[count]}, the median of the training items."""
    train = self._source(**{**self._data, "split": "train"})
    return {k: np.full(count, np.median(v)) for k, v in train.values().items()}

  def _write(self, step, true, found, scores, sounds):
    import soundfile

    folder = os.path.join(self._workdir, "samples", str(step))
    os.makedirs(folder, exist_ok=True)
    stem = os.path.join(folder, self._prefix)
    with open(f"{stem}audio.csv", "w", newline="") as f:
      rows = csv.writer(f)
      rows.writerow(["item", *(f"{k}_{w}" for k in true for w in ("true", "estimate")), *scores])
      for i in range(len(sounds["true"])):
        pairs = [f"{d[k][i]:.6g}" for k in true for d in (true, found)]
        rows.writerow([i, *pairs, *(f"{v[i]:.6g}" for v in scores.values())])
    for i in range(min(self._count, len(sounds["true"]))):
      for name in ("true", "estimate"):
        wav = np.clip(sounds[name][i], -1, 1)
        soundfile.write(f"{stem}{i:03}_{name}.wav", wav, int(self.metadata.sr), subtype="PCM_16")


def measures(estimate, reference, sr: float) -> Mapping[str, np.ndarray]:
  """Distances of sounds, each f64[B].

  Args:
    estimate, reference: f[B,T] at sr Hz.
    sr: Hz.

  Returns:
    rmse; snr in dB (reference over difference, at most 120); correlation (Pearson's r); xcorr, the
    largest magnitude of the normalised cross-correlation over all lags; lsd, log-spectral distance
    in dB; mel, distance of log-mel spectra in decades.
  """
  x, y = np.asarray(estimate, np.float64), np.asarray(reference, np.float64)
  if x.shape != y.shape or x.ndim != 2:
    raise ValueError(f"proj.vimh.audio: expected two [B,T] alike, got {x.shape} and {y.shape}.")
  power = lambda s: np.sum(s**2, axis=1)
  ratio = power(y) / np.maximum(power(x - y), 1e-12 * power(y) + 1e-30)
  size = 1 << (2 * x.shape[1] - 1).bit_length()
  cross = np.fft.irfft(np.fft.rfft(x, size) * np.conj(np.fft.rfft(y, size)), size)
  norm = np.sqrt(power(x) * power(y))
  a, b = (s - s.mean(1, keepdims=True) for s in (x, y))
  same = np.all(x == y, axis=1)  # silence too is like itself
  alike = lambda value, best: np.where(same, best, value)
  window = min(2048, distances.window_for(int(sr), 0.064))
  wide = lambda f, **kw: f(x[..., None], y[..., None], **kw)
  return {
    "rmse": np.sqrt(np.mean((x - y) ** 2, axis=1)),
    "snr": alike(10 * np.log10(np.maximum(ratio, 1e-12)), 120.0),
    "correlation": alike(
      np.sum(a * b, axis=1) / np.maximum(np.sqrt(power(a) * power(b)), 1e-30), 1.0
    ),
    "xcorr": alike(np.max(np.abs(cross), axis=1) / np.maximum(norm, 1e-30), 1.0),
    "lsd": wide(distances.log_spectral_distance, window=window),
    "mel": wide(distances.mel_distance, sr=int(sr), windows=(window,), mels=(40,)),
  }
