"""The generative objective that trainers share: flow matching, MeanFlow, improved, alpha-Flow.

One class holds the settings that a config gives, the loss between data and noise, and the sampler
that fits what was learned. What is interpolated, and what the net is told of it, is the trainer's.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from big_audio import config as C
from big_audio import sharding
from big_audio.objectives import alphaflow, flow, guided, meanflow
from big_audio.samplers import guidance, ode
from big_audio.trainers import checks

METHODS = ("ae", "fm", "mf", "imf", "alpha")
PRIORS = ("shifted", "standard")
WARMUPS = ("fm", "alpha")
GUIDANCE = {
  "fixed": dict(omega=1.0, kappa=0.0, interval=(0.0, 1.0)),
  "flexible": dict(largest=8.0),
}


class FlowLoss:
  """The generative objective of a method, with its settings.

  "Of the run" below means of the part of it in which the flow is trained.

  Args:
    method: fm | mf | imf | alpha.
    ratio: share of rows with r < t (mf, imf, alpha); None: .5.
    p, eps: adaptive weighting, see `objectives.flow.adaptive`. None is the papers' setting: p is 0
      for fm and 1 for the others, eps .001 for alpha and .01 for the others.
    t_dist: arguments of `objectives.flow.sample_t`.
    guidance: None, dict(kind="fixed", omega, kappa, interval) for guidance trained into the net
      (mf, imf, alpha), or dict(kind="flexible", largest) for guidance as the net's input `ctx`
      (imf). fm is guided when sampling.
    drop: share of rows that lose their condition; None: .1 with guidance, else 0.
    alpha_begin_percent, alpha_end_percent: of the run, where alpha-Flow's schedule begins and ends;
      None: 0 and 100.
    warmup: None, "fm" (rows with r = t alone) or "alpha" (alpha-Flow's schedule) for the first
      `warmup_percent` of the run, or `warmup_steps`, before mf or imf.
    v_weight: of a v-head's own loss (mf, imf, alpha); None: 1.

  Raises:
    ValueError: a value out of range, or a setting that the method has no use for.
  """

  def __init__(
    self, method: str, *, ratio=None, p=None, eps=None, t_dist=None, guidance=None, drop=None,
    alpha_begin_percent=None, alpha_end_percent=None, warmup=None, warmup_percent=0.0,
    warmup_steps=0, v_weight=None,
  ):  # fmt: skip
    where = "config.trainer"
    for key, value, users in (
      ("ratio", ratio, METHODS[2:]), ("v_weight", v_weight, METHODS[2:]),
      ("alpha_begin_percent", alpha_begin_percent, ("alpha",)),
      ("alpha_end_percent", alpha_end_percent, ("alpha",)),
    ):  # fmt: skip
      if value is not None and method in METHODS[1:] and method not in users:
        raise ValueError(
          f"{where}.{key}={value!r} is for {', '.join(users)}, not {method}; remove it."
        )
    checks.ranges(
      ratio=(ratio, 1), p=(p, None), eps=(eps, None), v_weight=(v_weight, None),
      warmup_percent=(warmup_percent, 100), warmup_steps=(warmup_steps, None),
    )  # fmt: skip
    if method not in METHODS[1:]:
      raise ValueError(f"{where}.method={method!r}. {C.nearest(method, METHODS)}")
    if warmup is not None and warmup not in WARMUPS:
      raise ValueError(f"{where}.warmup={warmup!r}. {C.nearest(warmup, WARMUPS)}")
    if warmup is not None and method not in ("mf", "imf"):
      raise ValueError(
        f"{where}.warmup={warmup!r} comes before mf or imf, not {method}; remove it."
      )
    lengths = (warmup_percent > 0) + (warmup_steps > 0)
    if lengths != (warmup is not None):
      raise ValueError(
        f"{where}: give warmup with one of warmup_percent and warmup_steps > 0, or none of them."
      )
    self.method = method
    self.ratio = 0.5 if ratio is None else ratio
    self.v_weight = 1.0 if v_weight is None else v_weight
    self.p = (0.0 if method == "fm" else 1.0) if p is None else p
    self.eps = (1e-3 if method == "alpha" else 0.01) if eps is None else eps
    self.t_dist = dict(t_dist or {})
    self.warmup, self.warmup_end = warmup, warmup_percent / 100
    self.warmup_steps = warmup_steps
    self.alpha = None
    if method == "alpha":
      begin, end = alpha_begin_percent, alpha_end_percent
      self.alpha = (begin or 0.0) / 100, (100.0 if end is None else end) / 100
    elif warmup == "alpha":
      self.alpha = 0.0, self.warmup_end or 1.0
    if self.alpha is not None:
      alphaflow.schedule(0.0, *self.alpha)  # raises what is wrong with it
    self._configure_guidance(where, guidance, drop)

  def _configure_guidance(self, where, guidance, drop):
    self.guidance, kw = None, dict(guidance or {})
    if guidance is not None:
      if "kind" not in kw:
        raise ValueError(f"{where}.guidance: the key 'kind' is missing; use fixed or flexible.")
      self.guidance = kw.pop("kind")
      allowed = C.pick(f"{where}.guidance.kind", GUIDANCE, self.guidance)
      for key in kw:
        C.pick(f"{where}.guidance", allowed, key)
      fits = ("mf", "imf", "alpha") if self.guidance == "fixed" else ("imf",)
      if self.method not in fits:
        raise ValueError(
          f"{where}.guidance: {self.guidance} guidance is trained with {', '.join(fits)}, not "
          f"{self.method}." + (" Guide fm when sampling (scale=)." if self.method == "fm" else "")
        )
      kw = {**allowed, **kw}
      low, high = kw.get("interval", (0.0, 1.0))
      if not 0 <= low < high <= 1:
        raise ValueError(
          f"{where}.guidance.interval: expected 0 <= low < high <= 1, got {low, high}."
        )
    self.guidance_kw = kw
    self.drop = (0.1 if guidance is not None else 0.0) if drop is None else drop
    if not 0 <= self.drop < 1:
      raise ValueError(f"{where}.drop must lie in [0, 1), got {self.drop}.")

  def check_sampler(self, sampler: str | None, predict: str) -> None:
    """Raises ValueError for a sampler that does not fit the method, or a net that predicts data."""
    if sampler is not None and sampler not in ode.SAMPLERS:
      raise ValueError(f"config.trainer.sampler={sampler!r}. {C.nearest(sampler, ode.SAMPLERS)}")
    if self.method == "fm" and sampler in ode.AVERAGE:
      raise ValueError(
        f"sampler={sampler!r} needs average velocities, which method=fm does not learn. "
        f"Use {', '.join(s for s in ode.SAMPLERS if s not in ode.AVERAGE)}."
      )
    if predict == "x" and sampler == "heun":
      raise ValueError(
        "sampler='heun' ends with the velocity at t=0, which predict='x' leaves undefined (0/0). "
        "Use euler or midpoint."
      )

  @property
  def scheduled(self) -> bool:
    """Whether the loss depends on the step."""
    return self.alpha is not None or self.warmup is not None

  def __call__(
    self, fn: Callable, x, e, rng, *, cond=None, mask=None, null=None, step=None, total_steps=1
  ):
    """The loss of fn between x and e.

    Args:
      fn: u(z, t, h, cond) -> like z, or (u, v) of a net with a v-head; with flexible guidance
        u(z, t, h, cond, ctx=ctx).
      x, e: f32[B, ...].
      rng: key.
      cond: pytree with leading axis B.
      mask: bool[B, F], frames that count.
      null: like cond, what stands for no condition (where conditions are dropped).
      step, total_steps: where the run stands; in evaluation step = total_steps, for the objective
        that the run ends with.

    Returns:
      (loss f32[B], logs).

    Raises:
      ValueError: no null where conditions are dropped, no step where the loss depends on it.
    """
    if self.scheduled and step is None:
      raise ValueError(
        f"FlowLoss(method={self.method!r}, warmup={self.warmup!r}) depends on the step: call it "
        f"with step= and total_steps= (in evaluation step=total_steps)."
      )
    batch, shards = x.shape[0], sharding.data_shards()
    if self.method == "fm":
      t = r = flow.sample_t(rng, (batch,), **self.t_dist)
    else:
      t, r = meanflow.sample_t_r(rng, batch, ratio=self.ratio, shards=shards, **self.t_dist)
    drop_rng, ctx_rng = jax.random.split(jax.random.fold_in(rng, 1))
    dropped = jnp.zeros((batch,), bool)
    if self.drop:
      if not jax.tree.leaves(cond) or null is None:
        raise ValueError("FlowLoss: dropping conditions (drop, guidance) needs cond and null.")
      cond, dropped = guided.drop_condition(drop_rng, cond, null, self.drop)
    if self.method == "fm":
      return flow.flow_matching(fn, x, e, t, cond=cond, mask=mask, p=self.p, eps=self.eps)
    target, own, ctx = e - x, None, None
    z = flow.interpolate(x, e, t)
    if self.guidance == "fixed":
      target = guided.fixed(fn, z, t, target, cond, null, dropped, **self.guidance_kw)
    elif self.guidance == "flexible":
      ctx = guided.sample_context(ctx_rng, t, r, dropped, **self.guidance_kw)
      target, own = guided.flexible(fn, z, t, target, cond, null, ctx)
    common = dict(cond=cond, ctx=ctx, target=target, mask=mask, p=self.p, eps=self.eps,
                  v_weight=self.v_weight, shards=shards)  # fmt: skip

    def final():
      improved = self.method == "imf"
      kw = dict(common, ratio=self.ratio, improved=improved, own=own if improved else None)
      return meanflow.meanflow(fn, x, e, t, r, **kw)

    if not self.scheduled:
      return final()
    length = max(total_steps, 1)  # a run of no steps only evaluates, at its end
    progress = jnp.where(total_steps > 0, jnp.asarray(step, jnp.float32) / length, 1.0)
    warm_end = min(self.warmup_steps / length, 1.0) if self.warmup_steps else self.warmup_end
    if self.warmup == "fm":
      only_equal = lambda: meanflow.meanflow(fn, x, e, t, t, ratio=0.0, **common)
      return jax.lax.cond(progress < warm_end, only_equal, final)
    begin, end = self.alpha if self.warmup is None else (0.0, warm_end)
    alpha = alphaflow.schedule(progress, begin, end)
    by_alpha = lambda: alphaflow.alphaflow(fn, x, e, t, r, alpha, ratio=self.ratio, **common)
    value, logs = jax.lax.cond(alpha > 0, by_alpha, final)
    return value, {**logs, "alpha": alpha}

  def sample(
    self, fn: Callable, e, nfe: int, cond=None, *, sampler=None, noise=None, null=None, scale=1.0,
    interval=(0.0, 1.0),
  ):  # fmt: skip
    """x from e with `nfe` network evaluations.

    Args:
      fn: u(z, t, h, cond) -> like z.
      e: f32[B, ...], the state at t=1.
      nfe: network evaluations; a guided step costs two.
      cond: handed to fn.
      sampler: of `samplers.ode.SAMPLERS`; None: euler for fm, u_steps for the others.
      noise: i -> a fresh state at t=1, for consistency sampling.
      null, scale, interval: classifier-free guidance, see `samplers.guidance.Guided`.

    Raises:
      ValueError: a sampler that needs average velocities with fm; and what the sampler raises.
    """
    sampler = sampler or ("euler" if self.method == "fm" else "u_steps")
    self.check_sampler(sampler, "u")
    if scale != 1.0:
      if null is None:
        raise ValueError(f"Guidance of scale {scale} needs null, what stands for no condition.")
      fn = guidance.Guided(fn, null, scale, interval)
    return ode.sample(sampler, fn, e, nfe, cond, noise=noise)


def start_noise(prior: str, sigma: float, eps, y):
  """The flow's state at t=1: eps (standard) or y + sigma * eps (shifted), like eps."""
  return eps if prior == "standard" else jax.lax.stop_gradient(y) + sigma * eps
