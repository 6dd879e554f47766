"""Parts of image networks against their equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from big_audio.models import convnext
from big_audio.nn import image


def _x(*shape, seed=0):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("kernel, stride, size", [(3, 2, (8, 5)), (5, 1, (3, 6)), (1, 2, (4, 4))])
def test_depthwise_equals_a_grouped_convolution(kernel, stride, size):
  conv, x = image.DepthwiseConv2D(kernel, stride), _x(2, *size, 3)
  p = {"kernel": _x(kernel, kernel, 3, seed=1), "bias": _x(3, seed=2)}
  want = jax.lax.conv_general_dilated(
    x,
    p["kernel"][:, :, None],
    (stride, stride),
    [(kernel // 2, kernel // 2)] * 2,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
    feature_group_count=3,
  )
  got = conv.apply({"params": p}, x)
  assert got.shape[1:3] == tuple(-(-n // stride) for n in size)
  np.testing.assert_allclose(got, want + p["bias"], atol=1e-5)


def test_response_norm_by_its_equations():
  x, gamma, beta = _x(2, 4, 5, 3), _x(3, seed=1), _x(3, seed=2)
  want = np.zeros_like(x)
  for b in range(2):
    g = np.array([np.linalg.norm(x[b, :, :, c]) for c in range(3)])
    n = g / (g.mean() + 1e-6)
    for c in range(3):
      want[b, :, :, c] = gamma[c] * x[b, :, :, c] * n[c] + beta[c] + x[b, :, :, c]
  apply = lambda x: image.GRN().apply({"params": {"gamma": gamma, "beta": beta}}, x)
  np.testing.assert_allclose(apply(x), want, rtol=1e-5, atol=1e-5)
  silent = jax.jit(jax.grad(lambda x: jnp.sum(apply(x))))(0 * x)
  assert np.isfinite(silent).all()
  start = image.GRN()
  np.testing.assert_array_equal(jax.jit(start.init_with_output)(jax.random.key(0), x)[0], x)


def test_layer_norm_by_its_equation():
  x, scale, bias = 1e-3 * _x(2, 3, 3, 4), _x(4, seed=1), _x(4, seed=2)  # small: eps counts
  mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
  want = (x - mean) / np.sqrt(var + 1e-6) * scale + bias
  got = convnext._norm("norm").apply({"params": {"scale": scale, "bias": bias}}, x)
  np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)


def test_batch_norm_averages():
  class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
      return image.batch_norm(True, "norm")(x)

  x = 2 + 3 * _x(6, 4, 4, 2)
  v = jax.jit(Net().init)(jax.random.key(0), x)
  y, new = jax.jit(lambda v, x: Net().apply(v, x, mutable="batch_stats"))(v, x)
  np.testing.assert_allclose(np.mean(y, (0, 1, 2)), 0, atol=1e-5)
  stats = new["batch_stats"]["norm"]
  np.testing.assert_allclose(stats["mean"], 0.1 * x.mean((0, 1, 2)), rtol=1e-4)
  np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * x.var((0, 1, 2)), rtol=1e-4)


def test_stochastic_depth_takes_whole_examples():
  x = np.ones((200, 2, 2, 3), np.float32)
  apply = lambda train: image.drop_path(0.25, train).apply(
    {}, x, rngs={"dropout": jax.random.key(0)}
  )
  np.testing.assert_array_equal(apply(False), x)
  y = np.asarray(apply(True)).reshape(200, -1)
  assert np.ptp(y, axis=1).max() == 0 and set(np.unique(y[:, 0])) == {0, np.float32(4 / 3)}
  assert 0.6 < np.mean(y > 0) < 0.9
