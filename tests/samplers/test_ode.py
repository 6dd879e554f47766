import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_audio.samplers import guidance, ode

# dz/dt = a z: from t=1 to t=0, z(0) = z(1) exp(-a); average velocity over [t-h, t] in closed form.
A = 0.7
E = jnp.asarray([[1.0, -2.0], [0.5, 3.0]])


def u(z, t, h, cond):
  h = h[:, None]
  average = jnp.where(h > 0, (1 - jnp.exp(-A * h)) / jnp.where(h > 0, h, 1), A)
  return cond * average * z


@pytest.mark.parametrize("n", [1, 2, 5])
def test_u_steps_are_exact_for_the_average_velocity(n):
  np.testing.assert_allclose(ode.u_steps(u, E, n, 1.0), E * np.exp(-A), rtol=1e-6)


def test_v_steps_are_euler():
  np.testing.assert_allclose(ode.v_steps(u, E, 4, 1.0), E * (1 - A / 4) ** 4, rtol=1e-6)


# dz/dt = z (1 + t), not autonomous: wrong times of a stage change the order.
def growing(z, t, h, cond):
  return z * (1 + t)[:, None]


@pytest.mark.parametrize("name, order", [("euler", 1), ("midpoint", 2), ("heun", 2)])
def test_order_of_convergence(name, order):
  with jax.enable_x64(True):
    e = jnp.asarray(E, jnp.float64)
    exact = e * np.exp(-1.5)
    err = [float(abs(ode.sample(name, growing, e, n) - exact).max()) for n in (32, 64, 128)]
  for coarse, fine in itertools.pairwise(err):
    assert abs(np.log2(coarse / fine) - order) < 0.15


def spied(name, n, **kw):
  """Every (t, h) that a sampler asks for, in order."""
  seen = []

  def fn(z, t, h, cond):
    jax.debug.callback(lambda t, h: seen.append((float(t), float(h))), t[0], h[0], ordered=True)
    return jnp.zeros_like(z)

  jax.block_until_ready(ode.sample(name, fn, E[:1], n, **kw))
  jax.effects_barrier()
  return seen


def test_times_and_numbers_of_evaluations():
  assert spied("u_steps", 1) == [(1, 1)]
  assert spied("u_steps", 4) == [(1, 0.25), (0.75, 0.25), (0.5, 0.25), (0.25, 0.25)]
  assert spied("euler", 2) == [(1, 0), (0.5, 0)]
  assert spied("midpoint", 4) == [(1, 0), (0.75, 0), (0.5, 0), (0.25, 0)]
  # n evaluations are n / 2 steps of 2 / n, and the second stage ends at t = 0 exactly.
  assert spied("heun", 4) == [(1, 0), (0.5, 0), (0.5, 0), (0, 0)]
  noise = lambda i: E[:1]
  assert spied("consistency", 4, noise=noise) == [(t, t) for t in (1, 0.75, 0.5, 0.25)]


# Data N(m, s^2), standard prior: z_t is Gaussian and so is every conditional mean.
# v(z, t) = E[e - x | z] and the path of a point is z(t) = (1-t) m + scale(t) * const.
M, S = 1.5, 0.4


def scale(t):
  return jnp.sqrt((1 - t) ** 2 * S**2 + t**2)


def velocity(z, t):
  t = t[:, None]
  gain = (t - (1 - t) * S**2) / scale(t) ** 2
  return -M + gain * (z - (1 - t) * M)


def average(z, t, h, cond):
  """u(z, t, h) in closed form; v at h = 0."""
  t_, h_ = t[:, None], h[:, None]
  r = t_ - h_
  end = (1 - r) * M + scale(r) / scale(t_) * (z - (1 - t_) * M)
  return jnp.where(h_ > 0, (z - end) / jnp.where(h_ > 0, h_, 1), velocity(z, t))


@pytest.mark.parametrize("name, n", [("u_steps", 1), ("u_steps", 3), ("euler", 200),
                                     ("midpoint", 64), ("heun", 64)])  # fmt: skip
def test_gaussian(name, n):
  """Noise becomes data point by point: m + s e."""
  e = jax.random.normal(jax.random.key(0), (256, 1))
  tol = {"u_steps": 1e-5, "euler": 2e-2}.get(name, 2e-3)
  np.testing.assert_allclose(ode.sample(name, average, e, n), M + S * e, atol=tol)


def test_average_velocity_is_the_integral():
  """The closed form that the other tests stand on, by Simpson's rule along the path."""
  with jax.enable_x64(True):
    z, t, h = jnp.asarray([[0.3]]), jnp.asarray([0.9]), jnp.asarray([0.6])
    at = lambda s: (1 - s) * M + scale(s) / scale(t) * (z - (1 - t) * M)
    s = jnp.linspace(0.3, 0.9, 401)
    v = jnp.stack([velocity(at(q), q[None])[0, 0] for q in s])
    w = np.ones(401)
    w[1:-1:2], w[2:-1:2] = 4, 2
    np.testing.assert_allclose(average(z, t, h, None)[0, 0], (w @ v) / w.sum(), rtol=1e-6)


def test_consistency_keeps_the_gaussian():
  e = jax.random.normal(jax.random.key(0), (20_000, 1))
  noise = lambda i: jax.random.normal(jax.random.fold_in(jax.random.key(1), i), e.shape)
  x = ode.sample("consistency", average, e, 4, noise=noise)
  assert abs(float(x.mean()) - M) < 0.02 and abs(float(x.std()) - S) < 0.02
  one = ode.sample("consistency", average, e, 1)
  np.testing.assert_allclose(one, M + S * e, atol=1e-5)
  assert float(jnp.abs(x - one).mean()) > 0.1  # fresh noise, not the same path


def test_guidance():
  fn = lambda z, t, h, c: z * 0 + c["a"]
  guided = guidance.Guided(fn, {"a": jnp.asarray([1.0, 1.0])}, 3.0, (0.5, 1.0))
  t = jnp.asarray([0.9, 0.2])
  cond = {"a": jnp.asarray([[2.0, 0.0], [2.0, 0.0]])}
  np.testing.assert_allclose(guided(E, t, 0 * t, cond), [[4, -2], [2, 0]])
  # Two evaluations of a guided euler are one step.
  np.testing.assert_allclose(
    ode.sample("euler", guided, E, 2, cond), E - jnp.asarray([[4.0, -2.0]]), rtol=1e-6
  )
  with pytest.raises(ValueError, match="costs 2 network evaluations"):
    ode.sample("euler", guided, E, 3, cond)
  with pytest.raises(ValueError, match="costs 4 network evaluations"):
    ode.sample("heun", guided, E, 6, cond)


def test_errors():
  with pytest.raises(ValueError, match="at least one"):
    ode.u_steps(u, E, 0)
  for name in ("heun", "midpoint"):
    with pytest.raises(ValueError, match=r"do not divide 5\. Use 4 or 6"):
      ode.sample(name, u, E, 5, 1.0)
  with pytest.raises(ValueError, match='"heun"'):
    ode.sample("huen", u, E, 2, 1.0)
  with pytest.raises(ValueError, match="noise="):
    ode.sample("consistency", u, E, 2, 1.0)
