"""One mesh axis, `data`: batches are split over it; parameters replicate or shard by regex."""

import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from big_audio import trees

AXIS = "data"
STRATEGIES = ("replicate", "fsdp")


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
  """A mesh over all devices (or the given ones) with the single axis `data`."""
  devices = jax.devices() if devices is None else devices
  return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def data_shards() -> int:
  """Number of shards of the batch under the mesh that `jax.set_mesh` put in force (1 without)."""
  mesh = jax.sharding.get_abstract_mesh()
  return 1 if mesh.empty else mesh.shape[AXIS]


def replicated(mesh: Mesh) -> NamedSharding:
  """Every device holds the whole array."""
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The leading dimension is split over `data`."""
  return NamedSharding(mesh, PartitionSpec(AXIS))


def check_batch(batch_size: int, mesh: Mesh, accum_steps: int = 1, where="config.input.batch_size"):
  """Raises ValueError unless the batch divides evenly over devices and micro-batches."""
  n = mesh.shape[AXIS] * accum_steps
  if batch_size % n:
    lower, upper = batch_size // n * n, -(-batch_size // n) * n
    raise ValueError(
      f"{where}={batch_size} must be a multiple of {mesh.shape[AXIS]} devices x {accum_steps} "
      f"accumulation steps = {n}. Use {f'{lower} or ' if lower else ''}{upper}."
    )


def infer(tree: Any, mesh: Mesh, rules: Sequence[Sequence[str]], min_size: int = 2**12) -> Any:
  """Shardings for a tree of shapes.

  Args:
    tree: arrays or ShapeDtypeStructs.
    mesh: from `make_mesh`.
    rules: (regex, "replicate" | "fsdp") pairs; the first whose regex is found in a leaf's name
      decides. "fsdp" splits the largest dimension that the device count divides. Optimizer state
      follows its parameter, since its names end in the parameter's name.
    min_size: leaves with fewer elements stay replicated.

  Raises:
    ValueError: an unknown strategy, or a leaf that no rule covers.
  """
  n = mesh.shape[AXIS]
  for _, strategy in rules:
    if strategy not in STRATEGIES:
      raise ValueError(f"config.sharding: {strategy!r} is unknown. Known: {', '.join(STRATEGIES)}.")

  def one(name, x):
    strategy = next((s for pattern, s in rules if re.search(pattern, name)), None)
    if strategy is None:
      raise ValueError(f'config.sharding: no rule covers {name!r}; end with (".*", "replicate").')
    spec = [None] * len(x.shape)
    if strategy == "fsdp" and int(np.prod(x.shape)) >= min_size:
      even = [(d, i) for i, d in enumerate(x.shape) if d % n == 0]
      if even:
        spec[max(even)[1]] = AXIS
    return NamedSharding(mesh, PartitionSpec(*spec))

  return trees.map_with_name(one, tree)
