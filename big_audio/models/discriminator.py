"""Multi-scale complex-STFT discriminator of waves (EnCodec 2210.13438, sec. 3.4; DAC 2306.06546).

Features: one stack of 2-D convolutions for each window, on real and imaginary parts; weight
normalisation; logits for patches of time and frequency.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from big_audio.dsp import stft


class WeightNormConv(nn.Module):
  """2-D convolution whose kernels are a direction times a length (1602.07868).

  flax's own `WeightNorm` gives parameters names with '/', which name paths here.
  """

  features: int
  kernel: tuple[int, int]
  strides: tuple[int, int]

  @nn.compact
  def __call__(self, x):
    """[B, F, K, C] -> [B, F', K', features]."""
    shape = (*self.kernel, x.shape[-1], self.features)
    direction = self.param("direction", nn.initializers.lecun_normal(), shape)
    length = self.param("length", nn.initializers.ones, (self.features,))
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    unit = direction * jax.lax.rsqrt(jnp.sum(direction**2, (0, 1, 2)) + 1e-12)
    dims = ("NHWC", "HWIO", "NHWC")
    out = jax.lax.conv_general_dilated(
      x, length * unit, self.strides, "SAME", dimension_numbers=dims
    )
    return out + bias


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
      conv = WeightNormConv(self.width, (3, 9), (1, 1 if i == 0 else 2), name=f"conv_{i}")
      x = nn.leaky_relu(conv(x), 0.2)
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
