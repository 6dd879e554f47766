"""Dense layers on all the pixels of an image, each with batch norm (or none), ReLU and dropout.

The SimpleDenseNet of lightning-hydra-template-extended, and its SimpleMLP with norm="none". The
first layer depends on the image's size:

| variant | parameters | with the input and heads | at 32x32x1, 3 + 24 | known as |
|---|---|---|---|---|
| 8.5k | 8 470 | 28x28x1, 10 | 11 057 | mnist_sdn_8k |
| 68k | 67 978 | 28x28x1, 10 | 84 443 | mnist_sdn_68k |
| 1.0m | 1 008 160 | 32x32x3, 100 | 553 227 | cifar100_sdn_1m |
"""

from collections.abc import Sequence

import flax.linen as nn

from big_audio import config as C
from big_audio.models.variants import sized
from big_audio.nn.image import batch_norm, check_image

NORMS = {"batch": batch_norm, "none": None}
VARIANTS = {
  "8.5k": dict(widths=(10, 20, 10)),
  "68k": dict(widths=(64, 128, 64)),
  "1.0m": dict(widths=(200, 400, 620)),
}


class Mlp(nn.Module):
  """MLP trunk.

  Attributes:
    widths: of the layers; the last is D, the width of the output.
    norm: "batch" or "none".
    dropout: share of each layer's outputs left out in training.
  """

  widths: Sequence[int] = (64, 128, 64)
  norm: str = "batch"
  dropout: float = 0.0

  @nn.compact
  def __call__(self, x, *, train: bool = False):
    """f32[B, H, W, C] in [-1, 1] -> f32[B, D].

    Raises:
      ValueError: another rank, or an unknown norm.
    """
    check_image("mlp", x)
    norm = C.pick("mlp: norm", NORMS, self.norm)
    x = x.reshape(x.shape[0], -1)  # [B, H * W * C]
    for i, width in enumerate(self.widths):
      x = nn.Dense(width, name=f"dense{i}")(x)
      x = nn.relu(x if norm is None else norm(train, f"norm{i}")(x))
      x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return x


Model = sized(Mlp, VARIANTS)
