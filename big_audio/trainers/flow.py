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
from big_audio.models import tokens as T
from big_audio.nn.quantize import FSQ, code_usage
from big_audio.objectives import flow
from big_audio.samplers import ode
from big_audio.trainers import checks
from big_audio.trainers.flow_loss import METHODS, PRIORS, FlowLoss, start_noise
from big_audio.trainers.loss import Loss
from big_audio.trainers.stats import moments


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
    own, flow = C.share("config.trainer", config.trainer, self._configure, FlowLoss)
    C.call("config.trainer", self._configure, flow, **own)
    self.net = C.pick("config.models", models, self.net_name)
    self._check_net(f"config.models.{self.net_name}")
    checks.evaluations(config, ode.STAGES.get(self.sampler, 1))

  def _configure(
    self, settings, /, *, name, net="net", key="image", method="imf", tokens="flat",
    prior="shifted", sigma=0.5, predict="u", detach=False, quantizer=None, label=None, sampler=None,
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
    if method == "ae" and settings:
      raise ValueError(f'config.trainer: method="ae" has no flow, so no {", ".join(settings)}.')
    self.flow = None if method == "ae" else FlowLoss(method, **settings)
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
    analysis = jax.jit(self.tokens.analysis)
    waves = (batch[self.key].astype(np.float32) for batch in batches)
    return moments(waves, {"tokens": analysis})

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
    return flow.predict_x(u, base)

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
