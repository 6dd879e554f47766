"""Multi-scale complex-STFT discriminator of waves (EnCodec 2210.13438, sec. 3.4; DAC 2306.06546).

Features: one stack of 2-D convolutions for each window, on real and imaginary parts; weight
normalisation; logits for patches of time and frequency.
"""

import flax.linen as nn
import jax.numpy as jnp

from big_audio.dsp import stft


class Scale(nn.Module):
  """The stack of one window; see `Model`."""

  window: int
  width: int
  depth: int

  @nn.compact
  def __call__(self, wav):
    """f32[B, T, C] -> (logits [B, F, K', 1], features)."""
    spec = stft.stft(wav, self.window, self.window // 4, pad_mode="constant")  # [B, F, K, C]
    # A window of unit energy: all scales see levels alike.
    spec = spec * (8 / 3 / self.window) ** 0.5
    x = jnp.concatenate([spec.real, spec.imag], axis=-1)
    features = []
    for i in range(self.depth):
      conv = nn.Conv(self.width, (3, 9), strides=(1, 1 if i == 0 else 2), name=f"conv_{i}")
      x = nn.leaky_relu(nn.WeightNorm(conv, name=f"norm_{i}")(x), 0.2)
      features.append(x)
    return nn.Conv(1, (3, 3), name="out")(x), features


class Model(nn.Module):
  """The discriminator.

  Attributes:
    windows: STFT windows, in samples; the hop is a quarter.
    width: channels of the convolutions.
    depth: convolutions before the logits.
    variant: unused, every size is a keyword.
  """

  windows: tuple = (2048, 1024, 512)
  width: int = 32
  depth: int = 4
  variant: str | None = None

  @nn.compact
  def __call__(self, wav):
    """wav f32[B, T, C] in [-1, 1] -> [(logits, features), ...], a scale for each window."""
    return [
      Scale(window=w, width=self.width, depth=self.depth, name=f"window_{w}")(wav)
      for w in self.windows
    ]
