"""Embeddings of scalars such as time."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

TIME_CONDS = ("th", "tr", "h")
# ctx of a guided net where none is given: no guidance, everywhere.
NO_GUIDANCE = {"w": 1.0, "t_min": 0.0, "t_max": 1.0}


def sinusoids(t, dim: int, max_period: float = 1e4):
  """f32[..., dim] of cos and sin of t f32[...] at geometric frequencies (Vaswani et al. 2017).

  Raises:
    ValueError: `dim` is odd.
  """
  if dim % 2:
    raise ValueError(f"sinusoids: dim must be even, got {dim}.")
  freqs = jnp.asarray(np.exp(-np.log(max_period) * np.arange(dim // 2) / (dim // 2)), jnp.float32)
  angles = t.astype(jnp.float32)[..., None] * freqs
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class TimeEmbed(nn.Module):
  """Time, guidance and class as vectors: sinusoids through separate two-layer MLPs.

  Two times have an MLP each and are summed (MeanFlow 2505.13447, app. B): the sum of bare sinusoids
  would not tell (t, h) from (h, t). Always float32: t and h pass through high frequencies, and the
  JVP through their derivatives.

  Attributes:
    dim: width of the output.
    freq_dim: number of sinusoids.
    scale: scalars are multiplied by it first; with 1, the official setting, frequencies end at
      1 rad; small nets on narrow data learn faster with a larger one.
    time_cond: what the net is told of (t, h): "th" both, "tr" t and r = t - h, "h" h alone
      (improved MeanFlow).
    guidance: whether ctx is embedded, as 1 - 1/w, t_min and t_max (2512.02012).
    classes: number of classes; label `classes` stands for none of them.
  """

  dim: int
  freq_dim: int = 256
  scale: float = 1.0
  time_cond: str = "th"
  guidance: bool = False
  classes: int = 0

  @nn.compact
  def __call__(
    self, t: jax.Array, h: jax.Array, ctx: Mapping | None = None, labels: jax.Array | None = None
  ) -> dict[str, jax.Array]:
    """The vectors.

    Args:
      t, h: f32[B].
      ctx: {"w", "t_min", "t_max": f32[B]}; None: no guidance.
      labels: int32[B] in [0, classes]; None: no class.

    Returns:
      {"time", and as configured "w", "t_min", "t_max", "class": f32[B, dim]}.

    Raises:
      ValueError: unknown time_cond; ctx or labels that this net was not built for.
    """
    if self.time_cond not in TIME_CONDS:
      raise ValueError(
        f"TimeEmbed: time_cond={self.time_cond!r}: expected one of {', '.join(TIME_CONDS)}."
      )
    for given, built, name, fix in (
      (ctx, self.guidance, "ctx", "guidance=True"),
      (labels, self.classes, "labels", "classes=N"),
    ):
      if given is not None and not built:
        raise ValueError(f"TimeEmbed: {name} is given to a net without it; build it with {fix}.")

    def mlp(x, name):
      x = sinusoids(self.scale * x, self.freq_dim)
      x = nn.silu(nn.Dense(self.dim, name=f"{name}_in")(x))
      return nn.Dense(self.dim, name=f"{name}_out")(x)

    if self.time_cond == "h":
      out = {"time": mlp(h, "h")}
    elif self.time_cond == "th":
      out = {"time": mlp(h, "h") + mlp(t, "t")}
    else:
      out = {"time": mlp(t - h, "r") + mlp(t, "t")}
    if self.guidance:
      ctx = {k: jnp.full_like(t, v) for k, v in NO_GUIDANCE.items()} if ctx is None else ctx
      out["w"] = mlp(1 - 1 / ctx["w"], "w")
      out |= {k: mlp(ctx[k], k) for k in ("t_min", "t_max")}
    if self.classes:
      none = jnp.full(t.shape, self.classes, jnp.int32)
      embed = nn.Embed(self.classes + 1, self.dim, name="classes")
      out["class"] = embed(none if labels is None else labels)
    return out
