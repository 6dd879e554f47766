"""A trunk on waves: the learnable front end LEAF, and a trunk of images on what it gives.

net = dict(model="leaf", sr=8000, filters=32, trunk=dict(model="cnn", variant="10k"))
"""

import inspect
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from big_audio import config as C
from big_audio.models.variants import attributes
from big_audio.nn.leaf import Leaf


class LeafTrunk(nn.Module):
  """front(wav) as an image [B, F, M, C], then trunk(image); see `Model`."""

  front: nn.Module
  trunk: nn.Module

  @nn.compact
  def __call__(self, wav, *, train: bool = False):
    """f32[B, T, C] in [-1, 1] at sr Hz -> f32[B, D]."""
    return self.trunk(self.front(wav), train=train)


def Model(*, trunk: Mapping[str, Any], variant: str | None = None, **kw) -> LeafTrunk:
  """The front end and the trunk.

  Args:
    trunk: dict(model=<a model of images>, **its arguments).
    variant: unused; a size is the trunk's.
    **kw: sr and the other attributes of `nn.leaf.Leaf`.

  Raises:
    ValueError: an unknown model or argument, with the nearest names.
  """
  trunk = dict(trunk)
  if "model" not in trunk:
    raise ValueError("models.leaf: trunk needs the key 'model', such as dict(model=\"cnn\").")
  module = C.resolve("models", trunk.pop("model"))
  return LeafTrunk(front=Leaf(**kw), trunk=C.call("models.leaf: trunk", module.Model, **trunk))


# A config is checked against it.
_named = [p for p in inspect.signature(Model).parameters.values() if p.name != "kw"]
Model.__signature__ = attributes(Leaf, *_named)
