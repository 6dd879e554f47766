"""A small convolutional network: images or log-mel spectrograms -> features.

Three convolutions, each with a norm over channels, GELU and 2 x 2 max pooling, then averages over
a grid of places and a dense layer. No statistics over the batch: an example has the same features
in any batch. Features of any size of image and any length of sound are comparable.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from big_audio.dsp import mel


class Model(nn.Module):
  """CNN trunk.

  Attributes:
    features: D, width of the output.
    widths: channels of the convolutions.
    grid: places along height and width that are kept apart.
    dropout: share of the dense layer's inputs left out in training.
    sr: Hz of waves; None: the input is an image.
    n_fft, hop, n_mels: of the log-mel spectrogram of waves, in samples; defaults 32 ms, 16 ms, 64.
    variant: unused, every size is a keyword.
  """

  features: int = 256
  widths: Sequence[int] = (32, 64, 128)
  grid: int = 4
  dropout: float = 0.3
  sr: int | None = None
  n_fft: int | None = None
  hop: int | None = None
  n_mels: int = 64
  variant: str | None = None

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
      ValueError: another rank.
    """
    if x.ndim != (3 if self.sr else 4):
      want = "waves [B, T, C]" if self.sr else "images [B, H, W, C]; set sr for waves"
      raise ValueError(f"cnn: expected {want}, got shape {x.shape}.")
    if self.sr:
      x = self.spectrogram(x)
    for i, width in enumerate(self.widths):
      # Spectrograms are larger than images: the first convolution thins them out.
      stride = 2 if self.sr and i == 0 else 1
      x = nn.Conv(width, (3, 3), (stride, stride), name=f"conv{i}")(x)
      x = nn.gelu(nn.LayerNorm(name=f"norm{i}")(x))
      if min(x.shape[1:3]) >= 2 * self.grid:  # small images keep what the grid needs
        x = nn.max_pool(x, (2, 2), (2, 2), padding="SAME")
    rows, columns = (_pooling(n, self.grid) for n in x.shape[1:3])
    x = jnp.einsum("bhwc,gh,kw->bgkc", x, rows, columns)
    x = x.reshape(x.shape[0], -1)  # [B, grid * grid * C]
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return nn.gelu(nn.Dense(self.features, name="dense")(x))


def _pooling(size, grid):
  """f32[grid, size]: means over `grid` spans that together cover `size` places."""
  out = np.zeros((grid, size), np.float32)
  for g in range(grid):
    lo, hi = g * size // grid, -(-(g + 1) * size // grid)
    out[g, lo : max(hi, lo + 1)] = 1 / max(hi - lo, 1)
  return out
