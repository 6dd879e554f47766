import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_audio.objectives import alphaflow, flow, meanflow
from tests.objectives.test_meanflow import W, apply, inputs, net


def test_schedule():
  a = [float(alphaflow.schedule(p, 0.2, 0.6)) for p in (0.0, 0.2, 0.39, 0.4, 0.41, 0.6, 1.0)]
  assert a[:2] == [1.0, 1.0] and a[-2:] == [0.0, 0.0]
  assert a[3] == pytest.approx(0.5) and a[2] > 0.5 > a[4]
  # The slope: at a place of .1 beyond the middle of the range, sigmoid(25 * .1) of it is left.
  left = float(alphaflow.schedule(0.6, 0.0, 1.0))
  assert left == pytest.approx(1 / (1 + np.exp(2.5)), rel=1e-5)
  values = np.asarray([alphaflow.schedule(p) for p in np.linspace(0, 1, 400)])
  assert np.all(np.diff(values) <= 0) and values[values > 0].min() >= 5e-3
  with pytest.raises(ValueError, match="begin < end"):
    alphaflow.schedule(0.0, 0.5, 0.5)


def test_by_hand():
  """The paper's formula row by row."""
  x, e, t, r, cond = inputs()
  a = 0.3
  value, logs = alphaflow.alphaflow(net, x, e, t, r, a, ratio=0.5, cond=cond)
  x, e, t, r, cond = (np.asarray(v, np.float64) for v in (x, e, t, r, cond))
  f = lambda z, t, h, c: np.asarray(net(z[None], t[None], h[None], c[None]), np.float64)[0]
  for i in range(len(t)):
    z, v = (1 - t[i]) * x[i] + t[i] * e[i], e[i] - x[i]
    s = a * r[i] + (1 - a) * t[i]
    want = v
    if r[i] < t[i]:
      want = a * v + (1 - a) * f(z - (t[i] - s) * v, s, s - r[i], cond[i])
    d = np.sum((f(z, t[i], t[i] - r[i], cond[i]) - want) ** 2)
    np.testing.assert_allclose(value[i], d / (d + 1e-3), rtol=1e-4)
    scale = a if r[i] < t[i] else 1
    np.testing.assert_allclose(logs["mse"][i], d / 4 / scale**2, rtol=1e-4)


def loss_of(method, w, **kw):
  x, e, t, r, cond = inputs()
  fn = lambda z, t, h, c: apply(w, z, t, h, c)
  return method(fn, x, e, t, r, cond=cond, ratio=0.5, **kw)[0].mean()


def test_limits():
  """alpha = 1 is flow matching at every h, alpha -> 0 has MeanFlow's gradient (without weights)."""
  with jax.enable_x64(True):
    w = jnp.asarray(np.asarray(W, np.float64))
    small = jax.jit(jax.grad(lambda w: loss_of(alphaflow.alphaflow, w, alpha=1e-6, p=0)))(w)
    mf = jax.jit(jax.grad(lambda w: loss_of(meanflow.meanflow, w, p=0)))(w)
    np.testing.assert_allclose(small, mf, rtol=1e-4, atol=1e-7)
  x, e, t, r, cond = inputs()
  one = loss_of(alphaflow.alphaflow, W, alpha=1.0, p=0)
  u = apply(W, flow.interpolate(x, e, t), t, t - r, cond)
  np.testing.assert_allclose(one, jnp.mean(jnp.square(u - (e - x))), rtol=1e-5)


def test_no_jvp_while_alpha_is_positive():
  """A net without a forward derivative trains, and the extra evaluation is on the r < t rows."""
  seen = []

  @jax.custom_vjp
  def opaque(x):
    return jnp.sin(x)

  opaque.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g * jnp.cos(x),))

  def spy(z, t, h, cond):
    seen.append(z.shape[0])
    return opaque(net(z, t, h, cond))

  x, e, t, r, cond = inputs()
  alphaflow.alphaflow(spy, x, e, t, r, 0.5, ratio=0.5, cond=cond)
  assert seen == [16, 8]
  with pytest.raises(TypeError, match="custom_vjp"):
    meanflow.meanflow(spy, x, e, t, r, ratio=0.5, cond=cond)


@pytest.mark.parametrize("shards", [1, 4])
def test_rows_go_back_to_their_place(shards):
  x = jnp.arange(32.0).reshape(16, 2)
  rows, _ = meanflow.jvp_rows(16, 0.5, shards)
  part = meanflow.take_rows(x, rows, shards)
  np.testing.assert_array_equal(meanflow.put_rows(x, part, rows, shards), x)
  changed = np.asarray(meanflow.put_rows(x, part + 100, rows, shards) > 50).any(1)
  assert changed.sum() == 8
