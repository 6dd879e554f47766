"""Losses of heads against their plain definitions, example by example in numpy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.special import expit, softmax

from big_audio.objectives import ordinal as O

SCALE = O.Scale(6, 100.0, 127.0, 5.0)  # the step does not divide the range: 5.4 steps
rng = np.random.default_rng(0)
LABEL = np.array([0, 2, 5, 3])
VALUE = np.float32([100.0, 111.0, 127.0, 113.9])
TARGET = O.Target(LABEL, SCALE.position(VALUE))


def outputs(name, scale=SCALE):
  width = O.OBJECTIVES[name](scale).width(scale.classes)
  return rng.standard_normal((4, width)).astype(np.float32)


def by_example(fn, out):
  return [fn(out[i].astype(np.float64), int(LABEL[i]), float(VALUE[i])) for i in range(len(out))]


def check(name, plain, **settings):
  out = outputs(name)
  got = O.OBJECTIVES[name](SCALE, **settings).loss(out, TARGET)
  np.testing.assert_allclose(got, by_example(plain, out), rtol=2e-5)


def log_softmax(o):
  return np.log(softmax(o))


def test_cross_entropy_by_optax():
  out = outputs("cross_entropy")
  want = optax.softmax_cross_entropy_with_integer_labels(out, LABEL)
  np.testing.assert_allclose(O.cross_entropy(SCALE).loss(out, TARGET), want, rtol=1e-5)
  smooth = optax.smooth_labels(jax.nn.one_hot(LABEL, 6), 0.1)
  want = optax.softmax_cross_entropy(out, smooth)
  got = O.cross_entropy(SCALE, smoothing=0.1).loss(out, TARGET)
  np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("classes", [2, 3, 24])
def test_uniform_logits_cost_the_logarithm_of_the_classes(classes):
  target = O.Target(jnp.zeros(1, int), jnp.zeros(1))
  for name in ("cross_entropy",):
    got = O.OBJECTIVES[name](O.Scale(classes)).loss(jnp.zeros((1, classes)), target)
    np.testing.assert_allclose(got, math.log(classes), rtol=1e-6)
  for name in ("coral", "corn"):  # K-1 fair coins, of which corn asks those up to the class
    got = O.OBJECTIVES[name](O.Scale(classes)).loss(jnp.zeros((1, classes - 1)), target)
    coins = classes - 1 if name == "coral" else 1
    np.testing.assert_allclose(got, coins * math.log(2), rtol=1e-6)


@pytest.mark.parametrize("distance", ["l1", "l2", "huber"])
@pytest.mark.parametrize("unit, s", [("physical", 27 / 5), ("range", 1 / 5), ("class", 1.0)])
def test_ordinal(distance, unit, s):
  rho = dict(l1=abs, l2=lambda d: d * d, huber=lambda d: d * d / 2 if abs(d) <= 1 else abs(d) - 0.5)

  def plain(o, c, v):
    away = sum(k * p for k, p in enumerate(softmax(o))) - c
    return s * rho[distance](away) - 0.1 * log_softmax(o)[c]

  check("ordinal", plain, distance=distance, unit=unit)


def test_weighted_ce():
  plain = lambda o, c, v: (
    -log_softmax(o)[c] + sum((1 + abs(k - c) ** 2) * p for k, p in enumerate(softmax(o)) if k != c)
  )
  check("weighted_ce", plain)


@pytest.mark.parametrize(
  "shape, weight",
  [
    ("triangular", lambda d: max(3 - d, 0)),
    ("log_triangular", lambda d: math.exp(-d) if d <= 2 else 0),
    ("gaussian", lambda d: math.exp(-d * d / 8)),
  ],
)
@pytest.mark.parametrize("centre", ["label", "value"])
def test_soft_target(shape, weight, centre):
  def plain(o, c, v):
    at = c if centre == "label" else (v - 100) / 5
    q = np.array([weight(abs(k - at)) for k in range(6)], float)
    q /= q.sum()
    return sum(a * (math.log(a) - b) for a, b in zip(q, log_softmax(o), strict=True) if a > 0)

  check("soft_target", plain, shape=shape, centre=centre)
  out = np.log(np.maximum([[weight(abs(k - int(c))) for k in range(6)] for c in LABEL], 1e-30))
  exact = O.soft_target(SCALE, shape=shape).loss(out.astype(np.float32), TARGET)
  np.testing.assert_allclose(exact, 0, atol=1e-5)  # the target itself costs nothing


def test_regressions():
  check("quantized_regression", lambda o, c, v: 27 / 5 * abs(o[0] - c))
  check("normalized_regression", lambda o, c, v: 27 * (expit(o[0]) - (v - 100) / 27) ** 2)
  check(
    "normalized_regression", lambda o, c, v: abs(expit(o[0]) - (v - 100) / 27), distance="l1",
    unit="range",
  )  # fmt: skip

  def huber(o, c, v):
    d = abs(expit(o[0]) - (v - 100) / 27)
    return 27 * (d * d / 2 if d <= 0.1 else 0.1 * (d - 0.05))

  check("normalized_regression", huber, distance="huber")


def test_an_output_outside_of_the_classes_keeps_its_gradient():
  objective = O.quantized_regression(SCALE)
  grad = jax.grad(lambda o: jnp.sum(objective.loss(o, TARGET)))(jnp.full((4, 1), -3.0))
  np.testing.assert_allclose(grad, -27 / 5, rtol=1e-6)
  assert objective.position(jnp.full((1, 1), -3.0)) == 0


def test_coral_and_corn():
  bce = lambda x, t: -math.log(expit(x) if t else 1 - expit(x))
  check("coral", lambda o, c, v: sum(bce(x, c > k) for k, x in enumerate(o)))
  check("corn", lambda o, c, v: sum(bce(x, c > k) for k, x in enumerate(o) if k <= c))
  out = np.float32([[2.0, 1.0, 0.5, -0.1, -3.0]])
  p = expit(out[0].astype(np.float64))
  assert np.argmax(O.coral(SCALE).scores(out)) == 3
  np.testing.assert_allclose(O.coral(SCALE).position(out), p.sum(), rtol=1e-5)
  assert np.argmax(O.corn(SCALE).scores(out)) == int((np.cumprod(p) > 0.5).sum())
  np.testing.assert_allclose(O.corn(SCALE).position(out), np.cumprod(p).sum(), rtol=1e-5)


def test_the_class_of_an_ordinal_head_is_its_mean():
  """Two classes far apart: neither is what the loss compares with the label."""
  out = np.float32([[5.0, -9.0, -9.0, -9.0, 4.9, -9.0]])
  objective = O.ordinal(SCALE)
  np.testing.assert_allclose(objective.position(out), 4 / (1 + np.exp(0.1)), rtol=1e-4)
  assert np.argmax(objective.scores(out)) == 2


@pytest.mark.parametrize("shape", ["triangular", "log_triangular", "gaussian"])
@pytest.mark.parametrize("value", [100.0, 102.5, 104.9, 127.0])
def test_narrow_soft_targets_are_finite(shape, value):
  objective = O.soft_target(SCALE, shape=shape, width=0.3, centre="value")
  target = O.Target(np.array([0]), SCALE.position(np.float32([value])))
  assert np.isfinite(objective.loss(np.zeros((1, 6), np.float32), target)).all()


@pytest.mark.parametrize("name", O.OBJECTIVES)
def test_every_loss_finds_the_class_it_is_trained_to(name):
  """Gradient descent on one head's outputs leads to the right class and place."""
  objective = O.OBJECTIVES[name](SCALE, **({"unit": "class"} if "regr" in name else {}))
  width = objective.width(6)
  opt = optax.adam(0.1)
  assert objective.ranks == (name == "coral")

  def step(carry, _):
    out, state = carry
    grad = jax.grad(lambda o: jnp.sum(objective.loss(o, TARGET)))(out)
    change, state = opt.update(grad, state)
    return (out + change, state), None

  out = jnp.zeros((4, width))
  (out, _), _ = jax.lax.scan(step, (out, opt.init(out)), length=400)
  np.testing.assert_array_equal(np.argmax(objective.scores(out), axis=1), LABEL)
  value = SCALE.value(objective.position(out))
  # The class stands for a value within half a step of the true one; soft targets are wide.
  assert np.abs(value - VALUE).max() < (9 if name == "soft_target" else 3.6)


def test_scale():
  np.testing.assert_allclose(SCALE.value(np.float32([0, 2, 5, 5.4, 9])), [100, 110, 125, 127, 127])
  np.testing.assert_allclose(SCALE.position(np.float32([90, 111, 127, 140])), [0, 2.2, 5.4, 5.4])
  assert not O.Scale(3).physical
  for bad in (
    dict(classes=1),
    dict(classes=3, min=0.0),
    dict(classes=3, min=1.0, max=0.0, step=1.0),
  ):
    with pytest.raises(ValueError, match="needs"):
      O.Scale(**bad)
  with pytest.raises(ValueError, match="physical"):
    O.ordinal(O.Scale(3))
  with pytest.raises(ValueError, match='"range"'):
    O.ordinal(SCALE, unit="rnge")
