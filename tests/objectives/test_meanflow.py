import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_audio.objectives import alphaflow, flow, meanflow
from tests.objectives import eight_gaussians

RNG = jax.random.key(0)
W = jax.random.normal(jax.random.key(5), (7, 4)) * 0.3


def net(z, t, h, cond):
  """A small smooth net with every input in use; parameters are `W`."""
  return apply(W, z, t, h, cond)


def apply(w, z, t, h, cond):
  x = jnp.concatenate([z, t[:, None], h[:, None], t[:, None] * h[:, None]], axis=-1)
  return jnp.tanh(x @ w) * 2 + cond


def inputs(batch=16):
  k = jax.random.split(RNG, 4)
  x, e = jax.random.normal(k[0], (batch, 4)), jax.random.normal(k[1], (batch, 4))
  cond = jax.random.normal(k[2], (batch, 4)) * 0.1
  t, r = meanflow.sample_t_r(k[3], batch, ratio=0.5)
  return x, e, t, r, cond


@pytest.mark.parametrize("improved", [False, True])
def test_target_against_a_finite_difference_along_the_path(improved):
  """u + h du/dt - v, with du/dt by central differences in float64 instead of a jvp."""
  with jax.enable_x64(True):
    x, e, t, r, cond = (jnp.asarray(a, jnp.float64) for a in inputs())
    z, h, eps = flow.interpolate(x, e, t), t - r, 1e-6
    direction = net(z, t, jnp.zeros_like(h), cond) if improved else e - x
    at = lambda d: net(z + d * direction, t + d, h + d, cond)
    du = (at(eps) - at(-eps)) / (2 * eps)
    want = jnp.mean(jnp.square(at(0.0) + h[:, None] * du - (e - x)), axis=1)
    got, logs = meanflow.meanflow(net, x, e, t, r, ratio=0.5, improved=improved, cond=cond, p=0)
    np.testing.assert_allclose(got, want, rtol=1e-7)
    np.testing.assert_allclose(logs["mse"], want, rtol=1e-7)


@pytest.mark.parametrize("improved", [False, True])
@pytest.mark.parametrize("shards", [1, 4])
def test_split_rows_give_the_full_forms_gradients(improved, shards):
  x, e, t, r, cond = inputs()

  def loss(w, full):
    fn = lambda z, t, h, c: apply(w, z, t, h, c)
    kw = dict(ratio=0.5, improved=improved, cond=cond, shards=shards, full=full)
    return meanflow.meanflow(fn, x, e, t, r, **kw)[0].mean()

  a, ga = jax.value_and_grad(loss)(W, False)
  b, gb = jax.value_and_grad(loss)(W, True)
  np.testing.assert_allclose(a, b, rtol=1e-6)
  np.testing.assert_allclose(ga, gb, rtol=2e-5, atol=1e-7)
  assert float(jnp.abs(ga).max()) > 1e-3


def test_target_carries_no_gradient():
  """With the target held fixed by hand, gradients are the same."""
  x, e, t, r, cond = inputs()
  z, h = flow.interpolate(x, e, t), t - r

  def by_hand(w):
    fn = lambda z, t, h: apply(w, z, t, h, cond)
    _, du = jax.jvp(fn, (z, t, h), (e - x, jnp.ones_like(t), jnp.ones_like(h)))
    target = jax.lax.stop_gradient((e - x) - h[:, None] * du)
    return jnp.mean(jnp.square(fn(z, t, h) - target))

  fn = lambda w: lambda z, t, h, c: apply(w, z, t, h, c)
  ours = lambda w: meanflow.meanflow(fn(w), x, e, t, r, ratio=0.5, cond=cond, p=0)[0].mean()
  np.testing.assert_allclose(jax.grad(ours)(W), jax.grad(by_hand)(W), rtol=1e-5, atol=1e-7)


def test_jvp_runs_on_exactly_its_rows():
  seen = []

  def spy(z, t, h, cond):
    seen.append(z.shape[0])
    return net(z, t, h, cond)

  x, e, t, r, cond = inputs(16)
  meanflow.meanflow(spy, x, e, t, r, ratio=0.25, cond=cond)
  assert seen == [12, 4]
  for batch, ratio, shards, k in (
    (16, 0.25, 1, 4),
    (16, 0.3, 1, 5),
    (16, 0.25, 4, 1),
    (8, 1.0, 2, 4),
  ):
    rows, rest = meanflow.jvp_rows(batch, ratio, shards)
    assert len(rows) == k and len(rows) + len(rest) == batch // shards


def test_times():
  t, r = meanflow.sample_t_r(RNG, 64, ratio=0.25, shards=4)
  below = np.asarray(r < t)
  assert below.reshape(4, 16).sum(axis=1).tolist() == [4, 4, 4, 4]
  # whole numbers of rows: the same rows whatever the number of shards
  again = np.asarray(jnp.less(*reversed(meanflow.sample_t_r(RNG, 64, ratio=0.25, shards=1))))
  np.testing.assert_array_equal(below, again)
  assert ((t > 0) & (t < 1) & (r > 0) & (r <= t)).all()
  x = flow.sample_t(RNG, (20_000,), mean=-0.4, std=1.0)
  logit = np.log(x / (1 - x))
  assert abs(logit.mean() + 0.4) < 0.02 and abs(logit.std() - 1) < 0.02
  with pytest.raises(ValueError, match="uniform"):
    flow.sample_t(RNG, (2,), kind="normal")
  with pytest.raises(ValueError, match="ratio"):
    meanflow.jvp_rows(8, 1.5)
  with pytest.raises(ValueError, match="shards"):
    meanflow.jvp_rows(9, 0.5, 2)
  for batch, ratio, kind in ((2, 0.5, "< t"), (4, 0.1, "< t"), (8, 0.9, "= t")):
    with pytest.raises(ValueError, match=f"none are left with r {kind}"):
      meanflow.jvp_rows(batch, ratio, 2)


def test_adaptive_weight_and_split_logs():
  x, e, t, r, cond = inputs()
  value, logs = meanflow.meanflow(net, x, e, t, r, ratio=0.5, cond=cond, p=1.0, eps=0.01)
  d = logs["mse"] * 4
  np.testing.assert_allclose(value, d / (d + 0.01), rtol=1e-5)
  np.testing.assert_array_equal(logs["mse_equal"][1], t == r)
  np.testing.assert_array_equal(logs["mse_below"][1], t > r)


def test_flow_matching_is_the_r_equals_t_case():
  x, e, t, _, cond = inputs()
  fm, _ = flow.flow_matching(net, x, e, t, cond=cond)
  mf, _ = meanflow.meanflow(net, x, e, t, t, ratio=0.0, cond=cond, p=0)
  np.testing.assert_allclose(fm, mf, rtol=1e-6)


@pytest.mark.parametrize("method", ["fm", "mf", "alpha"])
def test_a_padded_example_costs_what_it_costs_alone(method):
  """Also where the weight depends on the summed square (p = .5)."""
  rng = np.random.default_rng(0)
  x, e = (jnp.asarray(rng.standard_normal((2, 6, 3)), jnp.float32) for _ in range(2))
  t, r = jnp.array([0.8, 0.6]), jnp.array([0.8, 0.2])
  fn = lambda z, t, h, c: jnp.sin(z) * (1 + h)[:, None, None]

  def loss(x, e, mask):
    kw = dict(mask=mask, p=0.5)
    if method == "fm":
      return flow.flow_matching(fn, x, e, t, **kw)[0]
    if method == "mf":
      return meanflow.meanflow(fn, x, e, t, r, ratio=0.5, **kw)[0]
    return alphaflow.alphaflow(fn, x, e, t, r, 0.5, ratio=0.5, **kw)[0]

  mask = jnp.arange(6)[None] < jnp.array([[4], [4]])
  np.testing.assert_allclose(loss(x, e, mask), loss(x[:, :4], e[:, :4], None), rtol=1e-5)


def test_masked_frames_do_not_count():
  err = jnp.ones((2, 3, 4)).at[0, 2].set(100.0)
  mask = jnp.asarray([[True, True, False], [True, True, True]])
  np.testing.assert_allclose(flow.frame_mean(err, mask), [1.0, 1.0])


@pytest.mark.slow
def test_eight_gaussians_gate():
  """One evaluation: MF, iMF and alpha-Flow reach the modes, flow matching and the bug do not."""
  passes = lambda score: score[0] < 0.35 and score[1] < 0.25
  for seed in range(3):
    rows = eight_gaussians.table(seed=seed)
    ok = {name: passes(scores[1]) for name, scores in rows.items()}
    want = {"fm": False, "mf": True, "imf": True, "alpha": True, "bug: unit tangent on r": False}
    assert ok == want, rows
