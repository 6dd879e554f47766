"""What a range coder needs: the probability of every code, given the codes before it.

Features: autoregressive over the tokens of a clip (the `context` tokens before) and over the
dimensions of a token, by masked layers (MADE, Germain et al. 1502.03509). Small enough that a
decoder can run it in integers (proj.meanflow_codec.entropy), which floating point cannot replace: a
range decoder needs the encoder's probabilities to the last bit, on another machine too.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


class Model(nn.Module):
  """The prior over symbols int32[B, F, D].

  Attributes:
    sizes: number of values of each of the D symbols of a token.
    context: tokens before a token that its probabilities depend on.
    units: hidden units of each symbol.
    variant: unused, every size is a keyword.
  """

  sizes: tuple
  context: int = 2
  units: int = 12
  variant: str | None = None

  def setup(self):
    d, n, u, p = len(self.sizes), max(self.sizes), self.units, self.context
    small = nn.initializers.normal(0.03)
    zeros = nn.initializers.zeros
    make = lambda name, init, *shape: self.param(name, init, shape)
    # [token before or this one, symbol there, its value, symbol here, ...]
    self.hidden_in = make("hidden_in", small, p + 1, d, n, d, u)
    self.hidden_bias = make("hidden_bias", zeros, d, u)
    self.hidden_mix = make("hidden_mix", small, d, u, d, u)
    self.out = make("out", small, d, u, n)
    self.out_in = make("out_in", zeros, p + 1, d, n, d, n)
    self.out_bias = make("out_bias", zeros, d, n)

  def __call__(self, hot, known=None):
    """Bits of each symbol.

    Args:
      hot: f32[B, F, D, max(sizes)], one-hot symbols of tokens that follow each other.
      known: bool[B, F, D], symbols that a decoder has; the others inform nothing. None: all.

    Returns:
      f32[B, F, D]: -log2 of the probability of each symbol.
    """
    d, n = len(self.sizes), max(self.sizes)
    target = hot
    if known is not None:
      hot = hot * known[..., None]
    frames = hot.shape[1]
    past = jnp.pad(hot, ((0, 0), (self.context, 0), (0, 0), (0, 0)))
    past = jnp.stack([past[:, self.context - p :][:, :frames] for p in range(self.context + 1)], 2)
    see = self._sees(d)
    hidden = jnp.einsum("bfpin,pinju->bfju", past, self.hidden_in * see[..., None, :, None])
    hidden = nn.relu(hidden + self.hidden_bias)
    mask = np.triu(np.ones((d, d), np.float32))[:, None, :, None]
    hidden = nn.relu(hidden + jnp.einsum("bfiu,iujv->bfjv", hidden, self.hidden_mix * mask))
    logits = jnp.einsum("bfju,jun->bfjn", hidden, self.out) + self.out_bias
    logits += jnp.einsum("bfpin,pinjm->bfjm", past, self.out_in * see[..., None, :, None])
    absent = np.arange(n) >= np.array(self.sizes)[:, None]  # [D, n]
    logits = jnp.where(absent, -1e9, logits)
    return -jnp.sum(target * jax.nn.log_softmax(logits), -1) / np.log(2)

  def _sees(self, d):
    """f32[context + 1, D, D]: all symbols of the tokens before, of this one those before."""
    see = np.ones((self.context + 1, d, d), np.float32)
    see[0] = np.triu(see[0], 1)
    return see
