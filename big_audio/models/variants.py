"""Networks that come in named sizes."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn

from big_audio import config as C


def attributes(cls: type[nn.Module], *more: inspect.Parameter) -> inspect.Signature:
  """The signature of a function that takes a module's attributes by keyword, and `more`."""
  own = [
    p.replace(kind=p.KEYWORD_ONLY)
    for p in inspect.signature(cls).parameters.values()
    if p.name not in ("parent", "name")
  ]
  return inspect.Signature([*more, *own])


def sized(
  cls: type[nn.Module], variants: Mapping[str, Mapping[str, Any]]
) -> Callable[..., nn.Module]:
  """The function `Model(*, variant=None, **kw)` of a model file: a size, changed by keywords.

  Its signature and docstring are those of `cls` with `variant` added, so that a config is checked
  against them.

  Args:
    cls: the network; every attribute has a default.
    variants: name -> attributes. A name says how many parameters there are.

  Returns:
    A function that raises ValueError for an unknown variant, with the nearest names.
  """

  def Model(*, variant: str | None = None, **kw) -> nn.Module:
    size = C.pick(f"{cls.__module__}: variant", variants, variant) if variant else {}
    return cls(**{**size, **kw})

  variant = inspect.Parameter("variant", inspect.Parameter.KEYWORD_ONLY, default=None)
  Model.__signature__ = attributes(cls, variant)
  Model.__module__, Model.__doc__ = cls.__module__, cls.__doc__
  return Model
