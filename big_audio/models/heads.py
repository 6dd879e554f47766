"""Heads on shared features: one vector of outputs for each name."""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
import numpy as np


class Model(nn.Module):
  """Heads: linear ones, and ordinal ones whose outputs share one direction.

  An ordinal head of K ordered classes (CORAL, Cao et al. 1901.07884) has one score w x and K - 1
  cuts: output k is the logit of "the class is above k". The cuts start one apart,
  so that the score counts classes from the middle.

  Attributes:
    outputs: {name: width} of linear heads, e.g. the number of classes.
    hidden: width of a layer with tanh in front of each head; None: no such layer. With it, all
      weights start as normals of deviation .02, cut off at two deviations (2010.11929).
    ranks: {name: K - 1} of ordinal heads.
    variant: unused.
  """

  outputs: Mapping[str, int]
  hidden: int | None = None
  ranks: Mapping[str, int] | None = None
  variant: str | None = None

  @property
  def widths(self) -> dict[str, int]:
    """{name: width} of all heads, the linear ones first."""
    return {**self.outputs, **(self.ranks or {})}

  @nn.compact
  def __call__(self, features):
    """f32[B, D] -> {name: f32[B, width]}.

    Raises:
      ValueError: a name both in outputs and ranks.
    """
    ranks = self.ranks or {}
    twice = sorted(set(self.outputs) & set(ranks))
    if twice:
      raise ValueError(f"heads: {', '.join(twice)} in both outputs and ranks; keep one of them.")
    if self.hidden:
      init = nn.initializers.truncated_normal(0.02)
    else:
      init = nn.initializers.variance_scaling(0.1, "fan_in", "truncated_normal")
    out = {}
    for name, width in self.widths.items():
      x = features
      if self.hidden:
        x = jnp.tanh(nn.Dense(self.hidden, kernel_init=init, name=f"{name}_hidden")(x))
      if name in ranks:
        even = np.arange(width, 0, -1) - (width + 1) / 2  # from (K-2)/2 down to -(K-2)/2
        cuts = self.param(f"{name}_cuts", lambda _, c=even: jnp.asarray(c, "f4"))
        out[name] = nn.Dense(1, use_bias=False, kernel_init=init, name=name)(x) + cuts
      else:
        out[name] = nn.Dense(width, kernel_init=init, name=name)(x)
    return out
