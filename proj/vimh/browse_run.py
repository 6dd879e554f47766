"""What a trained run says of the items of a data set."""

import contextlib

import jax
import numpy as np

from big_audio import config as C
from big_audio import inference, input_pipeline

BATCH = 256


def open_run(spec: str):
  """The runner of "workdir", "workdir:step" or "workdir:best".

  Raises:
    ValueError: no such run, or one whose trainer has no heads.
  """
  runner = inference.open_workdir(spec)
  missing = {"classify", "values"} - runner.trainer.predict_fns().keys()
  if missing:
    raise ValueError(f"{spec}: its trainer {runner.config.trainer.name!r} estimates no parameters.")
  return runner


def data_of(runner) -> dict:
  """The run's training data as a config has them, without split, pp and weight."""
  first = next(iter(C.to_dict(runner.config.input.data).values()))
  return {k: v for k, v in first.items() if k not in ("split", "pp", "weight", "wav")}


class Estimates:
  """A run's estimates of all items of a split.

  Attributes:
    spec: of the run; step: of its checkpoint.
    values: {parameter: f64[N]} in physical units.
    classes: {parameter: i64[N]}, the likeliest.
    wrong: {parameter: bool[N]}, whether that class is another one than the item's.
    error: f64[N], mean over heads of |estimated - true class| / (K - 1).

  Args:
    runner: of `open_run`.
    data: a data set of a config with its split; the run's own pp prepares it.
  """

  def __init__(self, runner, data):
    self.spec, self.step = runner.workdir, runner.step
    first = next(iter(C.to_dict(runner.config.input.data).values()))
    needs = {"wav": first["wav"]} if "wav" in first else {}
    data = {**data, **needs, "pp": first.get("pp", "")}
    scores, values, targets = {}, {}, {}
    with contextlib.closing(input_pipeline.eval_batches(data, batch_size=BATCH)) as batches:
      for batch in batches:
        real = np.asarray(batch["_mask"]) > 0
        clean = {k: v for k, v in inference.numeric(batch).items() if k != "_mask"}
        out = jax.device_get(runner.predict("classify", clean))
        for head in [k for k in out if f"target/{k}" in out]:
          scores.setdefault(head, []).append(out[head].argmax(-1)[real])
          targets.setdefault(head, []).append(out[f"target/{head}"][real])
          self._check(head, out[head].shape[-1], targets[head][-1])
        for head, v in jax.device_get(runner.predict("values", clean)).items():
          values.setdefault(head, []).append(np.asarray(v, np.float64)[real])
    joined = lambda lists: {k: np.concatenate(v) for k, v in lists.items()}
    self.classes, self.values, target = joined(scores), joined(values), joined(targets)
    if not self.classes:
      raise ValueError(f"{self.spec}: no head of this run is a parameter of the data set.")
    self.wrong = {k: self.classes[k] != target[k] for k in self.classes}
    top = {h: max(n - 1, 1) for h, n in C.to_dict(runner.config.models.heads.outputs).items()}
    off = [np.abs(self.classes[k] - target[k]) / top[k] for k in self.classes]
    self.error = np.mean(off, axis=0)

  def _check(self, head, n, target):
    if target.size and target.max() >= n:
      raise ValueError(
        f"{self.spec}: {head} has {n} classes, the data set has a class {target.max()}: the run "
        "was trained on a data set with other steps."
      )
