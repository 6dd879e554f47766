"""Parts of image networks: depthwise convolution, response norm, batch norm, stochastic depth.

Images are [B, H, W, C]. All of it can be differentiated forwards (`jax.jvp`).
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

BATCH_NORM_EPS = 1e-5


class DepthwiseConv2D(nn.Module):
  """Depthwise convolution over height and width with zero padding, as shifted multiply-adds.

  Like `nn.conv1d.DepthwiseConv`: with its gradient, three to ten times as fast on a CPU as a
  grouped convolution of XLA (3 x 3 and 7 x 7 taps, images of 4 x 4 to 16 x 16), for a second or so
  of compilation a layer.

  Attributes:
    kernel: taps along each side, odd.
    stride: places between outputs; ceil(n / stride) of n places are left.
    use_bias: whether a number is added to each channel.
    kernel_init: of the taps; default LeCun normal over the k * k taps of a channel.
  """

  kernel: int = 7
  stride: int = 1
  use_bias: bool = True
  kernel_init: nn.initializers.Initializer | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), C].

    Raises:
      ValueError: an even kernel.
    """
    k, s = self.kernel, self.stride
    if k % 2 == 0:
      raise ValueError(f"DepthwiseConv2D: expected an odd kernel, got {k}.")
    c = x.shape[-1]
    init = self.kernel_init or nn.initializers.variance_scaling(
      1.0, "fan_in", "truncated_normal", in_axis=(0, 1)
    )
    w = self.param("kernel", init, (k, k, c))
    x = _depthwise(x, w, s)
    return x + self.param("bias", nn.initializers.zeros, (c,)) if self.use_bias else x


@functools.partial(jax.jit, static_argnums=2)  # traced once for all layers of a shape
def _depthwise(x, w, s):
  """[B, H, W, C], taps [k, k, C] -> [B, ceil(H / s), ceil(W / s), C]."""
  k, (height, width) = w.shape[0], x.shape[1:3]
  x = jnp.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2), (0, 0)))
  return sum(
    x[:, i : i + height : s, j : j + width : s] * w[i, j] for i in range(k) for j in range(k)
  )


class GRN(nn.Module):
  """Global response normalisation (Woo et al. 2301.00808, eq. 1 to 3).

  g_c = |x_c|_2 over all places, n_c = g_c / (mean_c g_c + 1e-6), y = gamma x n + beta + x.
  gamma and beta start at zero: the identity.
  """

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [B, H, W, C]."""
    zeros = nn.initializers.zeros
    gamma, beta = (self.param(n, zeros, (x.shape[-1],)) for n in ("gamma", "beta"))
    square = jnp.sum(jnp.square(x), axis=(1, 2), keepdims=True)
    # The root's derivative at a channel of zeros (a black image) would be infinite.
    silent = square == 0
    g = jnp.where(silent, 0, jnp.sqrt(jnp.where(silent, 1, square)))
    n = g / (jnp.mean(g, axis=-1, keepdims=True) + 1e-6)
    return gamma * (x * n) + beta + x


def batch_norm(train: bool, name: str, **kw) -> nn.BatchNorm:
  """Batch norm over all axes but the last: eps 1e-5, running averages that keep .9 of themselves.

  In training it takes the batch's own mean and (biased) variance and updates `batch_stats`.
  """
  return nn.BatchNorm(
    use_running_average=not train, momentum=0.9, epsilon=BATCH_NORM_EPS, name=name, **kw
  )


def drop_path(rate: float, train: bool) -> nn.Dropout:
  """Stochastic depth (1603.09382): the branch of an example is left out as a whole.

  What remains is divided by 1 - rate.
  """
  return nn.Dropout(rate, broadcast_dims=(1, 2, 3), deterministic=not train)


def check_image(where: str, x: jax.Array) -> None:
  """Raises ValueError unless x is [B, H, W, C]."""
  if x.ndim != 4:
    raise ValueError(f"{where}: expected images [B, H, W, C], got shape {x.shape}.")
