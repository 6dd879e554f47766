"""The head of a similarity model: features -> a short vector of unit length."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_audio import config as C
from big_audio.models.variants import sized
from big_audio.nn.image import batch_norm

NORMS = {"none": None, "batch": batch_norm}
ACTIVATIONS = {"relu": nn.relu, "gelu": nn.gelu, "tanh": jnp.tanh}


class Projector(nn.Module):
  """Dense layers with an activation and dropout between them; the last is scaled to length 1.

  Attributes:
    widths: of the layers; the last is E, the size of an embedding.
    activation: "relu", "gelu" or "tanh".
    dropout: share of each hidden layer's outputs left out in training.
    norm: "none", or "batch": of the features. What all of a data set's features have in common,
      most of them in a net that was not trained before, then hides no difference.
  """

  widths: Sequence[int] = (512, 128)
  activation: str = "relu"
  dropout: float = 0.15
  norm: str = "none"

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
    """f32[B, D] -> f32[B, E] of unit length; a row of zeros stays one.

    Raises:
      ValueError: no layer, or an unknown activation or norm.
    """
    if not self.widths:
      raise ValueError("projector: widths is empty; the last of them is the size of an embedding.")
    activation = C.pick("projector: activation", ACTIVATIONS, self.activation)
    norm = C.pick("projector: norm", NORMS, self.norm)
    x = x if norm is None else norm(train, "norm")(x)
    for i, width in enumerate(self.widths):
      x = nn.Dense(width, name=f"dense{i}")(x)
      if i + 1 < len(self.widths):
        x = nn.Dropout(self.dropout, deterministic=not train)(activation(x))
    x = x.astype(jnp.float32)
    # The floor is inside of the root: a zero row has a gradient.
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x**2, axis=-1, keepdims=True), 1e-24))


Model = sized(Projector, {})
