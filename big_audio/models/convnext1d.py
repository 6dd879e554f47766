"""A ConvNeXt-1D flow backbone on rows of frames, of any length.

Features: FiLM by (t, h) in every block, condition joined to the input, zero-init head (the flow
starts as u = 0, or as the deterministic decoder where the trainer predicts the data), finite reach.
"""

import flax.linen as nn
import jax.numpy as jnp

from big_audio.nn.conv1d import ConvNeXt, receptive_reach
from big_audio.nn.embed import TimeEmbed


class Model(nn.Module):
  """The backbone.

  Attributes:
    dim: D, width of a row.
    width, depth, expansion, kernel, norm: of the blocks.
    cond_dim: width of the time embedding.
    time_scale: see `nn.embed.TimeEmbed`.
    variant: unused, every size is a keyword.
  """

  dim: int
  width: int = 256
  depth: int = 4
  expansion: float = 2
  kernel: int = 7
  norm: str = "layer"
  cond_dim: int = 128
  time_scale: float = 1.0
  variant: str | None = None

  def setup(self):
    self.time = TimeEmbed(self.cond_dim, scale=self.time_scale)
    self.project = nn.Dense(self.width)
    self.trunk = ConvNeXt(self.depth, self.expansion, self.kernel, norm=self.norm, film=True)
    self.head = nn.Dense(self.dim, kernel_init=nn.initializers.zeros)

  @property
  def reach(self) -> int:
    """Rows of context on each side."""
    return receptive_reach(self.depth, self.kernel)

  def u(self, z, t, h, cond, mask=None):
    """z f32[B, R, D], t, h f32[B], cond f32[B, R, E], mask bool[B, R] -> f32[B, R, D]."""
    x = self.project(jnp.concatenate([z, cond], axis=-1))
    return self.head(self.trunk(x, mask, nn.silu(self.time(t, h))))

  def __call__(self, z, t, h, cond):
    """Touches every parameter: for init."""
    return self.u(z, t, h, cond)
