"""Linear heads on shared features: one vector of outputs for each name."""

from collections.abc import Mapping

import flax.linen as nn


class Model(nn.Module):
  """Heads.

  Attributes:
    outputs: {name: width}, e.g. the number of classes.
    variant: unused.
  """

  outputs: Mapping[str, int]
  variant: str | None = None

  @nn.compact
  def __call__(self, features):
    """f32[B, D] -> {name: f32[B, width]}."""
    init = nn.initializers.variance_scaling(0.1, "fan_in", "truncated_normal")
    return {k: nn.Dense(n, kernel_init=init, name=k)(features) for k, n in self.outputs.items()}
