import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_audio.trainers import rate

START = float(np.float32(np.log(1e-3)))


def moved(bits, steps=1000, **kw):
  return float(rate.next_log_weight(START, jnp.array(bits), 20.0, steps, **kw)) - START


def test_it_follows_the_relative_excess_of_rows_that_count():
  assert moved([30.0, 20.0]) == pytest.approx(27 / 1000 * 0.25, rel=1e-3)
  assert moved([10.0, 10.0]) == pytest.approx(-27 / 1000 * 0.5, rel=1e-3)
  assert moved([900.0, 900.0]) == pytest.approx(27 / 1000, rel=1e-3)  # no more than that
  some = jnp.array([True, False])
  assert moved([30.0, 5.0], counts=some) == pytest.approx(27 / 1000 * 0.5, rel=1e-3)
  assert moved([30.0, 5.0], counts=~(some | ~some)) == 0


def test_short_trainings_move_faster_and_the_weight_is_bounded():
  assert moved([30.0], steps=100) == pytest.approx(10 * moved([30.0]), rel=1e-3)
  assert moved([40.0], steps=1) + START == pytest.approx(np.log(rate.MAX_WEIGHT))


def test_no_gradient_flows_into_the_bits():
  fn = lambda bits: rate.next_log_weight(START, bits, 20.0, 1000)
  assert not np.any(jax.grad(fn)(jnp.array([30.0, 25.0])))
