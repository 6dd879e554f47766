"""A small vision transformer (Dosovitskiy et al. 2010.11929): patches of an image -> features.

Learnt positions belong to the patches alone; a class token stands in front of them, and its row
after the last norm is the output. Weights, positions and token start as normals of deviation .02,
cut off at two deviations. The heads of the sizes below have a hidden layer as wide as the output:
dict(model="heads", hidden=D).

| variant | parameters | with the input and heads | at 32x32x1, 3 + 24 | known as |
|---|---|---|---|---|
| 23k | 22 779 | 32x32x1, 3 + 24 (hidden 32) | 22 779 | vit_micro |
| 116k | 115 867 | 32x32x1, 3 + 24 (hidden 64) | 115 867 | vit_tiny |
| 38k | 37 770 | 28x28x1, 10 (hidden 32) | 39 867 | mnist_vit_38k |
| 210k | 210 058 | 28x28x1, 10 (hidden 64) | 216 283 | mnist_vit_210k |
| 822k | 821 514 | 28x28x1, 10 (hidden 128) | 842 139 | mnist_vit_821k |
"""

import math

import flax.linen as nn
import jax.numpy as jnp

from big_audio.models.variants import sized
from big_audio.nn.image import check_image
from big_audio.nn.prenorm import Block

VARIANTS = {
  "23k": dict(patch=8, dim=32, depth=2, heads=4, dropout=0.2),
  "116k": dict(patch=4, dim=64, depth=3, heads=4, dropout=0.3),
  "38k": dict(patch=4, dim=32, depth=4, heads=4),
  "210k": dict(patch=4, dim=64, depth=6, heads=4),
  "822k": dict(patch=4, dim=128, depth=6, heads=8),
}
INIT = nn.initializers.truncated_normal(0.02)


class Vit(nn.Module):
  """ViT trunk, for images of one size, square or not.

  Attributes:
    patch: side of a patch, in pixels; divides height and width.
    dim: D, width of a token and of the output.
    depth: number of blocks.
    heads: of the attention; divide D.
    mlp_ratio: width of a block's hidden layer over D.
    dropout: share of the embedded tokens, and of each branch's outputs, left out in training.
  """

  patch: int = 4
  dim: int = 64
  depth: int = 3
  heads: int = 4
  mlp_ratio: float = 2
  dropout: float = 0.1

  @nn.compact
  def __call__(self, x, *, train: bool = False):
    """f32[B, H, W, C] in [-1, 1] -> f32[B, D].

    Raises:
      ValueError: another rank, patches that do not divide the image, or heads that do not divide D.
    """
    check_image("vit", x)
    b, height, width, _ = x.shape
    if self.patch < 1 or height % self.patch or width % self.patch:
      both = math.gcd(height, width)
      fit = ", ".join(str(n) for n in range(1, both + 1) if both % n == 0)
      raise ValueError(
        f"vit: patches of {self.patch} do not divide images of {height} x {width}. Set patch to "
        f"one of {fit}."
      )
    if self.dim % self.heads:
      raise ValueError(f"vit: a width of {self.dim} does not divide into {self.heads} heads.")
    p = (self.patch, self.patch)
    x = nn.Conv(self.dim, p, p, padding="VALID", kernel_init=INIT, name="embed")(x)
    x = x.reshape(b, -1, self.dim)  # [B, L, D]
    x = x + self.param("positions", INIT, x.shape[1:])
    token = self.param("token", INIT, (1, self.dim))
    x = jnp.concatenate([jnp.broadcast_to(token, (b, 1, self.dim)), x], axis=1)  # [B, 1 + L, D]
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    for i in range(self.depth):
      x = Block(self.heads, self.mlp_ratio, self.dropout, INIT, name=f"block{i}")(x, train)
    return nn.LayerNorm(epsilon=1e-5, name="norm")(x[:, 0])


Model = sized(Vit, VARIANTS)
