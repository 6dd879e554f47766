"""ConvNeXt-V2 (Woo et al. 2301.00808) for small images: stages of blocks, each half as large.

A block is x + project(GRN(GELU(expand(norm(depthwise(x)))))), expanded four times. The stem has
patches of 2 x 2 where a side is below 64 pixels, else of 4 x 4. Odd sides are padded with zeros
before they are halved. Weights start as normals of deviation .02, cut off at two deviations.

| variant | parameters | with the input and heads | at 32x32x1, 3 + 24 | known as |
|---|---|---|---|---|
| 18k | 18 002 | 28x28x1, 10 | 18 563 | mnist tiny, mnist_convnext_18k |
| 73k | 73 402 | 28x28x1, 10 | 74 507 | mnist small, mnist_convnext_73k |
| 288k | 288 118 | 28x28x1, 10 | 289 767 | mnist base, mnist_convnext_288k |
| 725k | 724 938 | 28x28x1, 10 | 727 131 | mnist large, mnist_convnext_725k |
| 123k | 122 898 | 32x32x3, 10 | 123 939 | cifar10_convnext_64k |
| 309k | 309 238 | 32x32x3, 10 | 310 791 | cifar10_convnext_128k |
| 1.0m | 1 010 836 | 32x32x3, 100 | 1 000 107 | cifar100_convnext_1m |
| 10.4m | 10 353 730 | 32x32x3, 100 | 10 328 793 | cifar100_convnext_10m |
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from big_audio.models.variants import sized
from big_audio.nn.image import GRN, DepthwiseConv2D, check_image, drop_path

VARIANTS = {
  "18k": dict(depths=(1, 1, 1, 1), widths=(4, 8, 16, 32)),
  "73k": dict(depths=(1, 1, 2, 1), widths=(8, 16, 32, 64)),
  "288k": dict(depths=(2, 2, 4, 2), widths=(12, 24, 48, 96), drop=0.1),
  "725k": dict(depths=(3, 3, 6, 3), widths=(16, 32, 64, 128), drop=0.2),
  "123k": dict(depths=(2, 2, 4, 2), widths=(8, 16, 32, 64), kernel=3, drop=0.05),
  "309k": dict(depths=(2, 2, 6, 2), widths=(12, 24, 48, 96), kernel=3, drop=0.05),
  "1.0m": dict(depths=(3, 3, 9, 3), widths=(18, 36, 72, 144), kernel=3, drop=0.1),
  "10.4m": dict(depths=(4, 6, 18, 6), widths=(42, 84, 168, 336), kernel=3, drop=0.2),
}
INIT = nn.initializers.truncated_normal(0.02)


def _norm(name):
  return nn.LayerNorm(epsilon=1e-6, name=name)


def _patches(width, size, name):
  return nn.Conv(width, (size, size), (size, size), kernel_init=INIT, name=name)


class Block(nn.Module):
  """One residual block.

  Attributes:
    kernel: taps along each side of the depthwise convolution, odd.
    drop: share of examples that skip the branch in training.
  """

  kernel: int
  drop: float

  @nn.compact
  def __call__(self, x, train: bool):
    """[B, H, W, C] -> [B, H, W, C]."""
    c = x.shape[-1]
    h = DepthwiseConv2D(self.kernel, kernel_init=INIT, name="depthwise")(x)
    h = nn.Dense(4 * c, kernel_init=INIT, name="expand")(_norm("norm")(h))
    h = GRN(name="grn")(nn.gelu(h, approximate=False))
    h = nn.Dense(c, kernel_init=INIT, name="project")(h)
    return x + drop_path(self.drop, train)(h)


class ConvNeXt(nn.Module):
  """ConvNeXt-V2 trunk.

  Attributes:
    depths: blocks of each stage.
    widths: channels of each stage; the last is D, the width of the output.
    kernel: taps along each side of the depthwise convolutions, odd.
    drop: stochastic depth of the last block; it grows from 0 evenly over the blocks.
    stem: side of the first patches; None: 2 where a side of the image is below 64, else 4.
  """

  depths: Sequence[int] = (1, 1, 2, 1)
  widths: Sequence[int] = (8, 16, 32, 64)
  kernel: int = 7
  drop: float = 0.0
  stem: int | None = None

  @nn.compact
  def __call__(self, x, *, train: bool = False):
    """f32[B, H, W, C] in [-1, 1] -> f32[B, D].

    Raises:
      ValueError: another rank, an even kernel, or depths and widths of different numbers.
    """
    check_image("convnext", x)
    if len(self.depths) != len(self.widths):
      raise ValueError(
        f"convnext: expected as many depths as widths, got {self.depths} and {self.widths}."
      )
    stem = self.stem or (2 if min(x.shape[1:3]) < 64 else 4)
    total, block = sum(self.depths), 0
    for i, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True)):
      if i == 0:
        x = _norm("stem_norm")(_patches(width, stem, "stem")(x))
      else:
        x = _patches(width, 2, f"down{i}")(_norm(f"down{i}_norm")(x))
      for _ in range(depth):
        drop = self.drop * block / max(1, total - 1)
        x = Block(self.kernel, drop, name=f"block{block}")(x, train)
        block += 1
    return _norm("norm")(jnp.mean(x, axis=(1, 2)))


Model = sized(ConvNeXt, VARIANTS)
