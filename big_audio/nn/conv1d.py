"""1-D convolutional blocks for codecs and flow backbones, independent of the window's length.

No normalisation runs over time, padding is zeros, and every convolution multiplies its input by the
frame mask: a signal inside a padded batch, in a long window, or alone gives the same frames.
All of it can be differentiated forwards (`jax.jvp`).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

NORMS: dict[str, Callable[..., nn.Module] | None] = {
  "none": None,
  "layer": nn.LayerNorm,  # over channels, per frame
  "rms": nn.RMSNorm,
}


class DepthwiseConv(nn.Module):
  """Depthwise convolution over time with zero padding, as shifted multiply-adds.

  XLA on a CPU runs a grouped convolution, and above all its gradient, more than ten times slower
  than these fused products (measured with 7 taps, 256 channels).

  Attributes:
    kernel: taps, odd.
    dilation: frames between taps.
    causal: look back only, in place of as far to both sides.
    dtype: compute type; parameters are float32.
  """

  kernel: int = 7
  dilation: int = 1
  causal: bool = False
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[B, F, D] -> [B, F, D]. Raises ValueError for an even kernel."""
    if self.kernel % 2 == 0:
      raise ValueError(f"DepthwiseConv: expected an odd kernel, got {self.kernel}.")
    d = x.shape[-1]
    init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", in_axis=0)
    w = self.param("kernel", init, (self.kernel, d))
    b = self.param("bias", nn.initializers.zeros, (d,))
    x, w, b = nn.dtypes.promote_dtype(x, w, b, dtype=self.dtype)
    reach = self.kernel // 2 * self.dilation
    frames = x.shape[-2]
    pad = (2 * reach, 0) if self.causal else (reach, reach)
    x = jnp.pad(x, ((0, 0), pad, (0, 0)))
    taps = (x[:, i * self.dilation :][:, :frames] * w[i] for i in range(self.kernel))
    return sum(taps, start=b)


class ConvNeXtBlock(nn.Module):
  """ConvNeXt block in one dimension (Liu et al. 2201.03545; as in Vocos 2306.00814).

  x + scale * Dense(SiLU(Dense(film(norm(dwconv(x))))))

  Attributes:
    expansion: width of the hidden layer over that of x.
    kernel: taps of the depthwise convolution, odd.
    dilation: frames between taps.
    norm: "none", "layer" or "rms": over the channels of a frame, never over time.
    causal: see `DepthwiseConv`.
    scale_init: initial layer scale, one number a channel.
    film: whether `cond` shifts and scales the normalised input. Its kernel starts at zero.
    dtype: compute type; parameters are float32.
  """

  expansion: float = 3
  kernel: int = 7
  dilation: int = 1
  norm: str = "layer"
  causal: bool = False
  scale_init: float = 0.3
  film: bool = False
  dtype: jnp.dtype | None = None

  @nn.compact
  def __call__(
    self, x: jax.Array, mask: jax.Array | None = None, cond: jax.Array | None = None
  ) -> jax.Array:
    """Applies the block.

    Args:
      x: [B, F, D].
      mask: bool[B, F], true where there is signal; frames outside count as zeros, whatever they
        hold.
      cond: [B, Dc] or [B, F, Dc], where film=True.

    Returns:
      [B, F, D]; frames outside the mask hold nothing of use.

    Raises:
      ValueError: unknown norm; cond without film or film without cond.
    """
    if self.norm not in NORMS:
      raise ValueError(
        f"ConvNeXtBlock: expected norm to be one of {sorted(NORMS)}, got {self.norm!r}."
      )
    if self.film != (cond is not None):
      raise ValueError(
        f"ConvNeXtBlock {self.name!r}: film={self.film}, but cond is "
        f"{'missing' if cond is None else 'given'}. Set film={not self.film} or change the call."
      )
    d = x.shape[-1]
    h = x if mask is None else jnp.where(mask[..., None], x, 0)
    h = DepthwiseConv(self.kernel, self.dilation, self.causal, self.dtype, name="dwconv")(h)
    if NORMS[self.norm] is not None:
      h = NORMS[self.norm](dtype=self.dtype, name="norm")(h)
    if self.film:
      zeros = nn.initializers.zeros
      shift_scale = nn.Dense(2 * d, kernel_init=zeros, dtype=self.dtype, name="film")(cond)
      if cond.ndim == x.ndim - 1:
        shift_scale = shift_scale[..., None, :]  # [B,1,2D]
      shift, scale = jnp.split(shift_scale, 2, axis=-1)
      h = h * (1 + scale) + shift
    h = nn.Dense(round(self.expansion * d), dtype=self.dtype, name="expand")(h)
    h = nn.Dense(d, dtype=self.dtype, name="project")(nn.silu(h))
    gain = self.param("scale", nn.initializers.constant(self.scale_init), (d,))
    return x + gain.astype(h.dtype) * h


class ConvNeXt(nn.Module):
  """A stack of `ConvNeXtBlock`s named block_0, block_1, ...; see there for the attributes."""

  depth: int
  expansion: float = 3
  kernel: int = 7
  norm: str = "layer"
  causal: bool = False
  scale_init: float = 0.3
  film: bool = False
  dtype: jnp.dtype | None = None

  @property
  def reach(self) -> int:
    """Frames on each side that an output frame depends on (twice as many before it, if causal)."""
    return receptive_reach(self.depth, self.kernel)

  @nn.compact
  def __call__(
    self, x: jax.Array, mask: jax.Array | None = None, cond: jax.Array | None = None
  ) -> jax.Array:
    """[B, F, D] -> [B, F, D]; arguments and errors as `ConvNeXtBlock`."""
    for i in range(self.depth):
      x = ConvNeXtBlock(
        expansion=self.expansion,
        kernel=self.kernel,
        norm=self.norm,
        causal=self.causal,
        scale_init=self.scale_init,
        film=self.film,
        dtype=self.dtype,
        name=f"block_{i}",
      )(x, mask, cond)
    return x


def receptive_reach(depth: int, kernel: int) -> int:
  """Frames on each side that `depth` convolutions of `kernel` taps see."""
  return depth * (kernel // 2)
