"""The pre-norm block beside flax's own attention."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from big_audio.nn import prenorm

INIT = nn.initializers.normal(0.5)


@pytest.mark.parametrize("length", [7, prenorm._LONG])
def test_attention_equals_that_of_flax(length):
  """Parameters and outputs of few tokens and of many, whose path is ours: its gradients too."""
  theirs = nn.MultiHeadDotProductAttention(2, kernel_init=INIT)
  ours = prenorm.Attention(2, INIT)
  x = jax.random.normal(jax.random.key(0), (2, length, 8))
  params, same = (jax.jit(net.init)(jax.random.key(1), x) for net in (theirs, ours))
  jax.tree.map(np.testing.assert_array_equal, params, same)

  def both(net):
    fn = lambda p, x: (net.apply(p, x) ** 2).mean()
    grad = jax.grad(fn, (0, 1)) if length >= prenorm._LONG else lambda p, x: ()
    return jax.jit(lambda p, x: (net.apply(p, x), grad(p, x)))(params, x)

  close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4)
  jax.tree.map(close, both(ours), both(theirs))
