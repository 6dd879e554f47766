"""Losses of heads that name a class or a value on a scale, and what each takes its outputs for.

A head has K ordered classes c in [0, K); where it stands for a physical quantity, class k is the
value min + k step. Every loss is an `Objective`:

  width(K)          outputs that it needs
  loss(out, target) f32[B,width], Target -> f32[B]
  scores(out)       f32[B,K], largest for the class it predicts
  position(out)     f32[B], where on the scale of classes it places the example

| name | outputs | position |
|---|---|---|
| cross_entropy, weighted_ce, soft_target | K logits | expectation under the softmax |
| ordinal | K logits | the same; it is what the loss compares |
| coral, corn | K - 1 logits of "above class k" | sum of their probabilities |
| quantized_regression | 1, the class itself | the output, within [0, K-1] |
| normalized_regression | 1 | (max-min)/step sigmoid |
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from big_audio import config as C

Array = Any
UNITS = ("physical", "range", "class")


@dataclass(frozen=True)
class Scale:
  """The classes of a head and what they stand for.

  Attributes:
    classes: K.
    min, max, step: in physical units, None where classes are only numbers.
  """

  classes: int
  min: float | None = None
  max: float | None = None
  step: float | None = None

  def __post_init__(self):
    if self.classes < 2:
      raise ValueError(f"a head needs at least 2 classes, got {self.classes}.")
    given = [v is not None for v in (self.min, self.max, self.step)]
    if any(given) and not (all(given) and self.min < self.max and self.step > 0):
      raise ValueError(
        f"a scale needs min < max and step > 0, or none of them, got min={self.min}, "
        f"max={self.max}, step={self.step}."
      )

  @property
  def physical(self) -> bool:
    """Whether classes stand for values."""
    return self.min is not None

  def value(self, position: Array) -> Array:
    """Position on the scale of classes -> physical value, not beyond max."""
    return jnp.minimum(self.min + self.step * position, self.max)

  def position(self, value: Array) -> Array:
    """Physical value -> position on the scale of classes, in [0, (max-min)/step]."""
    return jnp.clip((value - self.min) / self.step, 0, (self.max - self.min) / self.step)


class Target(NamedTuple):
  """What a head should say: label i32[B], and position f32[B] on the scale of classes.

  The position is that of the true value where it is known, else the label. Where the step does not
  divide the range it may lie up to half a class outside of [0, K-1].
  """

  label: Array
  position: Array


class Objective(NamedTuple):
  """See the module's text. `ranks`: outputs share one score (CORAL), which the head has to know."""

  width: Callable[[int], int]
  loss: Callable[[Array, Target], Array]
  scores: Callable[[Array], Array]
  position: Callable[[Array], Array]
  ranks: bool = False


def cross_entropy(scale: Scale, *, smoothing: float = 0.0) -> Objective:
  """-log softmax(logits)[label].

  Args:
    scale: of the head.
    smoothing: share of the target's probability that all classes get in equal parts.
  """

  def loss(out, target):
    log = _log_softmax(out)
    return -(1 - smoothing) * _at(log, target.label) - smoothing * jnp.mean(log, axis=1)

  return _of_logits(scale, loss)


def ordinal(
  scale: Scale, *, distance: str = "l1", alpha: float = 0.1, unit: str = "physical"
) -> Objective:
  """s rho(m - c) + alpha CE, where m = sum_k k softmax_k.

  With "l2" the first term is s times the square of a number of classes, so not a physical value.

  Args:
    scale: of the head.
    distance: rho: "l1" |d|, "l2" d^2, "huber" (delta 1).
    alpha: weight of the cross entropy.
    unit: s, what a class counts: "physical" (max-min)/(K-1); "range" 1/(K-1), so that heads of
      unlike units weigh alike; "class" 1.
  """
  rho, s = _distance(distance, 1.0), _unit(scale, unit)

  def loss(out, target):
    away = _expectation(out) - target.label
    return s * rho(away) - alpha * _at(_log_softmax(out), target.label)

  # The class is the mean's, which is what is trained: the most probable one may lie far from it.
  scores = lambda out: _nearest(_expectation(out), scale)
  return Objective(lambda k: k, loss, scores, _expectation)


def weighted_ce(scale: Scale, *, power: float = 2.0) -> Objective:
  """CE + sum_{k != c} (1 + |k-c|^power) softmax_k: far mistakes cost more."""

  def loss(out, target):
    away = jnp.abs(jnp.arange(scale.classes) - target.label[:, None]).astype(jnp.float32)
    cost = jnp.where(away > 0, 1 + away**power, 0.0)
    p = jax.nn.softmax(out.astype(jnp.float32))
    return jnp.sum(cost * p, axis=1) - _at(_log_softmax(out), target.label)

  return _of_logits(scale, loss)


def soft_target(
  scale: Scale, *, shape: str = "triangular", width: float = 2.0, centre: str = "label"
) -> Objective:
  """KL(q || softmax(logits)) against a distribution q around the target.

  Args:
    scale: of the head.
    shape: of q over d = |k - target|: "triangular" width + 1 - d where positive;
      "log_triangular" exp(-d) where d <= width; "gaussian" exp(-d^2 / (2 width^2)) everywhere.
      Normalised.
    width: in classes; a triangular one of 0 is one class alone.
    centre: "label", or "value": the position of the true value between the classes.
  """
  if not (width > 0 or (width == 0 and shape == "triangular")):
    raise ValueError(f"soft_target: expected width > 0 (or 0, triangular), got {width}.")
  weights = C.pick(
    "soft_target.shape",
    {
      "triangular": lambda d: jnp.maximum(width + 1 - d, 0.0),
      # A value between two classes is half a class from one of them at most.
      "log_triangular": lambda d: jnp.where(d <= max(width, 0.5), jnp.exp(-d), 0.0),
      "gaussian": lambda d: jnp.exp(-(d**2) / (2 * width**2)),
    },
    shape,
  )
  at = C.pick("soft_target.centre", {"label": 0, "value": 1}, centre)

  def loss(out, target):
    away = jnp.abs(jnp.arange(scale.classes) - target[at][:, None].astype(jnp.float32))
    q = weights(away)
    q = q / jnp.sum(q, axis=1, keepdims=True)
    # q log q is 0 at q = 0.
    entropy = jnp.sum(jnp.where(q > 0, q * jnp.log(jnp.where(q > 0, q, 1.0)), 0.0), axis=1)
    return entropy - jnp.sum(q * _log_softmax(out), axis=1)

  return _of_logits(scale, loss)


def quantized_regression(
  scale: Scale, *, distance: str = "l1", unit: str = "physical"
) -> Objective:
  """s rho(out - c) of one output that is the class itself.

  Outside of [0, K-1] the output keeps its gradient: it is clipped where it is used, not here.
  Arguments as of `ordinal`.
  """
  rho, s = _distance(distance, 1.0), _unit(scale, unit)

  def loss(out, target):
    return s * rho(out[:, 0].astype(jnp.float32) - target.label)

  def position(out):
    return jnp.clip(out[:, 0].astype(jnp.float32), 0, scale.classes - 1)

  return Objective(lambda k: 1, loss, lambda out: _nearest(position(out), scale), position)


def normalized_regression(
  scale: Scale, *, distance: str = "l2", delta: float = 0.1, unit: str = "physical"
) -> Objective:
  """s (K-1) rho(sigmoid(out) - t), t in [0, 1] the true value's place between min and max.

  Args:
    scale: of the head.
    distance: rho: "l2", "l1" or "huber".
    delta: where "huber" turns linear.
    unit: as of `ordinal`; "physical" weighs by max - min, "range" by 1.
  """
  rho, s = _distance(distance, delta), _unit(scale, unit)
  top = scale.classes - 1
  # Not K-1 where the step does not divide the range.
  places = (scale.max - scale.min) / scale.step if scale.physical else top

  def loss(out, target):
    t = jnp.clip(target.position / places, 0, 1)
    return s * top * rho(jax.nn.sigmoid(out[:, 0].astype(jnp.float32)) - t)

  def position(out):
    return places * jax.nn.sigmoid(out[:, 0].astype(jnp.float32))

  return Objective(lambda k: 1, loss, lambda out: _nearest(position(out), scale), position)


def coral(scale: Scale) -> Objective:
  """Sum over k < K-1 of BCE(out_k, [c > k]), one score with K-1 thresholds.

  Cao, Mirjalili and Raschka 2020 (arXiv:1901.07884, eq. 4). The class is the number of
  probabilities above 1/2.
  """

  def loss(out, target):
    return jnp.sum(_bce(out, _above(target.label, scale.classes)), axis=1)

  def probabilities(out):
    return jax.nn.sigmoid(out.astype(jnp.float32))

  def scores(out):
    return jax.nn.one_hot(jnp.sum(probabilities(out) > 0.5, axis=1), scale.classes)

  return Objective(
    lambda k: k - 1, loss, scores, lambda out: jnp.sum(probabilities(out), axis=1), ranks=True
  )


def corn(scale: Scale) -> Objective:
  """Sum over k <= c of BCE(out_k, [c > k]), where out_k is of P(above k | above k-1).

  Shi, Cao and Raschka 2021 (arXiv:2111.08851, eq. 8). Their mean is over all pairs of example and
  task in a batch; here the tasks of an example are summed, so that it does not depend on others.
  """

  def loss(out, target):
    taken = jnp.arange(scale.classes - 1) <= target.label[:, None]
    return jnp.sum(taken * _bce(out, _above(target.label, scale.classes)), axis=1)

  def probabilities(out):  # of "above k", by the chain rule
    return jnp.cumprod(jax.nn.sigmoid(out.astype(jnp.float32)), axis=1)

  def scores(out):
    return jax.nn.one_hot(jnp.sum(probabilities(out) > 0.5, axis=1), scale.classes)

  return Objective(lambda k: k - 1, loss, scores, lambda out: jnp.sum(probabilities(out), axis=1))


OBJECTIVES: Mapping[str, Callable[..., Objective]] = {
  f.__name__: f
  for f in (
    cross_entropy, ordinal, weighted_ce, soft_target, quantized_regression, normalized_regression,
    coral, corn,
  )
}  # fmt: skip


def _of_logits(scale, loss):
  return Objective(lambda k: k, loss, lambda out: jax.nn.softmax(out.astype(jnp.float32)),
                   _expectation)  # fmt: skip


def _log_softmax(out):
  return jax.nn.log_softmax(out.astype(jnp.float32))


def _expectation(out):
  p = jax.nn.softmax(out.astype(jnp.float32))
  return jnp.sum(p * jnp.arange(out.shape[-1], dtype=jnp.float32), axis=1)


def _at(log, label):
  return jnp.take_along_axis(log, label[:, None], axis=1)[:, 0]


def _above(label, classes):
  return (label[:, None] > jnp.arange(classes - 1)).astype(jnp.float32)


def _bce(logits, target):
  """-t log sigmoid(x) - (1-t) log(1 - sigmoid(x)), stable."""
  x = logits.astype(jnp.float32)
  return jax.nn.softplus(x) - target * x


def _nearest(position, scale):
  at = jnp.clip(jnp.round(position), 0, scale.classes - 1)
  return jax.nn.one_hot(at.astype(jnp.int32), scale.classes)


def _unit(scale, unit):
  if unit == "physical" and not scale.physical:
    raise ValueError(
      'unit="physical" needs min, max and step of the head. Use unit="range" or unit="class".'
    )
  top = scale.classes - 1
  known = {u: None for u in UNITS}
  C.pick("unit", known, unit)
  return {"class": 1.0, "range": 1 / top}.get(unit) or (scale.max - scale.min) / top


def _distance(name, delta):
  return C.pick(
    "distance",
    {
      "l1": jnp.abs,
      "l2": jnp.square,
      "huber": lambda d: jnp.where(
        jnp.abs(d) <= delta, 0.5 * d**2, delta * (jnp.abs(d) - 0.5 * delta)
      ),
    },
    name,
  )
