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


def judged(runner) -> dict:
  """The data set of the run's first evaluator, with its pp: without what only training does to it.

  Raises:
    ValueError: the run has no evaluator.
  """
  found = [C.to_dict(e.data) for e in runner.config.evals.values() if "source" in e.data]
  if not found:
    raise ValueError(f"{runner.workdir}: its config has no evaluator to take the data's pp from.")
  return {"pp": "", **found[0]}


def check(runner, metadata, classes="step") -> None:
  """Raises a ValueError unless a data set's parameters are those that a run estimates."""
  heads = C.to_dict(runner.config.trainer.heads)
  outputs = C.to_dict(runner.config.models.heads.outputs)
  for name, head in heads.items():
    C.pick(f"{runner.workdir}: the data set's parameters", dict.fromkeys(metadata.names), name)
    p = metadata.parameter(name)
    there = (p.min, p.max, p.count(classes))
    if there != (head.get("min"), head.get("max"), outputs[name]):
      raise ValueError(
        f"{runner.workdir}: {name} is {_text(head.get('min'))} to {_text(head.get('max'))} in "
        f"{outputs[name]} classes for this run, {p.min:g} to {p.max:g} in {there[2]} in the data "
        "set."
      )


def _text(number) -> str:
  return "?" if number is None else f"{number:g}"


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

  Raises:
    ValueError: the run's own data set, with splits that are cut otherwise.
  """

  def __init__(self, runner, data):
    self.spec, self.step = runner.workdir, runner.step
    # The test items of a smaller data set of the same seed were trained on.
    input_pipeline.check_cut(runner.config.input.data, data, where=runner.workdir)
    own = judged(runner)
    needs = {"wav": own["wav"]} if "wav" in own else {}
    data = {**data, **needs, "pp": own["pp"]}
    scores, values, targets = {}, {}, {}
    with contextlib.closing(input_pipeline.eval_batches(data, batch_size=BATCH)) as batches:
      for batch in batches:
        real = np.asarray(batch["_mask"]) > 0
        clean = {k: v for k, v in inference.numeric(batch).items() if k != "_mask"}
        out = jax.device_get(runner.predict("classify", clean))
        for head in [k for k in out if f"target/{k}" in out]:
          scores.setdefault(head, []).append(out[head].argmax(-1)[real])
          targets.setdefault(head, []).append(out[f"target/{head}"][real])
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
