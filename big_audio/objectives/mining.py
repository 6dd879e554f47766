"""Which items of a batch are compared with which: masks of pairs, and one negative for a pair.

Everything has static shapes and is computed over the whole batch: B anchors against R references,
the batch itself or stored embeddings. The distance is d = 1 - cos, in [0, 2].

A miner takes distances and pairs and gives `Triplets`: P positives for each anchor (1 or R), and
one negative for each of them. No gradient flows through a choice.

| name | negative | positive |
|---|---|---|
| all | every one; the loss is a sum over all triplets | every one |
| hard | the nearest | the farthest |
| semihard | the nearest beyond the positive, else the nearest | the farthest |
| progressive | semihard, later hard | the farthest |
| random | uniform | every one |
| distance_weighted | so that its distance is uniform on the sphere | every one |
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from big_audio import config as C

Array = Any
POSITIVES = ("hardest", "all")


class Items(NamedTuple):
  """Embeddings and what they are of.

  Attributes:
    x: f32[B,D], unit length.
    label: i32[B]; -1 is trash: of no class, so never an anchor nor a positive, and a negative to
      everyone.
    track: i32[B], which recording a row is cut from.
    valid: bool[B]; rows that are False (padding) take part in nothing, whatever they hold.
  """

  x: Array
  label: Array
  track: Array
  valid: Array


class Pairs(NamedTuple):
  """bool[B,R]: which references are positives and negatives of which anchors."""

  pos: Array
  neg: Array


def pairs(items: Items, refs: Items | None = None, *, same_track: bool = False) -> Pairs:
  """Positives have the anchor's label and are of another track; negatives have another label.

  Args:
    items: B anchors.
    refs: R references; None: the anchors themselves.
    same_track: chunks of the anchor's own track are positives too. For data without track
      identities, where each item is a recording; the anchor itself never is one.
  """
  own = items if refs is None else refs
  anchor = items.valid & (items.label >= 0)
  both = anchor[:, None] & own.valid
  alike = items.label[:, None] == own.label
  pos = both & alike
  if not same_track:
    pos &= items.track[:, None] != own.track
  elif refs is None:
    pos &= ~jnp.eye(len(items.label), dtype=bool)
  return Pairs(pos, both & ~alike)


def cosines(items: Items, refs: Items | None = None) -> Array:
  """f32[B,R]: x.y at full precision; rows that are not valid count as zeros."""
  x = _clean(items)
  y = x if refs is None else _clean(refs)
  return jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)


def _clean(items):
  # What padding holds may be no number, which 0 times anything would not hide.
  return jnp.where(items.valid[:, None], items.x.astype(jnp.float32), 0.0)


class Triplets(NamedTuple):
  """Chosen triplets.

  Attributes:
    positive: i32[B,P], places among the references.
    negative: i32[B,P], one for each positive.
    keep: bool[B,P], False where there is no such pair.
    fallback: bool[B,P], True where no negative was as the miner wants it.
  """

  positive: Array
  negative: Array
  keep: Array
  fallback: Array


class Miner(NamedTuple):
  """How triplets are chosen.

  Attributes:
    select: (d, pairs, *, dims, margin, progress, rng) -> Triplets. None: all triplets.
    needs_rng: whether rng is used.
  """

  select: Callable[..., Triplets] | None
  needs_rng: bool = False


def every() -> Miner:
  """All triplets of a batch (batch-all of Hermans et al. 2017, arXiv:1703.07737)."""
  return Miner(None)


def hard(*, positives: str = "hardest") -> Miner:
  """The nearest negative (batch-hard of Hermans et al. 2017, arXiv:1703.07737).

  It may collapse early in a training: start from semi-hard, or with a small learning rate.

  Args:
    positives: "hardest", the farthest of the anchor, or "all".
  """
  _check(positives)

  def select(d, pairs, **_):
    positive, keep = _positives(positives, d, pairs)
    negative = jnp.argmin(jnp.where(pairs.neg, d, jnp.inf), axis=1)[:, None]
    return _triplets(positive, jnp.broadcast_to(negative, positive.shape), keep)

  return Miner(select)


def semihard(*, positives: str = "hardest", bounded: bool = False) -> Miner:
  """The nearest negative that is farther than the positive (FaceNet, arXiv:1503.03832, eq. 4).

  Where no negative is, the nearest of all is taken.

  Args:
    positives: "hardest", the farthest of the anchor, or "all" as in FaceNet.
    bounded: a negative must also be nearer than d_ap + margin, as in FaceNet; without, it may be
      one that costs nothing.
  """
  _check(positives)

  def select(d, pairs, *, margin, **_):
    positive, keep = _positives(positives, d, pairs)
    far = jnp.where(pairs.neg, d, jnp.inf)
    order = jnp.argsort(far, axis=1)
    far = jnp.take_along_axis(far, order, axis=1)
    d_ap = jnp.take_along_axis(d, positive, axis=1)
    at = _above(far, d_ap)  # [B,P] the first that is farther
    at = jnp.minimum(at, d.shape[1] - 1)
    d_an = jnp.take_along_axis(far, at, axis=1)
    found = (d_an > d_ap) & jnp.isfinite(d_an)
    if bounded:
      found &= d_an < d_ap + margin
    negative = jnp.take_along_axis(order, jnp.where(found, at, 0), axis=1)
    return _triplets(positive, negative, keep, ~found)

  return Miner(select)


def progressive(
  *, hard_from_percent: float = 50.0, positives: str = "hardest", bounded: bool = False
) -> Miner:
  """Semi-hard negatives up to `hard_from_percent` of the training, then hard ones.

  Args:
    hard_from_percent: in [0, 100].
    positives, bounded: as of `semihard`.
  """
  percent("hard_from_percent", hard_from_percent)
  first, then = semihard(positives=positives, bounded=bounded), hard(positives=positives)

  def select(d, pairs, *, progress, **kw):
    late = 100 * progress >= hard_from_percent
    a = first.select(d, pairs, progress=progress, **kw)
    b = then.select(d, pairs, progress=progress, **kw)
    return jax.tree.map(lambda x, y: jnp.where(late, y, x), a, b)

  return Miner(select)


def random(*, positives: str = "all") -> Miner:
  """A negative drawn uniformly for every positive.

  Args:
    positives: "all", or "hardest", the farthest of the anchor.
  """
  _check(positives)

  def select(d, pairs, *, rng, **_):
    positive, keep = _positives(positives, d, pairs)
    return _triplets(positive, _draw(rng, pairs.neg, positive.shape[1]), keep)

  return Miner(select, needs_rng=True)


def distance_weighted(
  *, positives: str = "all", nearest: float = 0.5, farthest: float = 1.4
) -> Miner:
  """A negative drawn with weight 1 / q(distance) (Wu et al. 2017, arXiv:1706.07567, eq. 3).

  q is the density of Euclidean distances between uniform points of the unit sphere. An anchor
  whose negatives are all beyond `farthest` is left out.

  Args:
    positives: "all", or "hardest", the farthest of the anchor.
    nearest: smaller Euclidean distances count as this one, else near ones would be all.
    farthest: Euclidean distance from which on negatives are not drawn.
  """
  _check(positives)
  if not 0 < nearest < farthest <= 2:
    raise ValueError(
      f"objectives.mining: expected 0 < nearest < farthest <= 2, got {nearest} and {farthest}."
    )

  def select(d, pairs, *, dims, rng, **_):
    positive, keep = _positives(positives, d, pairs)
    log = sphere_log_weights(d, dims, nearest=nearest)
    drawn = pairs.neg & (jnp.sqrt(2 * jnp.maximum(d, 0.0)) < farthest)
    top = jnp.max(jnp.where(drawn, log, -jnp.inf), axis=1, keepdims=True)
    weights = jnp.where(drawn, jnp.exp(jnp.where(drawn, log - top, 0.0)), 0.0)
    keep &= drawn.any(axis=1)[:, None]
    return _triplets(positive, _draw(rng, weights, positive.shape[1]), keep)

  return Miner(select, needs_rng=True)


def sphere_log_weights(d: Array, dims: int, *, nearest: float) -> Array:
  """-log q(e) of Euclidean distances e = sqrt(2 d), but at least `nearest`, without its constant.

  q(e) = e^(n-2) (1 - e^2/4)^((n-3)/2) in n = dims dimensions (arXiv:1706.07567, section 4).
  """
  square = jnp.clip(2 * d, nearest**2, 4 - 1e-6)
  return (2.0 - dims) * 0.5 * jnp.log(square) - 0.5 * (dims - 3) * jnp.log1p(-square / 4)


MINERS: Mapping[str, Callable[..., Miner]] = {
  "all": every, "hard": hard, "semihard": semihard, "progressive": progressive, "random": random,
  "distance_weighted": distance_weighted,
}  # fmt: skip


def warmed_up(chosen: Triplets, neg: Array, *, share: Array, rng: Array) -> Triplets:
  """Keeps each mined negative with probability `share`; the others are drawn uniformly.

  Args:
    chosen: by a miner.
    neg: bool[B,R].
    share: f32[] in [0,1].
    rng: a key.
  """
  which, draw = jax.random.split(rng)
  mined = jax.random.uniform(which, chosen.negative.shape) < share
  other = _draw(draw, neg, chosen.negative.shape[1])
  return chosen._replace(
    negative=jnp.where(mined, chosen.negative, other), fallback=chosen.fallback & mined
  )


def percent(name: str, value: float) -> None:
  """Raises ValueError unless `value` is in [0, 100]."""
  if not 0 <= value <= 100:
    raise ValueError(f"objectives: {name}={value}: expected a percentage in [0, 100].")


def _check(positives):
  C.pick("objectives.mining: positives", dict.fromkeys(POSITIVES), positives)


def _positives(how, d, pairs):
  """(i32[B,P] places, bool[B,P] that anchors with a negative have them)."""
  usable = pairs.neg.any(axis=1)[:, None]
  if how == "all":
    places = jnp.broadcast_to(jnp.arange(d.shape[1]), d.shape)
    return places, pairs.pos & usable
  farthest = jnp.argmax(jnp.where(pairs.pos, d, -jnp.inf), axis=1)[:, None]
  return farthest, pairs.pos.any(axis=1)[:, None] & usable


def _triplets(positive, negative, keep, fallback=None):
  fallback = jnp.zeros_like(keep) if fallback is None else fallback & keep
  return Triplets(positive, negative, keep, fallback)


def _above(rows, values):
  """i32[B,P]: how many of a sorted row [B,R] are not above each of its values [B,P]."""
  return jax.vmap(lambda row, v: jnp.searchsorted(row, v, side="right"))(rows, values)


def _draw(rng, weights, count):
  """i32[B,count]: places drawn in proportion to weights [B,R]; 0 where all of a row are zero."""
  weights = weights.astype(jnp.float32)
  total = jnp.cumsum(weights, axis=1)
  u = jax.random.uniform(rng, (weights.shape[0], count))
  at = _above(total, u * total[:, -1:])
  # u times the sum may round up to the sum, which would pass the last place with a weight.
  last = weights.shape[1] - 1 - jnp.argmax(weights[:, ::-1] > 0, axis=1)
  return jnp.where(total[:, -1:] > 0, jnp.minimum(at, last[:, None]), 0)
