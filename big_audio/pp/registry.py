"""The table of preprocessing operations and the one error type that they raise.

An operation is a factory: it takes the arguments written in a config and returns a function
`(example, rng) -> example`, where `example` is a flat dict and `rng` a `numpy.random.Generator`
that belongs to this example alone. Operations are numpy only, so that they run in any worker.
"""

import difflib
from collections.abc import Callable
from typing import Any

Example = dict[str, Any]

OPS: dict[str, Callable] = {}


class OpError(ValueError):
  """What an operation has to say about an example, as a predicate: `needs 8000 samples, ...`.

  `builder.build` puts the operation's own text in front: `pp: crop(secs=1) needs ...`.
  """


def op(name: str) -> Callable:
  """Registers the decorated factory as the operation `name`.

  Raises:
    ValueError: another factory already has that name.
  """

  def register(factory: Callable) -> Callable:
    taken = OPS.get(name)
    # The same definition arriving twice is a reloaded module (notebooks), not a clash.
    if taken is not None and (taken.__module__, taken.__qualname__) != (
      factory.__module__,
      factory.__qualname__,
    ):
      raise ValueError(
        f'pp: operation "{name}" of {factory.__module__} is already defined in {taken.__module__}.'
      )
    OPS[name] = factory
    return factory

  return register


def take(example: Example, key: str) -> Any:
  """Returns `example[key]`.

  Raises:
    OpError: there is no such key; names those that exist.
  """
  try:
    return example[key]
  except KeyError:
    raise OpError(
      f'finds no "{key}" in the example. It has {quoted(example)}.{nearest(key, example)}'
    ) from None


def of_any_length(example: Example, key: str) -> Any:
  """Returns `example[key]` to an operation that changes its length.

  Raises:
    OpError: there is no such key, or it has a mask, which would no longer fit.
  """
  if f"{key}_mask" in example:
    raise OpError(
      f'changes the length of "{key}", which "{key}_mask" would no longer fit. Put it before '
      "pad(mask=True): only crop may follow that."
    )
  return take(example, key)


def quoted(names) -> str:
  """`"a", "b"`, in the given order."""
  return ", ".join(f'"{n}"' for n in names) or "nothing"


def nearest(name: str, names) -> str:
  """` Did you mean "x"?`, or an empty string where nothing is near."""
  near = difflib.get_close_matches(str(name), [str(n) for n in names], n=3, cutoff=0.5)
  return f" Did you mean {quoted(near)}?" if near else ""
