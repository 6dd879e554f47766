"""The weight of coded bits in a codec's loss, steered towards a wanted number of bits a token.

Entropy-coded codecs fix that weight and take the rate that comes out; users name a rate. So the
weight's logarithm integrates the relative excess, at a speed that suits the length of the training.
"""

import math

import jax
import jax.numpy as jnp

TRAVEL = 27.0  # of the logarithm in a whole training with twice the wanted bits
MAX_WEIGHT = 0.05


def next_log_weight(log_weight, bits, wanted: float, steps: int, counts=None):
  """The logarithm of the weight after a step.

  Args:
    log_weight: f32[], before it.
    bits: f32[B], of a token in each row; no gradient flows into them.
    wanted: bits of a token.
    steps: of the codec's training.
    counts: bool[B], rows that say something of the whole rate; None: all. Without any, nothing
      moves.

  Returns:
    f32[], at most log(MAX_WEIGHT).
  """
  counts = jnp.ones(bits.shape) if counts is None else counts.astype(jnp.float32)
  number = jnp.sum(counts)
  mean = jnp.sum(counts * jax.lax.stop_gradient(bits)) / jnp.maximum(number, 1)
  speed = jnp.where(number > 0, TRAVEL / steps, 0.0)
  moved = log_weight + speed * jnp.clip(mean / wanted - 1, -1.0, 1.0)
  return jnp.minimum(moved, math.log(MAX_WEIGHT))
