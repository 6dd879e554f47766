import jax.numpy as jnp
import numpy as np
import pytest

from big_audio.samplers import ode

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
  err = [abs(ode.v_steps(u, E, n, 1.0) - E * np.exp(-A)).max() for n in (8, 16)]
  assert 1.8 < err[0] / err[1] < 2.2


def test_times_of_the_grid():
  seen = []

  def spy(z, t, h, cond):
    seen.append((float(t[0]), float(h[0])))
    return jnp.zeros_like(z)

  ode.u_steps(spy, E, 1)
  assert seen == [(1.0, 1.0)]
  with pytest.raises(ValueError, match="at least one"):
    ode.u_steps(u, E, 0)
