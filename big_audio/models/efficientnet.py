"""A light EfficientNet (Tan and Le 1905.11946): inverted bottlenecks with squeeze and excitation.

The stages of B0 but for their depths. Width and depth are scaled by factors, widths up to the next
multiple of 8, like the SimpleEfficientNet of lightning-hydra-template-extended. Squeezing divides
the expanded channels by four (in the paper, the block's input). Batch norm keeps .9 of its running
averages.

| variant | parameters | with the input and heads | at 32x32x1, 3 + 24 | known as |
|---|---|---|---|---|
| 66k | 66 016 | 28x28x1, 10 | 66 985 | mnist_efficientnet_66k |
| 7.2m | 7 155 082 | 28x28x1, 10 | 7 176 859 | mnist_efficientnet_7m |
"""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from big_audio.models.variants import sized
from big_audio.nn.image import DepthwiseConv2D, batch_norm, check_image, drop_path

VARIANTS = {"66k": dict(width=0.043, depth=0.7), "7.2m": dict(width=1.0, depth=1.0)}
# Of each stage: expansion, channels, blocks, stride of the first block, kernel.
STAGES = (
  (1, 16, 1, 1, 3),
  (6, 24, 2, 2, 3),
  (6, 40, 2, 2, 5),
  (6, 80, 3, 2, 3),
  (6, 112, 3, 1, 5),
  (6, 192, 4, 2, 5),
  (6, 320, 1, 1, 3),
)


def _pointwise(width, name):
  return nn.Conv(width, (1, 1), use_bias=False, name=name)


class Block(nn.Module):
  """Expand, depthwise convolution, squeeze and excite, project; with a residual where it fits.

  Attributes:
    expansion: width of the depthwise convolution over that of x; at 1 nothing is expanded.
    width: channels of the output.
    stride, kernel: of the depthwise convolution.
    drop: share of examples that skip the branch in training.
  """

  expansion: int
  width: int
  stride: int
  kernel: int
  drop: float

  @nn.compact
  def __call__(self, x, train: bool):
    """[B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), width]."""
    c = x.shape[-1] * self.expansion
    h = x
    if self.expansion != 1:
      h = nn.silu(batch_norm(train, "expand_norm")(_pointwise(c, "expand")(h)))
    h = DepthwiseConv2D(self.kernel, self.stride, use_bias=False, name="depthwise")(h)
    h = nn.silu(batch_norm(train, "depthwise_norm")(h))
    gate = jnp.mean(h, axis=(1, 2), keepdims=True)  # [B, 1, 1, C]
    gate = nn.silu(nn.Dense(max(1, c // 4), name="squeeze")(gate))
    h = h * nn.sigmoid(nn.Dense(c, name="excite")(gate))
    h = batch_norm(train, "project_norm")(_pointwise(self.width, "project")(h))
    same = self.stride == 1 and x.shape[-1] == self.width
    return x + drop_path(self.drop, train)(h) if same else h


class EfficientNet(nn.Module):
  """EfficientNet trunk; the output is 1280 wide, scaled by `width`.

  Attributes:
    width: factor of the channels.
    depth: factor of the number of blocks.
    dropout: share of the output left out in training.
    drop: stochastic depth of the last block; it grows from 0 evenly over the blocks.
    stages: as `STAGES`, before scaling.
  """

  width: float = 0.043
  depth: float = 0.7
  dropout: float = 0.2
  drop: float = 0.2
  stages: Sequence[Sequence[int]] = STAGES

  @nn.compact
  def __call__(self, x, *, train: bool = False):
    """f32[B, H, W, C] in [-1, 1] -> f32[B, D].

    Raises:
      ValueError: another rank.
    """
    check_image("efficientnet", x)
    wide = lambda channels: math.ceil(channels * self.width / 8) * 8
    stem = nn.Conv(wide(32), (3, 3), (2, 2), padding=1, use_bias=False, name="stem")
    x = nn.silu(batch_norm(train, "stem_norm")(stem(x)))
    depths = [math.ceil(n * self.depth) for _, _, n, _, _ in self.stages]
    total, block = sum(depths), 0
    for (expansion, channels, _, stride, kernel), depth in zip(self.stages, depths, strict=True):
      for i in range(depth):
        drop = self.drop * block / max(1, total - 1)
        first = stride if i == 0 else 1
        x = Block(expansion, wide(channels), first, kernel, drop, name=f"block{block}")(x, train)
        block += 1
    x = nn.silu(batch_norm(train, "last_norm")(_pointwise(wide(1280), "last")(x)))
    x = jnp.mean(x, axis=(1, 2))
    return nn.Dropout(self.dropout, deterministic=not train)(x)


Model = sized(EfficientNet, VARIANTS)
