"""Which modules of a model are called, in which order, on what: for tables and diagrams."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
import jax


@dataclass
class Call:
  """The first call of a module.

  Attributes:
    path: names from the model down; () is the model itself.
    kind: name of its class, or of its file where that is "Model".
    inputs, outputs: shapes of the arrays that went in and came out.
    owner: number of the model's call, counted from 0; modules of one model share it.
    params: {name: shape} of the whole model's parameters; of models alone.
    takes: what tells arrays apart, of the first array that went in; equal in modules that share it.
    inside: whether other modules are called in it.
  """

  path: tuple[str, ...]
  kind: str
  inputs: list[tuple[int, ...]]
  owner: int
  outputs: list[tuple[int, ...]] = field(default_factory=list)
  params: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
  takes: int = 0
  inside: bool = False


@contextlib.contextmanager
def calls() -> Iterator[list[Call]]:
  """Yields the list that every module called within is added to, in the order of their beginnings.

  A module that is called again is not listed again. Meant for code under `jax.eval_shape`; what jit
  has traced before is not run anew, so give it a function of its own.
  """
  found: list[Call] = []
  # What is kept alive keeps its id.
  seen, roots, kept = {}, {}, []

  def record(call, args, kwargs, context):
    module = context.module
    root = module.scope.root if module.scope is not None else None
    if root is None or context.method_name == "setup":
      return call(*args, **kwargs)
    arrays = _arrays((args, kwargs))
    kept.extend(arrays)
    kept.append(root)
    owner = roots.setdefault(id(root), len(roots))
    key = (owner, module.path)
    fresh = key not in seen and bool(arrays)
    if fresh:
      takes = id(arrays[0]) if arrays else 0
      shapes = [tuple(a.shape) for a in arrays]
      seen[key] = Call(module.path, _kind(type(module)), shapes, owner, takes=takes)
      found.append(seen[key])
      for n in range(len(module.path)):
        if above := seen.get((owner, module.path[:n])):
          above.inside = True
    out = call(*args, **kwargs)
    if fresh:
      seen[key].outputs = [tuple(a.shape) for a in _arrays(out)]
      if not module.path:
        tree = module.variables.get("params", {})
        flat, _ = jax.tree_util.tree_flatten_with_path(tree)
        name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
        seen[key].params = {name(path): tuple(x.shape) for path, x in flat}
    return out

  with nn.intercept_methods(record):
    yield found


def _kind(cls: type) -> str:
  # Models that have but one form are all called Model: their file says more.
  return cls.__module__.rpartition(".")[2] if cls.__name__ == "Model" else cls.__name__


def _arrays(tree: Any) -> list:
  # Whatever has a shape; keys of randomness have none that a reader wants.
  leaves = jax.tree.leaves(tree)
  return [
    x
    for x in leaves
    if hasattr(x, "shape")
    and hasattr(x, "dtype")
    and not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
  ]
