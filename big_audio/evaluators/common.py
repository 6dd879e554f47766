"""What evaluators share: their batches, on the devices and beside them."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping

import jax

from big_audio import config as C
from big_audio import input_pipeline, sharding


def reader(data, pp: str | None, batch_size: int, limit: int | None = None) -> Callable:
  """() -> the closeable batches of an evaluator's data set, `pp` in place of the data set's own."""
  data = C.to_dict(data)
  if pp is not None:
    data = {**data, "pp": pp}
  return functools.partial(
    input_pipeline.eval_batches,
    data,
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
