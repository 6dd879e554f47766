"""What evaluators share: their batches, on the devices and beside them."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from big_audio import config as C
from big_audio import input_pipeline, sharding
from big_audio.datasets import data_sets
from big_audio.dsp import stft


def reader(data, pp: str | None, batch_size: int, limit: int | None = None) -> Callable:
  """() -> the closeable batches of an evaluator's data set, `pp` in place of the data set's own.

  Its sources are opened once, at the first use: a folder that grows later is not divided anew.
  """
  data = C.to_dict(data)
  if pp is not None:
    data = {**data, "pp": pp}
  opened = functools.cache(lambda: data_sets.open_one_or_all(data))
  return lambda: input_pipeline.eval_batches(
    opened,
    batch_size=batch_size,
    limit=limit,
    process_index=jax.process_index(),
    process_count=jax.process_count(),
  )


def device_batches(open_batches: Callable, mesh) -> Iterator[tuple[dict, Mapping]]:
  """(global device batch, this process's host batch) one after the other."""
  with contextlib.closing(open_batches()) as batches:
    for host in batches:
      yield input_pipeline.put(host, sharding.batch_sharding(mesh)), host


def check_nfe(where: str, nfe) -> tuple[int, ...]:
  """`nfe` as a tuple; raises ValueError unless it holds numbers of evaluations."""
  nfe = (nfe,) if isinstance(nfe, int) else tuple(nfe)
  if not nfe or min(nfe) < 0:
    raise ValueError(f"evaluators.{where}: nfe={nfe!r}: expected numbers >= 0.")
  return nfe


def versions(predict: Callable, state, batch, rng, nfe, key: str) -> tuple[dict, dict]:
  """What a model makes of a batch at each number of evaluations.

  Args:
    predict: (state, batch, rng, nfe=) -> {key, "ae", ...}.
    nfe: numbers of evaluations; 0 runs the deterministic decoder alone.

  Returns:
    ({"nfe1": out[key], ..., "ae": out["ae"]}, the last whole output). The rows are zero where
    `<key>_mask` of the batch says that there is only padding.
  """
  rows = {}
  for n in nfe:
    out = predict(state, batch, rng, nfe=n)
    if key not in out:
      raise ValueError(f"evaluators: the model gives no {key!r}. {C.nearest(key, out)}")
    if n:
      rows[f"nfe{n}"] = out[key]
    if "ae" in out:
      rows["ae"] = out["ae"]
  return {k: within(batch, key, x) for k, x in rows.items()}, out


def within(batch, key: str, x):
  """`x` [B, T, C], zero where `<key>_mask` of the batch says that there is only padding."""
  mask = batch.get(f"{key}_mask")
  return x if mask is None else jnp.where(mask[..., None], x, 0)


class Paired:
  """Measures of pairs of waves, each over the recorded part of its clip.

  Args:
    measures: {name: fn(estimate, reference) -> [B]} of jax and of numpy arrays [B, T, C].
  """

  def __init__(self, measures: Mapping[str, Callable]):
    self._measures = measures

    def whole(x, y):
      return {k: _or_nan(f, x, y, jnp).reshape(x.shape[0]) for k, f in measures.items()}

    self._jitted = jax.jit(whole)

  def __call__(self, estimate, reference, recorded=None) -> dict[str, np.ndarray]:
    """{name: f32[B]} of all processes' rows; `recorded` bool[B, T] is false in the padding.

    NaN where a measure cannot take a recorded part: one too short to be reflected at its ends.
    """
    out = gather(self._jitted(estimate, reference))
    if recorded is None or (recorded := gather(recorded)).all():
      return out
    out = {k: v.copy() for k, v in out.items()}
    x, y = gather((estimate, reference))
    # By numpy: a compiled program serves one length only.
    for i in np.flatnonzero(recorded.any(1) & ~recorded.all(1)):
      here = np.flatnonzero(recorded[i])
      part = np.s_[i : i + 1, here[0] : here[-1] + 1]
      for k, f in self._measures.items():
        out[k][i] = np.reshape(_or_nan(f, x[part], y[part], np), ())
    return out


def _or_nan(measure, x, y, xp):
  try:
    return measure(x, y)
  except stft.TooShort:
    return xp.full(x.shape[0], xp.nan, x.dtype)


def gather(tree):
  """Device arrays of a batch [B, ...] -> numpy arrays of all processes' rows."""
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)
  return jax.tree.map(np.asarray, jax.device_get(tree))
