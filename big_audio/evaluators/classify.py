"""Accuracy of classifiers: over all items, for each class, and the confusion matrix."""

import csv
import os
from collections.abc import Iterator

import jax
import numpy as np

from big_audio import config as C
from big_audio.evaluators import common, plots


class Evaluator:
  """Accuracy for every head; writes samples/<step>/<prefix>confusion_<head>.csv and .png.

  Args:
    predict: needs fn: (state, batch, rng) -> {head: logits [B, N], "target/<head>": int[B]}.
    data: a data set of the config, with its pp; batch_size: rows of a batch.
    mesh: of the run; workdir: where samples/ lies.
    pp: in place of the data set's own.
    names: {head: list of names of its classes}; else their numbers.
    prefix: of the file names, where one run has several of these evaluators.
    per_class: a value for each class too; of many classes the files tell more.
    limit: only the first `limit` items.
    fn: which function of `predict`.
  """

  def __init__(
    self, predict, *, data, batch_size, mesh, workdir, pp=None, aux=(), names=None, prefix="",
    limit=None, fn="classify", per_class=True,
  ):  # fmt: skip
    self._predict = C.pick("evaluators.classify: fn", predict, fn)
    self._mesh, self._workdir, self._prefix = mesh, workdir, prefix
    self._names, self._per_class = C.to_dict(names or {}), per_class
    self._batches = common.reader(data, pp, batch_size, limit)

  def run(self, state) -> Iterator[tuple[str, float]]:
    """Yields <head>/accuracy, <head>/balanced_accuracy (mean over classes that occur),
    <head>/class/<name> (share of its items found; with per_class), and items."""
    counts: dict[str, np.ndarray] = {}
    for batch, _ in common.device_batches(self._batches, self._mesh):
      out = self._predict(state, batch, jax.random.key(0))
      out, mask = common.gather((out, batch["_mask"]))
      for head in [k for k in out if f"target/{k}" in out]:
        n = out[head].shape[-1]
        target, found = out[f"target/{head}"][mask > 0], out[head].argmax(-1)[mask > 0]
        if target.size and not 0 <= target.min() <= target.max() < n:
          raise ValueError(
            f"evaluators.classify: {head} has {n} classes, the data classes "
            f"{target.min()} to {target.max()}."
          )
        matrix = counts.setdefault(head, np.zeros((n, n), np.int64))
        np.add.at(matrix, (target, found), 1)
    if not counts:
      raise ValueError("evaluators.classify: the batch holds no target; keep it at the end of pp.")
    for head, matrix in counts.items():
      names = self._names.get(head) or [str(i) for i in range(len(matrix))]
      total, right = matrix.sum(1), np.diag(matrix)
      yield f"{head}/accuracy", float(right.sum() / matrix.sum())
      occurs = total > 0
      yield f"{head}/balanced_accuracy", float(np.mean(right[occurs] / total[occurs]))
      for name, hit, n in zip(names, right, total, strict=True):
        if n and self._per_class:
          yield f"{head}/class/{name}", float(hit / n)
      if jax.process_index() == 0:
        self._write(int(jax.device_get(state["step"])), head, names, matrix)
    yield "items", float(matrix.sum())

  def _write(self, step, head, names, matrix):
    folder = os.path.join(self._workdir, "samples", str(step))
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, f"{self._prefix}confusion_{head}.csv")
    with open(path, "w", newline="") as f:
      rows = csv.writer(f)
      rows.writerow(["true \\ found", *names])
      rows.writerows([name, *map(int, row)] for name, row in zip(names, matrix, strict=True))
    plots.confusion(f"{path.removesuffix('.csv')}.png", matrix, names, title=head)
