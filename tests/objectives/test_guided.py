import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_audio.objectives import flow, guided, meanflow
from tests.objectives.test_meanflow import W, apply, inputs, net

KEY = jax.random.key(3)
NULL = jnp.zeros((4,))


def at(name):
  x, e, t, r, cond = inputs()
  return dict(z=flow.interpolate(x, e, t), t=t, r=r, v=e - x, cond=cond)[name]


def test_drop_condition():
  cond = {"lat": jnp.ones((4000, 3)), "label": jnp.full((4000,), 7)}
  out, dropped = guided.drop_condition(KEY, cond, {"lat": jnp.zeros(3), "label": 10}, 0.1)
  assert abs(float(dropped.mean()) - 0.1) < 0.02
  np.testing.assert_array_equal(out["lat"][:, 0] == 0, dropped)
  np.testing.assert_array_equal(out["label"], np.where(dropped, 10, 7))
  assert out["label"].dtype == cond["label"].dtype


def test_fixed_by_hand():
  z, t, v, cond = (at(k) for k in ("z", "t", "v", "cond"))
  dropped = jnp.zeros(16, bool).at[3].set(True)
  kw = dict(omega=2.0, kappa=0.3, interval=(0.3, 0.7))
  got = guided.fixed(net, z, t, v, cond, NULL, dropped, **kw)
  field = 2 * v + (1 - 2 - 0.3) * net(z, t, 0 * t, 0 * cond) + 0.3 * net(z, t, 0 * t, cond)
  inside = np.array((t >= 0.3) & (t <= 0.7))
  inside[3] = False
  assert inside.any() and not inside.all()
  np.testing.assert_allclose(got, np.where(inside[:, None], field, v), rtol=1e-5)
  plain = guided.fixed(net, z, t, v, cond, NULL, dropped, omega=1.0)
  np.testing.assert_allclose(plain, v, atol=1e-6)


def with_ctx(z, t, h, cond, ctx=None):
  out = net(z, t, h, cond)
  return out if ctx is None else out * ctx["w"][:, None]


def test_flexible_by_hand():
  z, t, r, v, cond = (at(k) for k in ("z", "t", "r", "v", "cond"))
  ctx = guided.sample_context(KEY, t, r, jnp.zeros(16, bool))
  intervals = []

  def spy(z, t, h, cond, ctx):
    assert not np.any(h)
    intervals.append((ctx["t_min"], ctx["t_max"]))
    return with_ctx(z, t, h, cond, ctx)

  got, v_c = guided.flexible(spy, z, t, v, cond, NULL, ctx)
  assert len(intervals) == 2  # at h = 0 the net knows no other interval than the whole
  assert all(not np.any(low) and np.all(high == 1) for low, high in intervals)
  inside = (t >= ctx["t_min"]) & (t <= ctx["t_max"])
  assert inside.any() and not inside.all()
  w = jnp.where(inside, ctx["w"], 1.0)[:, None]
  np.testing.assert_allclose(v_c, net(z, t, 0 * t, cond) * w, rtol=1e-5)
  np.testing.assert_allclose(
    got, v + (1 - 1 / w) * (v_c - net(z, t, 0 * t, 0 * cond)), rtol=1e-4, atol=1e-6
  )


def test_context():
  n = 4000
  t, r = meanflow.sample_t_r(KEY, n, ratio=0.5)
  dropped = jnp.arange(n) % 10 == 0
  ctx = {k: np.asarray(a) for k, a in guided.sample_context(KEY, t, r, dropped).items()}
  assert np.all(ctx["w"][::10] == 1)
  log_w = np.log(ctx["w"][np.arange(n) % 10 != 0]) / np.log(8)
  assert abs(log_w.mean() - 0.5) < 0.02 and abs(log_w.std() - 12**-0.5) < 0.02
  equal = np.asarray(r == t)
  assert np.all(ctx["t_min"][equal] == 0) and np.all(ctx["t_max"][equal] == 1)
  assert abs(ctx["t_min"][~equal].mean() - 0.25) < 0.02
  assert abs(ctx["t_max"][~equal].mean() - 0.75) < 0.02


def test_the_tangent_is_the_networks_own_guided_velocity():
  """imf along v_c by finite differences, towards the guided target."""
  with jax.enable_x64(True):
    x, e, t, r, cond = (jnp.asarray(a, jnp.float64) for a in inputs())
    z, h = flow.interpolate(x, e, t), t - r
    ctx = guided.sample_context(KEY, t, r, jnp.zeros(16, bool))
    target, v_c = guided.flexible(with_ctx, z, t, e - x, cond, NULL, ctx)
    kw = dict(ratio=0.5, improved=True, cond=cond, ctx=ctx, target=target, own=v_c, p=0)
    got, _ = meanflow.meanflow(with_ctx, x, e, t, r, **kw)
    along = lambda d: with_ctx(z + d * v_c, t + d, h + d, cond, ctx)
    du = (along(1e-6) - along(-1e-6)) / 2e-6
    want = jnp.mean(jnp.square(along(0.0) + h[:, None] * du - target), axis=1)
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("improved", [False, True])
def test_v_head(improved):
  """Its own loss on all rows; under imf its velocity is the tangent."""
  x, e, t, r, cond = inputs()
  v_of = lambda z, t, h, c: jnp.sin(z) + c
  two = lambda z, t, h, c: (net(z, t, h, c), v_of(z, t, h, c))
  kw = dict(ratio=0.5, improved=improved, cond=cond, p=0)
  value, logs = meanflow.meanflow(two, x, e, t, r, **kw, v_weight=0.5)
  z = flow.interpolate(x, e, t)
  mse_v = jnp.mean(jnp.square(v_of(z, t, 0, cond) - (e - x)), axis=1)
  np.testing.assert_allclose(logs["mse_v"], mse_v, rtol=1e-5)
  own = v_of(z, t, 0, cond) if improved else None
  alone, _ = meanflow.meanflow(net, x, e, t, r, **kw, own=own)
  np.testing.assert_allclose(value, alone + 0.5 * mse_v, rtol=1e-5)

  def of(w):  # gradients reach the v-head through the auxiliary output
    fn = lambda z, t, h, c: (net(z, t, h, c), apply(w, z, t, h, c))
    return meanflow.meanflow(fn, x, e, t, r, **kw)[0].mean()

  want = jax.grad(
    lambda w: jnp.mean(jnp.square(apply(w, z, t, t - r, cond) - (e - x)))
  )(W)  # fmt: skip
  np.testing.assert_allclose(jax.grad(of)(W), want, rtol=1e-4, atol=1e-6)


def test_predict_x():
  x, e, t, _, cond = inputs()
  z = flow.interpolate(x, e, t)
  exact = flow.predict_x(lambda z, t, h, c: x)
  np.testing.assert_allclose(exact(z, t, 0 * t, cond), e - x, rtol=2e-4, atol=1e-5)
  corrected = flow.predict_x(lambda z, t, h, c: x - c, base=lambda c: c)
  np.testing.assert_allclose(corrected(z, t, 0 * t, cond), e - x, rtol=2e-4, atol=1e-5)
  small = jnp.full_like(t, 0.01)
  np.testing.assert_allclose(exact(z, small, 0 * t, cond), (z - x) / 0.05, rtol=1e-5)
