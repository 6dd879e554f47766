"""A few numbers that belong to an example -> features, to be joined to those of a trunk."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np


class Model(nn.Module):
  """Dense, ReLU, dropout, dense, ReLU.

  With `frequencies` each number a is first joined by sin and cos of 2 pi f a for learnt
  frequencies f of its own (the periodic embedding, then linear and ReLU, of Gorishniy et al.
  2203.05556, section 3.3; there without the number itself): dense layers are smooth in their
  inputs, and small differences of a number may decide its class.

  Attributes:
    hidden: width of both layers.
    dropout: share of the first layer's outputs left out in training; the published networks take
      half of the trunk's.
    frequencies: per number; 0: the numbers alone.
    sigma: deviation of the initial frequencies, in periods per unit.
    variant: unused.
  """

  hidden: int = 32
  dropout: float = 0.1
  frequencies: int = 0
  sigma: float = 1.0
  variant: str | None = None

  @nn.compact
  def __call__(self, aux, *, train: bool = False):
    """f32[B, A] of mean 0 and deviation 1 -> f32[B, hidden].

    Raises:
      ValueError: another rank.
    """
    if aux.ndim != 2:
      raise ValueError(f"aux_mlp: expected numbers [B, A], got shape {aux.shape}.")
    x = aux
    if self.frequencies:
      init = nn.initializers.normal(self.sigma)
      f = self.param("frequencies", init, (aux.shape[1], self.frequencies))
      phase = (2 * np.pi * aux[..., None] * f).reshape(aux.shape[0], -1)
      x = jnp.concatenate([aux, jnp.sin(phase), jnp.cos(phase)], axis=1)  # [B, A + 2 A K]
    x = nn.relu(nn.Dense(self.hidden, name="dense0")(x))
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return nn.relu(nn.Dense(self.hidden, name="dense1")(x))
