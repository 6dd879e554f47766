"""Optax chains by parameter group: regex schedules, decay, clipping, EMA.

  optimizer = dict(
    name="adam", lr=2e-3, b1=.9, b2=.98, wd=0., clip=1.0,
    schedule=[("refiner/.*", dict(kind="cosine", lr=1e-3, begin_percent=60, warmup_steps=100)),
              ("teacher/.*", None),                                  # frozen
              (".*", dict(kind="cosine", warmup_steps=100))],
    ema=dict(decay=.999, skip="discriminator/.*"))

The first pattern that matches a parameter's whole name decides; `None` freezes it. A group may set
its own `lr`, `clip`, `wd`, `b1`, `b2`, `eps`, `name`. `max_skipped` (default 0) is the number of
updates that may be left out because their gradient is not finite. Learning rates are pure functions
of the step, so nothing about them needs to be restored.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from big_audio import config as C
from big_audio import trees

SCHEDULE_KINDS = ("constant", "cosine", "linear", "rsqrt", "inverse")
_GROUP_KEYS = ("lr", "clip", "wd", "wd_mask", "b1", "b2", "eps", "momentum", "name")
_SCHEDULE_KEYS = ("kind", "final", "timescale_steps", "boost") + tuple(
  f"{p}_{u}" for p in ("begin", "end", "warmup", "boost") for u in C.UNITS
)
# Names that carry no weight decay unless `wd_mask` says otherwise.
WD_MASK = r".*/(kernel|embedding)"


class Optimizer(NamedTuple):
  """What the loop needs; all functions are pure.

  groups: parameter name -> group name ("" is the frozen group).
  init(params) -> optimizer state.
  update(grads, opt_state, params, step, lr_scale, active) -> (params, opt_state, {norms}).
  active(step) -> the groups that move at a step, for `update`: a group before its begin, or behind
    an end at rate 0, costs nothing and keeps its state. None: all.
  lrs(step) -> {group name: learning rate}.
  ema(ema, params, step, active) -> (ema, params), or None. A group's average forgets where the
    group began; a group that stops before the run ends takes its average as its parameters, so that
    who is trained on it from then on sees what will be used.
  ema_skip(name) -> True for parameters that have no average.
  """

  groups: dict[str, str]
  init: Callable
  update: Callable
  active: Callable
  lrs: Callable
  ema: Callable | None
  ema_skip: Callable


def schedule(cfg: Mapping[str, Any], *, total_steps: int, **units) -> Callable[[Any], Any]:
  """The rate's multiplier as a function of the step (0 before `begin`, held at the end).

  Args:
    cfg: kind = constant | cosine | linear | rsqrt | inverse; warmup_*, begin_*, end_* durations
      in steps, examples, epochs or percent; final = the last multiplier (cosine, linear);
      timescale_steps (rsqrt: sqrt(T/(T+s)); inverse: T/(T+s), s counted from the warm-up's end);
      boost = a factor on all this that falls linearly to 1 over the duration boost_*: a new head
      on a trained backbone learns faster at first.
    total_steps: length of the run, the default end.
    **units: batch_size and data_size for the other units.
  """
  where = "config.optimizer.schedule"
  for key in cfg:
    if key not in _SCHEDULE_KEYS + _GROUP_KEYS:
      raise ValueError(
        f"{where}: unknown key {key!r}. {C.nearest(key, _SCHEDULE_KEYS + _GROUP_KEYS)}"
      )
  kind = cfg.get("kind", "constant")
  if kind in ("constant", "rsqrt", "inverse"):
    for key in cfg:
      if key == "final" or key.startswith("end_"):
        raise ValueError(f"{where}: {key} means nothing to kind={kind!r}; use cosine or linear.")
  if kind not in SCHEDULE_KINDS:
    raise ValueError(f"{where}: kind {kind!r} is unknown. {C.nearest(kind, SCHEDULE_KINDS)}")
  begin, end = window(cfg, total_steps=total_steps, **units)
  warmup = C.steps("warmup", cfg, total_steps=total_steps, default=0, **units)
  if not begin + warmup <= end:
    raise ValueError(
      f"{where}: begin {begin} + warm-up {warmup} lies behind the end {end} (steps)."
    )
  final = float(cfg.get("final", 0.0))
  timescale = float(cfg.get("timescale_steps", 10_000))
  boost = float(cfg.get("boost", 1.0))
  boosted = C.steps("boost", cfg, total_steps=total_steps, default=0, **units)
  timed = any(cfg.get(f"boost_{u}") for u in C.UNITS)
  if ("boost" in cfg) != timed or boost <= 0:
    raise ValueError(
      f"{where}: boost={boost:g}: a factor above 0 and a duration above 0 belong together, such as "
      "boost=7, boost_epochs=3."
    )

  def multiplier(step):
    step = jnp.asarray(step, jnp.float32)
    since = step - begin
    frac = jnp.clip((since - warmup) / max(1, end - begin - warmup), 0.0, 1.0)
    after = jnp.maximum(since - warmup, 0.0)
    value = {
      "constant": lambda: jnp.ones_like(step),
      "cosine": lambda: final + (1 - final) * 0.5 * (1 + jnp.cos(math.pi * frac)),
      "linear": lambda: 1 + (final - 1) * frac,
      "rsqrt": lambda: jnp.sqrt(timescale / (timescale + after)),
      "inverse": lambda: timescale / (timescale + after),
    }[kind]()
    if warmup:
      value = value * jnp.clip((since + 1) / warmup, 0.0, 1.0)
    if boosted:
      value = value * (1 + (boost - 1) * jnp.clip(1 - since / boosted, 0.0, 1.0))
    return jnp.where(since < 0, 0.0, value)

  return multiplier


def window(cfg: Mapping[str, Any], *, total_steps: int, **units) -> tuple[int, int]:
  """(first step, step of the end) of a schedule; before the first its rate is 0."""
  dur = lambda n, d: C.steps(n, cfg, total_steps=total_steps, default=d, **units)
  return dur("begin", 0), dur("end", total_steps)


def _scale_by(cfg: Mapping[str, Any]) -> optax.GradientTransformation:
  name = cfg.get("name", "adam")
  pick = lambda *keys: {k: cfg[k] for k in keys if cfg.get(k, None) is not None}
  known = {
    "adam": lambda: optax.scale_by_adam(**pick("b1", "b2", "eps")),
    "lion": lambda: optax.scale_by_lion(**pick("b1", "b2")),
    "sgd": lambda: optax.trace(cfg["momentum"]) if cfg.get("momentum", None) else optax.identity(),
  }
  if name not in known:
    raise ValueError(f"config.optimizer.name={name!r} is unknown. {C.nearest(name, known)}")
  return known[name]()


def build(cfg, names: list[str], *, total_steps: int, **units) -> Optimizer:
  """The optimizer of `config.optimizer` for parameters of these names.

  Raises:
    ValueError: unknown keys, kinds or optimizer names; a parameter that no pattern covers; a
      pattern that covers nothing.
  """
  cfg = C.to_dict(cfg)
  for key in cfg:
    known = (*_GROUP_KEYS, "schedule", "ema", "max_skipped")
    if key not in known:
      raise ValueError(f"config.optimizer: unknown key {key!r}. {C.nearest(key, known)}")
  rules = cfg.get("schedule", [[".*", {"kind": "constant"}]])
  patterns = [p for p, _ in rules]
  index = trees.assign(names, patterns, "config.optimizer.schedule")
  base = {k: cfg[k] for k in _GROUP_KEYS if k in cfg}
  live = {i: {**base, **s} for i, (_, s) in enumerate(rules) if s is not None}
  if not any(i in live for i in index.values()):
    raise ValueError("config.optimizer.schedule: every parameter is frozen.")
  for i, group in live.items():
    if "lr" not in group:
      raise ValueError(f"config.optimizer: no lr, nor one in the group {patterns[i]!r}.")
  label: dict[int, str] = {}
  for i in live:
    name = _short(patterns[i], i, len(live))
    label[i] = f"{name}_{i}" if name in label.values() else name
  groups = {n: label.get(i, "") for n, i in index.items()}
  mult = {
    label[i]: (
      float(g["lr"]),
      schedule(rules[i][1], total_steps=total_steps, **units),
    )
    for i, g in live.items()
  }

  def chain(group):
    parts = [optax.clip_by_global_norm(group["clip"])] if group.get("clip") else []
    parts.append(_scale_by(group))
    if group.get("wd"):
      mask = group.get("wd_mask", WD_MASK)
      is_decayed = lambda p: trees.map_with_name(
        lambda n, _: trees.first_match(n, [mask]) is not None, p
      )
      parts.append(optax.add_decayed_weights(group["wd"], mask=is_decayed))
    return optax.chain(*parts)

  # A group's own clip looks at its own norm; the others share one norm.
  own = {label[i]: dict(g, clip=rules[i][1].get("clip")) for i, g in live.items()}
  shared = {label[i] for i in live if "clip" not in rules[i][1]}
  chains = {k: chain(g) for k, g in own.items()}
  labels = lambda p: trees.map_with_name(lambda n, _: groups[n], p)

  @functools.cache
  def transform(active):
    parts = []
    if base.get("clip"):
      counts = lambda p: trees.map_with_name(lambda n, _: groups[n] in shared & active, p)
      parts.append(optax.masked(optax.clip_by_global_norm(base["clip"]), counts))
    rest = lambda tx: optax.GradientTransformation(
      tx.init, lambda u, state, params=None: (u, state)
    )
    kept = {k: tx if k in active else rest(tx) for k, tx in chains.items()}
    return optax.chain(*parts, optax.multi_transform(kept, labels))

  windows = {
    label[i]: (*window(rules[i][1], total_steps=total_steps, **units), _ends_at_zero(rules[i][1]))
    for i in live
  }

  def active(step):
    """Groups whose rate is not zero at the step."""
    moves = lambda begin, end, stops: begin <= step and not (stops and step >= end)
    return frozenset(k for k, w in windows.items() if moves(*w))

  def lrs(step):
    return {name: lr * m(step) for name, (lr, m) in mult.items()}

  def update(grads, opt_state, params, step, lr_scale, active=None):
    active = frozenset(own) if active is None else active
    moves = lambda n: groups[n] in active
    directions, opt_state = transform(active).update(grads, opt_state, params)
    lr = lrs(step)
    change = {
      n: -lr[groups[n]] * lr_scale * u for n, u in trees.flatten(directions).items() if moves(n)
    }
    moved = lambda n, p: (p + change[n]).astype(p.dtype) if moves(n) else p
    new = {n: moved(n, p) for n, p in trees.flatten(params).items()}
    used = [g for n, g in trees.flatten(grads).items() if moves(n)]
    norms = {"grad_norm": optax.tree.norm(used), "update_norm": optax.tree.norm(change)}
    return trees.unflatten(new), opt_state, norms

  decay, skip = _ema(cfg.get("ema"))

  def average(ema, params, step, active=None):
    def one(name, e, p):
      group = groups[name]
      if active is not None and group not in active:
        return e, p
      begin, end, stops = windows[group]
      since = jnp.maximum(step - begin, 0)
      d = jnp.minimum(decay, (1.0 + since) / (10.0 + since))
      e = d * e + (1 - d) * p
      return e, (jnp.where(step == end - 1, e, p) if stops and end < total_steps else p)

    flat = trees.flatten(params)
    both = {n: one(n, e, flat[n]) for n, e in trees.flatten(ema).items()}
    new = {n: both[n][1] if n in both else p for n, p in flat.items()}
    return trees.unflatten({n: e for n, (e, _) in both.items()}), trees.unflatten(new)

  return Optimizer(
    groups, transform(frozenset(own)).init, update, active, lrs, average if decay else None,
    lambda name: bool(skip) and trees.first_match(name, [skip]) is not None,
  )  # fmt: skip


def _ends_at_zero(cfg: Mapping[str, Any]) -> bool:
  return cfg.get("kind", "constant") in ("cosine", "linear") and float(cfg.get("final", 0.0)) == 0


def _short(pattern: str, i: int, live: int) -> str:
  """A readable label for metric names: "refiner/.*" -> "refiner"."""
  head = pattern.replace(".*", "").strip("/()^$")
  plain = head and all(c.isalnum() or c in "_/-" for c in head)
  return head if plain else ("all" if live == 1 else f"group{i}")


def _ema(cfg: Mapping[str, Any] | None) -> tuple[float, str]:
  """(decay, pattern of what has no average); decay 0 without `config.optimizer.ema`.

  Early on the decay is (1+s)/(10+s), s counted from the group's begin: its start is forgotten.
  """
  if not cfg:
    return 0.0, ""
  if "decay" not in cfg or not 0 < cfg["decay"] < 1:
    raise ValueError(f"config.optimizer.ema: decay in (0, 1) is needed, got {cfg}.")
  for key in cfg:
    if key not in ("decay", "skip"):
      raise ValueError(f"config.optimizer.ema: unknown key {key!r}. Known: decay, skip.")
  return cfg["decay"], cfg.get("skip", "")
