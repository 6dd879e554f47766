"""Means of the training loss and its logs over a data set, under the averaged parameters."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from big_audio.evaluators import common


class Evaluator:
  """Mean over all examples of what the trainer's loss logs.

  Args:
    predict: needs "loss" (the loop adds it): (state, batch, rng) -> {name: (sum, weight)}.
    data: a data set of the config, with its pp; batch_size: rows of a batch.
    limit: only the first `limit` examples.
    seed: of the randomness of the loss; the same in every run, so that values are comparable.
  """

  def __init__(
    self, predict, *, data, batch_size, mesh, workdir, pp=None, aux=(), limit=None, seed=0
  ):
    self._predict, self._mesh, self._seed = predict["loss"], mesh, seed
    self._batches = common.reader(data, pp, batch_size, limit)

  def run(self, state) -> Iterator[tuple[str, float]]:
    """Yields (name, mean) for the loss and each of its logs."""
    sums = {}
    key = jax.random.key(self._seed)
    for i, (batch, _) in enumerate(common.device_batches(self._batches, self._mesh)):
      out = self._predict(state, batch, jax.random.fold_in(key, i))
      sums = out if not sums else jax.tree.map(jnp.add, sums, out)
    for name, (value, weight) in jax.device_get(sums).items():
      yield name, float(value) / max(float(weight), 1e-12)
