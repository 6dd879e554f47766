"""What a trainer's loss returns, and how the loop turns it into one number."""

from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp


@dataclass(frozen=True)
class Loss:
  """Per-example losses and what is logged beside them.

  value: f32[B], the loss of each example.
  weight: f32[B] or None, its weight in the mean (a constant for the gradient).
  scalars: {name: ()}, batch-coupled losses, added to the mean as they are.
  logs: {name: [B] or () or (values [N], weights [N])}, logged as masked or weighted means.
  updates: {collection: tree}, new values of mutable collections.
  """

  value: Any
  weight: Any = None
  scalars: dict = field(default_factory=dict)
  logs: dict = field(default_factory=dict)
  updates: dict = field(default_factory=dict)


def weights(loss: Loss, mask) -> Any:
  """f32[B]: mask * weight, constants for the gradient (`mask` may be None)."""
  w = jnp.ones_like(loss.value) if mask is None else mask.astype(loss.value.dtype)
  return w if loss.weight is None else w * loss.weight


def log_means(loss: Loss, mask) -> dict[str, tuple[Any, Any]]:
  """{name: (weighted sum, weight)} of every log, so that micro-batches and batches can be added."""
  ones = jnp.ones_like(loss.value) if mask is None else mask.astype(loss.value.dtype)
  out = {}
  for name, log in {**loss.logs, **loss.scalars}.items():
    if isinstance(log, tuple):
      values, w = log
      w = w * ones if jnp.shape(w) == ones.shape else w  # padded rows do not count here either
    elif jnp.ndim(log):
      values, w = log, ones
    else:
      values, w = log[None], jnp.ones((1,))
    out[name] = (jnp.sum(jnp.where(w > 0, values, 0.0) * w), jnp.sum(w))
  return out
