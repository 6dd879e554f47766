"""A small convolutional network: images or log-mel spectrograms -> features.

Convolutions of 3 x 3, each with a norm, an activation and 2 x 2 max pooling, then averages over a
grid of places and a dense layer. Features of any size of image and any length of sound are
comparable. By default three convolutions with norms over channels and GELU: no statistics over the
batch, an example has the same features in any batch. The variants have two, with batch norm and
ReLU, like the SimpleCNN of lightning-hydra-template-extended (images with an odd side keep their
last row and column when they are pooled, which are dropped there):

| variant | parameters | with the input and heads | at 32x32x1, 3 + 24 | known as |
|---|---|---|---|---|
| 10k | 10 411 | 32x32x1, 3 + 24 | 10 411 | cnn_micro |
| 39k | 39 483 | 32x32x1, 3 + 24 | 39 483 | cnn_tiny |
| 1.1m | 1 137 819 | 32x32x1, 3 + 24 | 1 137 819 | cnn_64k |
| 7.9k | 7 851 | 28x28x1, 10 | 8 293 | mnist_cnn_8k |
| 69k | 68 994 | 28x28x1, 10 | 70 167 | mnist_cnn_68k |
| 422k | 421 834 | 28x28x1, 10 | 424 027 | mnist_cnn_421k |
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from big_audio import config as C
from big_audio.dsp import mel
from big_audio.models.variants import sized
from big_audio.nn.image import batch_norm

NORMS = {"layer": lambda train, name: nn.LayerNorm(name=name), "batch": batch_norm}
ACTIVATIONS = {"gelu": nn.gelu, "relu": nn.relu}
_SIMPLE = dict(norm="batch", activation="relu", dropout_at="output")
VARIANTS = {
  "10k": dict(widths=(8, 16), features=32, dropout=0.2, **_SIMPLE),
  "39k": dict(widths=(16, 32), features=64, dropout=0.3, **_SIMPLE),
  "1.1m": dict(widths=(64, 128), features=512, dropout=0.5, **_SIMPLE),
  "7.9k": dict(widths=(3, 6), features=25, grid=7, dropout=0.25, **_SIMPLE),
  "69k": dict(widths=(8, 20), features=68, grid=7, dropout=0.25, **_SIMPLE),
  "422k": dict(widths=(32, 64), features=128, grid=7, dropout=0.25, **_SIMPLE),
}


class Cnn(nn.Module):
  """CNN trunk.

  Attributes:
    features: D, width of the output.
    widths: channels of the convolutions.
    grid: places along height and width that are kept apart.
    dropout: share of the dense layer's inputs, or outputs, left out in training.
    norm: after a convolution: "layer" over the channels of a place, or "batch".
    activation: "gelu" or "relu".
    dropout_at: "input" or "output" of the dense layer.
    sr: Hz of waves; None: the input is an image.
    n_fft, hop, n_mels: of the log-mel spectrogram of waves, in samples; defaults 32 ms, 16 ms, 64.
  """

  features: int = 256
  widths: Sequence[int] = (32, 64, 128)
  grid: int = 4
  dropout: float = 0.3
  norm: str = "layer"
  activation: str = "gelu"
  dropout_at: str = "input"
  sr: int | None = None
  n_fft: int | None = None
  hop: int | None = None
  n_mels: int = 64

  def spectrogram(self, wav):
    """f32[B, T, C] in [-1, 1] -> f32[B, F, M, C], about in [-1, 1] (log10, floor -80 dB)."""
    n_fft = self.n_fft or 2 ** round(np.log2(0.032 * self.sr))
    hop = self.hop or n_fft // 2
    power = mel.mel_spectrogram(wav, self.sr, n_fft, hop, self.n_mels, pad_mode="constant")
    return 0.5 * jnp.log10(jnp.maximum(power, 1e-4)) + 1

  @nn.compact
  def __call__(self, x, *, train: bool = False):
    """f32[B, H, W, C] in [-1, 1], or f32[B, T, C] where sr is set -> f32[B, D].

    Raises:
      ValueError: another rank, or an unknown norm, activation or place of dropout.
    """
    norm = C.pick("cnn: norm", NORMS, self.norm)
    activation = C.pick("cnn: activation", ACTIVATIONS, self.activation)
    C.pick("cnn: dropout_at", {"input": 0, "output": 0}, self.dropout_at)
    if x.ndim != (3 if self.sr else 4):
      want = "waves [B, T, C]" if self.sr else "images [B, H, W, C]; set sr for waves"
      raise ValueError(f"cnn: expected {want}, got shape {x.shape}.")
    if self.sr:
      x = self.spectrogram(x)
    for i, width in enumerate(self.widths):
      # Spectrograms are larger than images: the first convolution thins them out.
      stride = 2 if self.sr and i == 0 else 1
      x = nn.Conv(width, (3, 3), (stride, stride), name=f"conv{i}")(x)
      x = activation(norm(train, f"norm{i}")(x))
      if min(x.shape[1:3]) >= 2 * self.grid:  # small images keep what the grid needs
        x = nn.max_pool(x, (2, 2), (2, 2), padding="SAME")
    rows, columns = (pooling(n, self.grid) for n in x.shape[1:3])
    x = jnp.einsum("bhwc,gh,kw->bgkc", x, rows, columns)
    x = x.reshape(x.shape[0], -1)  # [B, grid * grid * C]
    drop = nn.Dropout(self.dropout, deterministic=not train)
    if self.dropout_at == "input":
      x = drop(x)
    x = activation(nn.Dense(self.features, name="dense")(x))
    return drop(x) if self.dropout_at == "output" else x


def pooling(size: int, grid: int) -> np.ndarray:
  """f32[grid, size]: means over `grid` spans that together cover `size` places.

  Span g is [floor(g size / grid), ceil((g + 1) size / grid)), as in torch.nn.AdaptiveAvgPool2d:
  neighbours share a place where `grid` does not divide `size`.
  """
  out = np.zeros((grid, size), np.float32)
  for g in range(grid):
    lo, hi = g * size // grid, -(-(g + 1) * size // grid)
    out[g, lo:hi] = 1 / (hi - lo)
  return out


Model = sized(Cnn, VARIANTS)
