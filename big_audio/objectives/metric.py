"""Losses on embeddings of a whole batch: which are near, which are far.

d(x, y) = 1 - cos(x, y). Every loss is an `Objective`; `build` makes one by name:

| name | compares | source |
|---|---|---|
| triplet | anchor, positive, negative by a miner of `mining` | arXiv:1503.03832 |
| quadruplet | and a sound that belongs to no class | |
| multi_similarity | pairs that its own miner keeps | arXiv:1904.06627 |
| supcon | positives against all, softmax | arXiv:2004.11362 |
| ntxent | one positive against all negatives, softmax | arXiv:2002.05709 |
| proxy_anchor | items with a learnt vector for each class | arXiv:2003.13911 |

With `memory=dict(size=...)` anchors are also compared with embeddings of earlier batches (module
`memory`). A batch without a pair to compare costs 0. A value that is not finite in a valid row, or
a label that is out of range, makes the loss NaN, so that a run stops there.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from big_audio import config as C
from big_audio.objectives import mining
from big_audio.objectives.mining import Items

Array = Any
COLLAPSED = 0.05  # mean distance of two items below which embeddings count as all alike


class Objective(NamedTuple):
  """A loss on embeddings.

  Attributes:
    loss: (items, *, refs=None, proxies=None, rng=None, progress=0.0) -> (f32[], {name: f32[]}).
      refs: Items that anchors are compared with, None: the batch itself (with a memory: beside
      it). proxies: f32[N,D] of any length. rng: a key. progress: step / total, in [0, 1].
    needs_proxies, needs_rng: whether those must be given.
    memory: how many earlier embeddings `refs` has to hold; 0: none.
  """

  loss: Callable[..., tuple[Array, dict[str, Array]]]
  needs_proxies: bool = False
  needs_rng: bool = False
  memory: int = 0


def build(name: str, *, memory: Mapping[str, Any] | None = None, **settings) -> Objective:
  """The loss of that name; `settings` are its own and those of its miner.

  The logs of every loss hold spread, rank and collapsed (see `spread`), and anchors: the share of
  items that may be one and were compared. A mean over nothing is logged as 0.

  Args:
    name: of `LOSSES`.
    memory: dict(size=, weight=1.0): cross-batch memory, see `with_memory`.
    **settings: of the loss; for triplet and quadruplet also miner= (default "semihard") and the
      miner's own, such as hard_from_percent.

  Raises:
    ValueError: an unknown name or setting, or one out of range.
  """
  where = f"objectives.metric: {name}"
  factory = C.pick("objectives.metric", LOSSES, name)
  if "miner" in inspect.signature(factory).parameters:
    miner = C.pick(f"{where}: miner", mining.MINERS, settings.pop("miner", "semihard"))
    settings, own = C.share(where, settings, factory, miner)
    settings["miner"] = C.call(where, miner, **own)
  made = C.call(where, factory, **settings)
  if memory is not None:
    made = C.call(f"{where}: memory", with_memory, made, **memory)
  return made._replace(loss=_checked(name, made))


def triplet(
  *, miner: mining.Miner, margin: float | Mapping[str, float] = 0.3,
  mined_warmup_percent: float = 0.0, same_track: bool = False,
) -> Objective:  # fmt: skip
  """Mean of max(0, d_ap - d_an + margin) over mined triplets.

  With all triplets of a batch it is the mean over those above 0 (arXiv:1703.07737, section 2).

  Logs: active (share of triplets above 0), d_ap, d_an, accuracy (share with d_ap < d_an), margin,
  fallback (share where the miner found no negative as it wants it).

  Args:
    miner: of `mining`.
    margin: a number, or a schedule (see `scheduled`).
    mined_warmup_percent: over this part of the training the share of mined negatives rises from
      0 to 1; the others are drawn uniformly.
    same_track: see `mining.pairs`.
  """
  at = scheduled(margin)
  chosen = _Chosen(miner, mined_warmup_percent)

  def loss(items, *, refs, proxies, rng, progress):
    d = 1 - mining.cosines(items, refs)
    pairs = mining.pairs(items, refs, same_track=same_track)
    m = at(progress)
    value, logs = chosen(d, pairs, m, dims=items.x.shape[1], rng=rng, progress=progress)
    return value, {**logs, "margin": m}

  return Objective(loss, needs_rng=chosen.needs_rng)


def quadruplet(
  *, miner: mining.Miner, margin: float = 0.2, trash_margin: float = 0.5, weight: float = 1.0,
  mined_warmup_percent: float = 0.0, same_track: bool = False,
) -> Objective:  # fmt: skip
  """mean max(0, d_ap - d_an + margin) + weight mean max(0, d_ap - d_at + trash_margin).

  n is of another class, t is trash (label -1); the miner chooses either by its own distance. Where
  a batch has no trash the second term is 0, and trash_anchors says so.

  Logs: those of `triplet` for n; terms class_loss, trash_loss; d_at, trash_active,
  trash_accuracy, trash_anchors.
  """
  chosen = _Chosen(miner, mined_warmup_percent)

  def loss(items, *, refs, proxies, rng, progress):
    d = 1 - mining.cosines(items, refs)
    pos, neg = mining.pairs(items, refs, same_track=same_track)
    trash = (items if refs is None else refs).label == -1
    rngs = jax.random.split(rng) if chosen.needs_rng else (None, None)
    kw = dict(dims=items.x.shape[1], progress=progress)
    a, logs = chosen(d, mining.Pairs(pos, neg & ~trash), margin, rng=rngs[0], **kw)
    b, more = chosen(d, mining.Pairs(pos, neg & trash), trash_margin, rng=rngs[1], **kw)
    logs |= dict(class_loss=a, trash_loss=b, d_at=more["d_an"])
    logs |= {f"trash_{k}": more[k] for k in ("active", "accuracy", "anchors")}
    return a + weight * b, logs

  return Objective(loss, needs_rng=chosen.needs_rng)


class _Chosen:
  """The hinge over triplets of a miner, with what is logged of them."""

  def __init__(self, miner, warmup):
    mining.percent("mined_warmup_percent", warmup)
    if warmup and miner.select is None:
      raise ValueError('objectives.metric: mined_warmup_percent has no meaning with miner="all".')
    self._miner, self._warmup = miner, warmup
    self.needs_rng = miner.needs_rng or warmup > 0

  def __call__(self, d, pairs, margin, *, dims, rng, progress):
    if self._miner.select is None:
      return _all_triplets(d, pairs, margin)
    fixed = jax.lax.stop_gradient(d)
    pick, warm = jax.random.split(rng) if self.needs_rng else (None, None)
    t = self._miner.select(
      fixed, pairs, dims=dims, margin=margin, progress=progress, rng=pick
    )  # fmt: skip
    if self._warmup:
      share = jnp.minimum(100 * progress / self._warmup, 1.0)
      t = mining.warmed_up(t, pairs.neg, share=share, rng=warm)
    d_ap = jnp.take_along_axis(d, t.positive, axis=1)  # [B,P]
    d_an = jnp.take_along_axis(d, t.negative, axis=1)
    hinge = jax.nn.relu(d_ap - d_an + margin)
    mean = lambda x: _mean(x, t.keep)
    logs = dict(
      active=mean(hinge > 0), d_ap=mean(d_ap), d_an=mean(d_an), accuracy=mean(d_ap < d_an),
      fallback=mean(t.fallback), anchors=t.keep.any(axis=1),
    )  # fmt: skip
    return mean(hinge), logs


def _all_triplets(d, pairs, margin):
  """The mean over triplets above 0, without [B,R,R]: sums of sorted negatives by their prefix."""
  keep = pairs.pos & pairs.neg.any(axis=1)[:, None]
  count = pairs.neg.sum(axis=1)[:, None]
  far = jnp.sort(jnp.where(pairs.neg, d, jnp.inf), axis=1)
  there = jnp.isfinite(far)
  sums = jnp.cumsum(jnp.where(there, far, 0.0), axis=1)
  sums = jnp.pad(sums, ((0, 0), (1, 0)))  # [B,R+1] of the first n negatives
  before = jax.vmap(lambda row, v: jnp.searchsorted(row, v, side="left"))
  stop = jax.lax.stop_gradient
  n = before(stop(far), stop(d) + margin)  # negatives nearer than d_ap + margin
  over = n * (d + margin) - jnp.take_along_axis(sums, n, axis=1)
  beyond = count - jax.vmap(lambda row, v: jnp.searchsorted(row, v, side="right"))(
    stop(far), stop(d)
  )
  triplets = jnp.sum(jnp.where(keep, count, 0))
  active = jnp.sum(jnp.where(keep, n, 0))
  share = lambda x, of: jnp.sum(jnp.where(keep, x, 0)) / jnp.maximum(of, 1)
  logs = dict(
    active=active / jnp.maximum(triplets, 1), d_ap=share(count * d, triplets),
    d_an=share(sums[:, -1:], triplets), accuracy=share(beyond, triplets),
    fallback=jnp.zeros(()), anchors=keep.any(axis=1),
  )  # fmt: skip
  return share(over, active), logs


def multi_similarity(
  *, alpha: float = 2.0, beta: float = 50.0, base: float = 0.5, epsilon: float = 0.1,
  same_track: bool = False,
) -> Objective:  # fmt: skip
  """Mean over anchors of log(1 + sum_p e^(-alpha (s - base))) / alpha and the like of negatives.

  Wang et al. 2019 (arXiv:1904.06627, eq. 10 to 13). Kept are positives with s - epsilon below the
  largest s of a negative, and negatives with s + epsilon above the smallest s of a positive.

  Logs: active_pos, active_neg: shares of pairs that are kept.
  """

  def loss(items, *, refs, proxies, rng, progress):
    s = mining.cosines(items, refs)
    pos, neg = mining.pairs(items, refs, same_track=same_track)
    fixed = jax.lax.stop_gradient(s)
    least = jnp.min(jnp.where(pos, fixed, jnp.inf), axis=1, keepdims=True)
    most = jnp.max(jnp.where(neg, fixed, -jnp.inf), axis=1, keepdims=True)
    near, far = neg & (fixed + epsilon > least), pos & (fixed - epsilon < most)
    value = (
      _log1p_sum(-alpha * (s - base), far) / alpha + _log1p_sum(beta * (s - base), near) / beta
    )
    logs = dict(
      active_pos=_mean(far, pos), active_neg=_mean(near, neg),
      anchors=pos.any(axis=1) & neg.any(axis=1),
    )  # fmt: skip
    return _mean(value, items.valid & (items.label >= 0)), logs

  return Objective(loss)


def supcon(*, temperature: float = 0.1, same_track: bool = False) -> Objective:
  """Mean over anchors of -mean_p log(e^(s_p/t) / sum of all pairs) (arXiv:2004.11362, eq. 2).

  Anchors without a positive or without a negative are left out.
  """
  _positive("supcon: temperature", temperature)

  def loss(items, *, refs, proxies, rng, progress):
    s = mining.cosines(items, refs) / temperature
    pos, neg = mining.pairs(items, refs, same_track=same_track)
    anchors = pos.any(axis=1) & neg.any(axis=1)
    log = s - _log_sum(s, pos | neg)[:, None]
    each = jnp.sum(jnp.where(pos, log, 0.0), axis=1) / jnp.maximum(pos.sum(axis=1), 1)
    return _mean(-each, anchors), dict(anchors=anchors)

  return Objective(loss)


def ntxent(*, temperature: float = 0.1, same_track: bool = False) -> Objective:
  """Mean over positive pairs of -log(e^(s_p/t) / (e^(s_p/t) + sum_n e^(s_n/t))).

  Chen et al. 2020 (arXiv:2002.05709, eq. 1), with all negatives of the label in the sum. Anchors
  without a negative are left out.
  """
  _positive("ntxent: temperature", temperature)

  def loss(items, *, refs, proxies, rng, progress):
    s = mining.cosines(items, refs) / temperature
    pos, neg = mining.pairs(items, refs, same_track=same_track)
    used = neg.any(axis=1)
    each = jax.nn.softplus(_log_sum(s, neg)[:, None] - s)
    return _mean(each, pos & used[:, None]), dict(anchors=pos.any(axis=1) & used)

  return Objective(loss)


def proxy_anchor(*, margin: float = 0.1, alpha: float = 32.0) -> Objective:
  """Softplus over items around a learnt proxy p of each class (arXiv:2003.13911, eq. 4).

  mean over classes of the batch of log(1 + sum of its items e^(-alpha (s(x,p) - margin))) and mean
  over all classes of log(1 + sum of others e^(alpha (s(x,p) + margin))). Trash is far from all.

  Logs: classes (of the batch, as a share), s_pos, s_neg (mean cosines with proxies).
  """

  def loss(items, *, refs, proxies, rng, progress):
    if refs is not None:
      raise ValueError("objectives.metric: proxy_anchor compares with proxies only, not with refs.")
    proxies = proxies.astype(jnp.float32)
    length = jnp.sqrt(jnp.maximum(jnp.sum(proxies**2, axis=1, keepdims=True), 1e-24))
    n = len(proxies)
    everyone = jnp.ones(n, bool)
    s = mining.cosines(items, Items(proxies / length, jnp.arange(n), jnp.arange(n), everyone))
    pos = items.valid[:, None] & (items.label[:, None] == jnp.arange(n))  # [B,N]
    neg = items.valid[:, None] & ~pos
    here = pos.any(axis=0)
    near = _log1p_sum(-alpha * (s - margin).T, pos.T)
    far = _log1p_sum(alpha * (s + margin).T, neg.T)
    value = _mean(near, here) + jnp.mean(far)
    value = jnp.where(jnp.any(items.valid & (items.label >= n)), jnp.nan, value)
    logs = dict(
      classes=jnp.mean(here), s_pos=_mean(s, pos), s_neg=_mean(s, neg), anchors=pos.any(axis=1)
    )  # fmt: skip
    return value, logs

  return Objective(loss, needs_proxies=True)


LOSSES: Mapping[str, Callable[..., Objective]] = {
  f.__name__: f for f in (triplet, quadruplet, multi_similarity, supcon, ntxent, proxy_anchor)
}


def with_memory(objective: Objective, *, size: int, weight: float = 1.0) -> Objective:
  """The loss within the batch + weight times that against earlier embeddings.

  Cross-batch memory of Wang et al. 2020 (arXiv:1912.06798, section 3.3). Logs of the second part
  begin with memory_.

  Args:
    objective: not one with proxies.
    size: of the memory, in items.
    weight: of the second part.
  """
  if objective.needs_proxies or size < 1:
    raise ValueError(
      f"objectives.metric: a memory needs size >= 1 (got {size}) and a loss without proxies."
    )

  def loss(items, *, refs, proxies, rng, progress):
    if refs is None:
      raise ValueError("objectives.metric: this loss has a memory; give it as refs.")
    rngs = jax.random.split(rng) if objective.needs_rng else (None, None)
    kw = dict(proxies=None, progress=progress)
    a, logs = objective.loss(items, refs=None, rng=rngs[0], **kw)
    b, more = objective.loss(items, refs=refs, rng=rngs[1], **kw)
    return a + weight * b, {**logs, "memory_loss": b, **{f"memory_{k}": v for k, v in more.items()}}

  return objective._replace(loss=loss, memory=size)


def scheduled(margin: float | Mapping[str, float]) -> Callable[[Array], Array]:
  """progress -> margin f32[].

  Args:
    margin: a number, or dict(begin=, end=, ramp_percent=): from begin to end over that part of the
      training, then constant. With drop=, drop_percent=, recover=, recover_percent= it falls to
      `drop` at drop_percent (where hard mining begins) and rises to `recover` over
      recover_percent.

  Raises:
    ValueError: other keys, some of them only, or percentages outside [0, 100].
  """
  if not isinstance(margin, Mapping):
    return lambda progress: jnp.float32(margin)
  return C.call("objectives.metric: margin", _schedule, **margin)


def _schedule(
  *, begin, end, ramp_percent, drop=None, drop_percent=None, recover=None, recover_percent=None
):
  late = (drop, drop_percent, recover, recover_percent)
  if any(v is not None for v in late) and any(v is None for v in late):
    raise ValueError(
      "objectives.metric: margin: drop, drop_percent, recover and recover_percent belong together."
    )
  mining.percent("ramp_percent", ramp_percent)
  ramp = lambda a, b, at, over: a + (b - a) * jnp.clip(at / max(over, 1e-6), 0.0, 1.0)
  if drop is None:
    return lambda progress: ramp(begin, end, 100 * progress, ramp_percent)
  mining.percent("drop_percent", drop_percent)
  mining.percent("recover_percent", recover_percent)

  def at(progress):
    now = 100 * progress
    low = ramp(drop, recover, now - drop_percent, recover_percent)
    return jnp.where(now < drop_percent, ramp(begin, end, now, ramp_percent), low)

  return at


def spread(items: Items) -> dict[str, Array]:
  """How far embeddings are apart, to see a collapse.

  A triplet loss that stays at its margin is no sign by itself: semi-hard negatives keep it near
  there. So this looks at the embeddings.

  Returns:
    spread: mean d of two items; about 1 where they point anywhere. rank: participation ratio
    (tr C)^2 / tr C^2 of their covariance, at most D: dimensions in use. collapsed: 1.0 where
    spread < COLLAPSED. All 0 for fewer than two valid items.
  """
  n = jnp.sum(items.valid)
  x = jnp.where(items.valid[:, None], jax.lax.stop_gradient(items.x).astype(jnp.float32), 0.0)
  total = jnp.sum(x, axis=0)
  own = jnp.sum(x**2)
  two = n >= 2
  mean = 1 - (jnp.sum(total**2) - own) / jnp.maximum(n * (n - 1), 1)
  centred = jnp.where(items.valid[:, None], x - total / jnp.maximum(n, 1), 0.0)
  c = jnp.matmul(centred.T, centred, precision=jax.lax.Precision.HIGHEST)  # [D,D]
  rank = jnp.trace(c) ** 2 / jnp.maximum(jnp.sum(c**2), 1e-12)
  return dict(
    spread=jnp.where(two, mean, 0.0), rank=jnp.where(two, rank, 0.0),
    collapsed=(two & (mean < COLLAPSED)).astype(jnp.float32),
  )  # fmt: skip


def _checked(name, objective):
  """Adds what all losses share: arguments that must be there, spread, NaN for broken items."""

  def loss(items, *, refs=None, proxies=None, rng=None, progress=0.0):
    for what, given, needed in (
      ("proxies", proxies, objective.needs_proxies), ("rng", rng, objective.needs_rng),
    ):  # fmt: skip
      if needed and given is None:
        raise ValueError(f"objectives.metric: {name} with these settings needs {what}=.")
    value, logs = objective.loss(items, refs=refs, proxies=proxies, rng=rng, progress=progress)
    may = items.valid & (items.label >= 0)
    logs = {k: _mean(v, may) if k.endswith("anchors") else v for k, v in logs.items()}
    broken = [_broken(x) for x in (items, refs) if x is not None]
    value = jnp.where(jnp.any(jnp.stack(broken)), jnp.nan, value)
    logs = {k: jnp.asarray(v, jnp.float32) for k, v in {**logs, **spread(items)}.items()}
    return value, logs

  return loss


def _broken(items):
  finite = jnp.all(jnp.isfinite(items.x), axis=1)
  return jnp.any(items.valid & (~finite | (items.label < -1)))


def _mean(x, where):
  """Mean of the values at `where`, 0 of none."""
  total = jnp.sum(jnp.where(where, x, 0).astype(jnp.float32))
  return total / jnp.maximum(jnp.sum(where), 1)


def _log1p_sum(x, keep):
  """[B]: log(1 + sum of e^x where kept)."""
  x = jnp.where(keep, x, -jnp.inf)
  return jax.nn.logsumexp(jnp.pad(x, ((0, 0), (0, 1))), axis=1)


def _log_sum(x, keep):
  """[B]: log of the sum of e^x where kept; of nothing it is 0, without a gradient."""
  some = keep.any(axis=1)
  x = jnp.where(keep | ~some[:, None], x, -jnp.inf)
  return jnp.where(some, jax.nn.logsumexp(x, axis=1), 0.0)


def _positive(where, value):
  if not value > 0:
    raise ValueError(f"objectives.metric: {where} must be above 0, got {value}.")
