"""Adversarial losses, one number per example, for a discriminator and a generator in one step.

L = generator(D_sg(G)) + discriminator(D(sg(G))) has exactly the gradients of both players, with
stop_gradient on the discriminator's parameters in the first term and on G's output in the second:
no second optimizer. Both move at once (the usual loops alternate).

A discriminator gives scales: [(logits f32[B, ...], features [f32[B, ...], ...]), ...].
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

KINDS = ("hinge", "least_squares")


def _mean(x):
  return jnp.mean(x.reshape(x.shape[0], -1), axis=1)


def discriminator(real: Sequence, fake: Sequence, kind: str = "hinge"):
  """What the discriminator minimises: f32[B], a mean over scales.

  Args:
    real: its scales on data.
    fake: its scales on the generator's output.
    kind: "hinge" (Lim and Ye 1705.02894) or "least_squares" (Mao et al. 1611.04076).

  Raises:
    ValueError: an unknown kind, or other scales.
  """
  _check(real, fake, kind)
  if kind == "hinge":
    terms = [_mean(jax.nn.relu(1 - r)) + _mean(jax.nn.relu(1 + f)) for (r, _), (f, _) in
             zip(real, fake, strict=True)]  # fmt: skip
  else:
    terms = [_mean((r - 1) ** 2) + _mean(f**2) for (r, _), (f, _) in zip(real, fake, strict=True)]
  return sum(terms) / len(terms)


def generator(fake: Sequence, kind: str = "hinge"):
  """What the generator minimises: f32[B], a mean over scales; arguments as in `discriminator`."""
  _check(fake, fake, kind)
  terms = [_mean(-f) if kind == "hinge" else _mean((f - 1) ** 2) for f, _ in fake]
  return sum(terms) / len(terms)


def feature_matching(real: Sequence, fake: Sequence):
  """L1 distance of features relative to their size on data (EnCodec 2210.13438, eq. 5): f32[B].

  No gradient flows into `real`.
  """
  terms = []
  for (_, a), (_, b) in zip(real, fake, strict=True):
    for x, y in zip(a, b, strict=True):
      x = jax.lax.stop_gradient(x)
      terms.append(_mean(jnp.abs(x - y)) / (_mean(jnp.abs(x)) + 1e-6))
  return sum(terms) / len(terms)


def _check(real, fake, kind):
  if kind not in KINDS:
    raise ValueError(f"gan: kind={kind!r}: expected one of {KINDS}.")
  if len(real) != len(fake) or not real:
    raise ValueError(f"gan: {len(real)} scales of real and {len(fake)} of fake; expected as many.")
