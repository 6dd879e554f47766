"""Flows on tokens: autoencoder, flow matching, MeanFlow, improved MeanFlow and alpha-Flow.

  trainer = dict(name="flow", net="net", key="image", tokens="patch", method="imf", sigma=.5)

All methods share one net, which offers encode, decode_det and u (models/mlp_flow.py and others),
and one path of data: tokens [B, F, D] of an image or a waveform (models/tokens.py), normalised by
the mean and deviation of each dimension. With `prior="shifted"` the flow starts at
e = y + sigma * eps around the deterministic reconstruction y (FlowDec, 2503.01485);
`prior="standard"` starts at plain noise. A net with latent=0 has no encoder and draws samples.
"""

import math
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from big_audio import config as C
from big_audio import sharding
from big_audio.models import tokens as T
from big_audio.nn.quantize import FSQ, code_usage
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
    p, eps: adaptive weighting, see `objectives.flow.adaptive`. None is the papers' setting: p is 0
      for fm and 1 for the others, eps .001 for alpha and .01 for the others.
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
    self, method: str, *, ratio=0.5, p=None, eps=None, t_dist=None, guidance=None, drop=None,
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
    self.method, self.ratio, self.v_weight = method, ratio, v_weight
    self.p = (0.0 if method == "fm" else 1.0) if p is None else p
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
    self.check_sampler(sampler, "u")
    if scale != 1.0:
      if null is None:
        raise ValueError(f"Guidance of scale {scale} needs null, what stands for no condition.")
      fn = guidance.Guided(fn, null, scale, interval)
    return ode.sample(sampler, fn, e, nfe, cond, noise=noise)


def start_noise(prior: str, sigma: float, eps, y):
  """The flow's state at t=1: eps (standard) or y + sigma * eps (shifted), like eps."""
  return eps if prior == "standard" else jax.lax.stop_gradient(y) + sigma * eps


class Trainer:
  """Strategy of `config.trainer` (see the module's text); `predict_fns`: reconstruct.

  Args of `config.trainer`, beside those of `FlowLoss`:
    net: name of the model.
    key: "image" f32[B, H, W, C] or "wav" f32[B, T, C].
    method: ae | fm | mf | imf | alpha.
    tokens: of `models.tokens`, a name or dict(name=..., arguments).
    prior, sigma: where the flow starts, see `start_noise`.
    predict: "u", or "x": the net gives the data, less y with the shifted prior.
    detach: whether the flow's gradient stops at the latent.
    quantizer: FSQ levels of the latent (see `nn.quantize.FSQ`), or None for a float latent.
    label: key of the batch with the class, for nets with `classes`; None: without.
    sampler: of `samplers.ode.SAMPLERS`; None: the method's own.
  """

  def __init__(self, config, models):
    C.call("config.trainer", self._configure, **{k: config.trainer[k] for k in config.trainer})
    self.net = C.pick("config.models", models, self.net_name)
    self._check_net(f"config.models.{self.net_name}")

  def _configure(
    self, *, name, net="net", key="image", method="imf", tokens="flat", prior="shifted", sigma=0.5,
    predict="u", detach=False, quantizer=None, label=None, sampler=None, ratio=0.5, p=None,
    eps=None, t_dist=None, guidance=None, drop=None, alpha_begin_percent=0.0,
    alpha_end_percent=100.0, warmup=None, warmup_percent=0.0, v_weight=1.0,
  ):  # fmt: skip
    for what, value, known in (
      ("method", method, METHODS), ("prior", prior, PRIORS), ("predict", predict, ("u", "x")),
      ("key", key, ("image", "wav")),
      ("sampler", sampler, (None, *ode.SAMPLERS)),
    ):  # fmt: skip
      if value not in known:
        raise ValueError(f"config.trainer.{what}={value!r}. {C.nearest(value, known)}")
    self.net_name, self.key, self.method, self.label = net, key, method, label
    self.prior, self.sigma, self.detach = prior, sigma, detach
    self.predict, self.sampler = predict, sampler
    kw = {"name": tokens} if isinstance(tokens, str) else C.to_dict(tokens)
    if "name" not in kw:
      raise ValueError("config.trainer.tokens: the key 'name' is missing.")
    self.tokens = T.build(kw.pop("name"), key, **kw)
    self.fsq = None if quantizer is None else FSQ(C.to_dict(quantizer))
    self.flow = None if method == "ae" else FlowLoss(
      method, ratio=ratio, p=p, eps=eps, t_dist=C.to_dict(t_dist), guidance=C.to_dict(guidance),
      drop=drop, alpha_begin_percent=alpha_begin_percent, alpha_end_percent=alpha_end_percent,
      warmup=warmup, warmup_percent=warmup_percent, v_weight=v_weight)  # fmt: skip
    if self.flow is not None:
      self.flow.check_sampler(sampler, predict)

  def _check_net(self, where):
    net, latent = self.net, self.net.latent
    if not latent and (self.method == "ae" or self.prior == "shifted" or self.fsq):
      raise ValueError(
        f'{where}.latent=0 has nothing to decode: use prior="standard" and a flow method without '
        f"quantizer, or a latent."
      )
    if self.fsq and latent != self.fsq.dim:
      raise ValueError(
        f"{where}.latent={latent}: the quantizer's levels {self.fsq.levels} have {self.fsq.dim} "
        f"dimensions. Set latent={self.fsq.dim}."
      )
    if bool(self.label) != bool(net.classes):
      raise ValueError(
        f"{where}.classes={net.classes} and config.trainer.label={self.label!r}: give both or none."
      )
    flexible = self.flow is not None and self.flow.guidance == "flexible"
    if flexible != net.guidance:
      raise ValueError(
        f"{where}.guidance={net.guidance}: guidance as an input needs guidance=True there and "
        f'config.trainer.guidance=dict(kind="flexible").'
      )
    if self.flow is not None and self.flow.drop and not (latent or self.label):
      raise ValueError("config.trainer.drop: there is no condition to drop; set drop=0.")
    self.v_head = getattr(net, "v_head", 0)
    if self.v_head and self.method in ("ae", "fm"):
      raise ValueError(f"{where}.v_head={self.v_head} is for mf, imf and alpha, not {self.method}.")

  # Data

  def stats(self, batches: Iterable[dict]) -> dict:
    """{"tokens": {"mean", "std": f32[D]}} over the tokens of some batches."""
    total = np.zeros(3, object)
    analysis = jax.jit(self.tokens.analysis)
    for batch in batches:
      x = np.asarray(analysis(batch[self.key].astype(np.float32)), np.float64)
      x = x.reshape(-1, x.shape[-1])
      total = total + np.array([len(x), x.sum(0), (x**2).sum(0)], object)
    n, first, second = total
    mean = first / n
    std = np.sqrt(np.maximum(second / n - mean**2, 0.0))
    # Dimensions that stand still in the training data would otherwise be blown up elsewhere.
    std = np.maximum(std, 0.05 * std.mean() + 1e-6)
    return {"tokens": {"mean": mean.astype(np.float32), "std": std.astype(np.float32)}}

  def _tokens(self, variables, batch):
    """(normalised tokens f32[B, F, D], mask bool[B, F] or None)."""
    stats, mask = variables["stats"]["tokens"], batch.get(f"{self.key}_mask")
    x = self.tokens.analysis(batch[self.key].astype(jnp.float32))
    return (x - stats["mean"]) / stats["std"], None if mask is None else self.tokens.mask(mask)

  def _data(self, variables, tokens, batch):
    """Normalised tokens -> like the input."""
    stats = variables["stats"]["tokens"]
    return self.tokens.synthesis(tokens * stats["std"] + stats["mean"], batch[self.key].shape[1:])

  def init(self, rng, batch, stats):
    """Parameters; the statistics travel in "stats"."""
    f, d = self.tokens.shape(batch[self.key].shape[1:])
    x, t = jnp.zeros((1, f, d)), jnp.zeros((1,))
    if self.flow is None:
      params = self.net.init(rng, x, method=lambda net, x: net.decode_det(net.encode(x)))
    else:
      params = self.net.init(rng, x, t, t)
    params = {"params": {self.net_name: params["params"]}}
    return {**params, "stats": jax.tree.map(jnp.asarray, stats)}

  # Pieces

  def _apply(self, variables, *args, method, **kw):
    params = {"params": variables["params"][self.net_name]}
    return self.net.apply(params, *args, method=method, **kw)

  def _autoencode(self, variables, x, mask):
    """(latent f32[B, F, L] or None, codes int32[B, F, G] or None, y f32[B, F, D])."""
    if not self.net.latent:
      return None, None, jnp.zeros_like(x)
    raw, codes = self._apply(variables, x, mask, method="encode"), None
    if self.fsq:
      lat, codes = self.fsq.apply({}, raw)
    else:
      lat = jnp.tanh(raw)
    return lat, codes, self._apply(variables, lat, mask, method="decode_det")

  def _bits(self, like, mask):
    """f32[B]: payload of each item in whole bits a code; 32 a number for a float latent."""
    per_token = 32 * self.net.latent
    if self.fsq:
      per_token = sum(math.ceil(math.log2(n)) for n in self.fsq.codebook_sizes)
    count = jnp.full(like.shape[0], like.shape[1]) if mask is None else jnp.sum(mask, axis=1)
    return per_token * count.astype(jnp.float32)

  def _cond(self, batch, lat, y, mask):
    """(cond of the flow, what stands for none)."""
    y = jax.lax.stop_gradient(y) if self.prior == "shifted" and self.predict == "x" else None
    label = batch[self.label].astype(jnp.int32) if self.label else None
    cond = {"lat": lat, "label": label, "y": y, "mask": mask}
    null = {
      "lat": None if lat is None else jnp.zeros_like(lat),
      "label": None if label is None else jnp.full_like(label, self.net.classes),
      "y": y,
      "mask": mask,
    }
    return cond, null

  def _velocity(self, variables, heads=False) -> Callable:
    """u(z, t, h, cond, ctx); for training (`heads`) with the v-head's output."""
    more = {"with_v": True} if heads and self.v_head else {}

    def u(z, t, h, c, ctx=None):
      kw = dict(more, ctx=ctx, labels=c["label"])
      return self._apply(variables, z, t, h, c["lat"], c["mask"], method="u", **kw)

    if self.predict == "u":
      return u
    base = lambda c: 0.0 if c["y"] is None else c["y"]
    return flow.predict_x(u, base, flow.MIN_T if heads else flow.SAMPLING_MIN_T)

  # Training

  def loss(self, variables, batch, rng, *, step, total_steps, train) -> Loss:
    """Reconstruction error of the deterministic decoder plus the flow's loss."""
    x, mask = self._tokens(variables, batch)
    lat, codes, y = self._autoencode(variables, x, mask)
    value, logs = jnp.zeros(x.shape[0]), {}
    if lat is not None:
      value = flow.frame_mean(jnp.square(y - x), mask)
      logs = {"ae_mse": value, "bits": self._bits(x, mask)}
    if codes is not None:
      here = jnp.ones(codes.shape[:2], bool) if mask is None else mask
      if "_mask" in batch:  # rows that pad the last batch of an evaluation
        here = here & (batch["_mask"][:, None] > 0)
      usage = code_usage(codes, self.fsq.codebook_sizes, here)
      logs |= {f"code_{k}": jnp.mean(usage[k]) for k in ("usage", "perplexity")}
    if self.flow is None:
      return Loss(value, logs=logs)
    noise_rng, time_rng = jax.random.split(rng)
    e = start_noise(self.prior, self.sigma, jax.random.normal(noise_rng, x.shape), y)
    lat = jax.lax.stop_gradient(lat) if self.detach and lat is not None else lat
    cond, null = self._cond(batch, lat, y, mask)
    flow_loss, flow_logs = self.flow(
      self._velocity(variables, heads=True), x, e, time_rng, cond=cond, mask=mask, null=null,
      # Evaluation measures the objective that the run ends with.
      step=step if train else total_steps, total_steps=total_steps,
    )  # fmt: skip
    return Loss(value + flow_loss, logs={**logs, "flow_loss": flow_loss, **flow_logs})

  # Use

  def predict_fns(self) -> dict[str, Callable]:
    """The function below by name."""
    return {"reconstruct": self.reconstruct}

  def reconstruct(
    self, variables, batch, rng, *, nfe=1, sampler=None, scale=1.0, interval=(0.0, 1.0), w=None
  ):
    """Encodes and decodes; without a latent, draws samples.

    Args:
      variables: of the trainer.
      batch: with the key, and the label where the net has classes.
      rng: key of the noise.
      nfe: network evaluations; 0 is the deterministic decoder.
      sampler: of `samplers.ode.SAMPLERS`; None: the config's.
      scale: classifier-free guidance when sampling, for nets trained with dropped conditions; a
        step then costs two evaluations.
      interval: of t, in which guidance acts.
      w: strength of guidance that the net takes as an input, acting in `interval`.

    Returns:
      {key: like the input, "ae": the deterministic reconstruction, "bits": f32[B] of the latent,
      "codes": int32[B, F, G] with a quantizer}; the last three need a latent.

    Raises:
      ValueError: w with a net that does not take it; what `FlowLoss.sample` raises.
    """
    x, mask = self._tokens(variables, batch)
    lat, codes, y = self._autoencode(variables, x, mask)
    out = y
    if self.flow is not None and nfe:
      self.flow.check_sampler(sampler, self.predict)
      cond, null = self._cond(batch, lat, y, mask)
      start = lambda rng: start_noise(self.prior, self.sigma, jax.random.normal(rng, x.shape), y)
      fn = self._velocity(variables)
      if w is not None:
        values = {"w": w, "t_min": interval[0], "t_max": interval[1]}
        plain = fn

        def fn(z, t, h, c):
          return plain(z, t, h, c, ctx={k: jnp.full_like(t, v) for k, v in values.items()})

      out = self.flow.sample(
        fn, start(rng), nfe, cond, sampler=sampler or self.sampler,
        noise=lambda i: start(jax.random.fold_in(rng, i)), null=null, scale=scale,
        interval=interval,
      )  # fmt: skip
    found = {self.key: self._data(variables, out, batch)}
    if lat is not None:
      found |= {"ae": self._data(variables, y, batch), "bits": self._bits(x, mask)}
    return found if codes is None else {**found, "codes": codes}
