"""Flows on tokens: autoencoder, flow matching, MeanFlow and improved MeanFlow on one backbone.

  trainer = dict(name="flow", net="net", key="image", method="imf", prior="shifted", sigma=.5)

The net offers encode, decode_det and u (models/mlp_flow.py). With `prior="shifted"` the flow starts
at e = y + sigma * eps around the deterministic reconstruction y (FlowDec, 2503.01485), so that all
methods share one path and one comparison; `prior="standard"` starts at plain noise.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from big_audio import config as C
from big_audio import sharding
from big_audio.objectives import alphaflow, flow, guided, meanflow
from big_audio.samplers import guidance, ode
from big_audio.trainers.loss import Loss

METHODS = ("ae", "fm", "mf", "imf", "alpha")
PRIORS = ("shifted", "standard")
WARMUPS = ("fm", "alpha")
GUIDANCE = {
  "fixed": dict(omega=1.0, kappa=0.0, interval=(0.0, 1.0)),
  "flexible": dict(largest=8.0),
}


class FlowLoss:
  """The generative objective of a method, with its settings.

  Args:
    method: fm | mf | imf | alpha.
    ratio: share of rows with r < t (mf, imf, alpha).
    p, eps: adaptive weighting, see `objectives.flow.adaptive`; eps=None is the paper's, .001 for
      alpha and .01 for the others.
    t_dist: arguments of `objectives.flow.sample_t`.
    guidance: None, dict(kind="fixed", omega, kappa, interval) for guidance trained into the net
      (mf, imf, alpha), or dict(kind="flexible", largest) for guidance as the net's input `ctx`
      (imf). fm is guided when sampling.
    drop: share of rows that lose their condition; None: .1 with guidance, else 0.
    alpha_begin_percent, alpha_end_percent: of the run, where alpha-Flow's schedule begins and ends.
    warmup: None, "fm" (rows with r = t alone) or "alpha" (alpha-Flow's schedule) for the first
      `warmup_percent` of the run, before mf or imf.
    v_weight: of a v-head's own loss.
  """

  def __init__(
    self, method: str, *, ratio=0.5, p=1.0, eps=None, t_dist=None, guidance=None, drop=None,
    alpha_begin_percent=0.0, alpha_end_percent=100.0, warmup=None, warmup_percent=0.0,
    v_weight=1.0,
  ):  # fmt: skip
    where = "config.trainer"
    if method not in METHODS[1:]:
      raise ValueError(f"{where}.method={method!r}. {C.nearest(method, METHODS)}")
    if warmup is not None and warmup not in WARMUPS:
      raise ValueError(f"{where}.warmup={warmup!r}. {C.nearest(warmup, WARMUPS)}")
    if warmup is not None and method not in ("mf", "imf"):
      raise ValueError(
        f"{where}.warmup={warmup!r} comes before mf or imf, not {method}; remove it."
      )
    if (warmup is None) != (warmup_percent == 0):
      raise ValueError(f"{where}: give both of warmup and warmup_percent > 0, or neither.")
    self.method, self.ratio, self.p, self.v_weight = method, ratio, p, v_weight
    self.eps = (1e-3 if method == "alpha" else 0.01) if eps is None else eps
    self.t_dist = dict(t_dist or {})
    self.warmup, self.warmup_end = warmup, warmup_percent / 100
    self.alpha = None
    if method == "alpha":
      self.alpha = alpha_begin_percent / 100, alpha_end_percent / 100
    elif warmup == "alpha":
      self.alpha = 0.0, self.warmup_end
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
    self.guidance_kw = kw
    self.drop = (0.1 if guidance is not None else 0.0) if drop is None else drop
    if not 0 <= self.drop < 1:
      raise ValueError(f"{where}.drop must lie in [0, 1), got {self.drop}.")

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
      if cond is None or null is None:
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
    progress = jnp.asarray(step, jnp.float32) / total_steps
    if self.warmup == "fm":
      only_equal = lambda: meanflow.meanflow(fn, x, e, t, t, ratio=0.0, **common)
      return jax.lax.cond(progress < self.warmup_end, only_equal, final)
    alpha = alphaflow.schedule(progress, *self.alpha)
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
    if self.method == "fm" and sampler in ode.AVERAGE:
      raise ValueError(
        f"sampler={sampler!r} needs average velocities, which method=fm does not learn. "
        f"Use {', '.join(s for s in ode.SAMPLERS if s not in ode.AVERAGE)}."
      )
    if scale != 1.0:
      if null is None:
        raise ValueError(f"Guidance of scale {scale} needs null, what stands for no condition.")
      fn = guidance.Guided(fn, null, scale, interval)
    return ode.sample(sampler, fn, e, nfe, cond, noise=noise)


def start_noise(prior: str, sigma: float, eps, y):
  """The flow's state at t=1: eps (standard) or y + sigma * eps (shifted), like eps."""
  return eps if prior == "standard" else jax.lax.stop_gradient(y) + sigma * eps


class Trainer:
  """Strategy of `config.trainer` (see the module's text); `predict_fns`: reconstruct(nfe)."""

  def __init__(self, config, models):
    C.call("config.trainer", self._configure, **{k: config.trainer[k] for k in config.trainer})
    self.net = C.pick("config.models", models, self.net_name)

  def _configure(
    self, *, name, net="net", key="image", method="imf", prior="shifted", sigma=0.5, detach=False,
    ratio=0.5, p=1.0, eps=None, t_dist=None,
  ):  # fmt: skip
    if method not in METHODS:
      raise ValueError(f"config.trainer.method={method!r}. {C.nearest(method, METHODS)}")
    if prior not in PRIORS:
      raise ValueError(f"config.trainer.prior={prior!r}. {C.nearest(prior, PRIORS)}")
    self.net_name, self.key, self.method = net, key, method
    self.prior, self.sigma, self.detach = prior, sigma, detach
    self.flow = None if method == "ae" else FlowLoss(
      method, ratio=ratio, p=p, eps=eps, t_dist=t_dist)  # fmt: skip

  def _tokens(self, batch):
    """[B, ...] -> f32[B, 1, D]: one token an example."""
    x = batch[self.key].astype(jnp.float32)
    return x.reshape(x.shape[0], 1, -1)

  def _apply(self, variables, *args, method):
    return self.net.apply({"params": variables["params"][self.net_name]}, *args, method=method)

  def init(self, rng, batch, stats):
    """Parameters; `stats` is not used."""
    x = self._tokens(batch)
    t = jnp.zeros((x.shape[0],))
    return {"params": {self.net_name: self.net.init(rng, x, t, t)["params"]}}

  def loss(self, variables, batch, rng, *, step, total_steps, train) -> Loss:
    """Reconstruction error of the deterministic decoder plus the flow's loss."""
    x = self._tokens(batch)
    latent = self._apply(variables, x, method="encode")
    y = self._apply(variables, latent, method="decode_det")
    ae = flow.frame_mean(jnp.square(y - x))
    if self.flow is None:
      return Loss(ae, logs={"ae_mse": ae})
    noise_rng, time_rng = jax.random.split(rng)
    e = start_noise(self.prior, self.sigma, jax.random.normal(noise_rng, x.shape), y)
    cond = jax.lax.stop_gradient(latent) if self.detach else latent
    fn = lambda z, t, h, c: self._apply(variables, z, t, h, c, method="u")
    value, logs = self.flow(fn, x, e, time_rng, cond=cond)
    return Loss(ae + value, logs={"ae_mse": ae, "flow_loss": value, **logs})

  def predict_fns(self) -> dict[str, Callable]:
    """reconstruct(nfe=1): {key: like the input, "ae": the deterministic reconstruction}."""

    def reconstruct(variables, batch, rng, *, nfe=1):
      x = self._tokens(batch)
      latent = self._apply(variables, x, method="encode")
      y = self._apply(variables, latent, method="decode_det")
      out = y
      if self.flow is not None:
        e = start_noise(self.prior, self.sigma, jax.random.normal(rng, x.shape), y)
        fn = lambda z, t, h, c: self._apply(variables, z, t, h, c, method="u")
        out = self.flow.sample(fn, e, nfe, latent)
      shape = batch[self.key].shape
      return {self.key: out.reshape(shape), "ae": y.reshape(shape)}

    return {"reconstruct": reconstruct}
