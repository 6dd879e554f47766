"""Neural codecs: an autoencoder with a quantiser, and a flow that refines what it decodes.

  trainer = dict(name="autoencode", method="imf", domain="magnitude", refiner_begin_percent=60)

Stage 1 trains the codec on waveform and spectral losses. Stage 2, from `refiner_begin_percent` of
the run on, trains the refiner to carry the decoder's output y to the recording x in `domain`
(models/frames.py), from e = y + sigma * eps at t=1 (FlowDec, 2503.01485) or from plain noise. The
codec then stands still unless `joint`; give it a schedule that ends where the refiner begins.
`method="ae"` has no stage 2 and no refiner. At inference, a refiner with 0 evaluations is the AE.

With `predict="x"` the net gives the correction of y and u = (z - x_hat) / max(t, .05) (pMF,
2601.22158), so an untrained refiner returns the AE's output; with "u" it gives u itself.
"""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from big_audio import config as C
from big_audio.models import frames
from big_audio.nn.quantize import code_usage
from big_audio.objectives import flow, spectral
from big_audio.trainers.flow import METHODS, PRIORS, FlowLoss, start_noise
from big_audio.trainers.loss import Loss

CODEC_COLLECTIONS = ("codebook",)  # what a quantiser may keep beside its parameters
MIN_T = 0.05  # of pMF's division by t
MAX_LATENT = 1.5  # beyond it the quantiser is saturated: 2 sigmoid(1.6 * 1.5) - 1 = .83


class Trainer:
  """Strategy of `config.trainer`; models "codec" and, unless method="ae", "refiner".

  predict_fns: reconstruct(nfe, groups), encode, decode(nfe); see there.
  """

  def __init__(self, config, models):
    self.codec = C.pick("config.models", models, "codec")
    self.code_prior = models.get("prior")
    C.call("config.trainer", self._configure, **{k: config.trainer[k] for k in config.trainer})
    self.refiner = None if self.flow is None else C.pick("config.models", models, "refiner")
    sizes = [n for g in self.codec.groups for n in g]
    if self.code_prior is not None and list(self.code_prior.sizes) != sizes:
      raise ValueError(
        f"config.models.prior.sizes: expected the codec's levels {sizes}, got "
        f"{list(self.code_prior.sizes)}."
      )
    if self.flow is None and "refiner" in models:
      raise ValueError('config.models.refiner: method="ae" trains no refiner; remove it.')

  def _configure(
    self, *, name, method="imf", domain="mdct", sub=None, power=0.3, prior="shifted", sigma=0.5,
    predict="x", joint=False, refiner_begin_percent=60.0, weights=None, far_weight=0.1,
    quantizer_dropout=0.0, soft_share=0.0, rate_weight=0.0,
    sample_weight=0.0, sample_share=0.25, ratio=0.5, p=1.0, eps=0.01, t_dist=None,
  ):  # fmt: skip
    for key, share in (("quantizer_dropout", quantizer_dropout), ("soft_share", soft_share)):
      if not 0 <= share <= 1:
        raise ValueError(f"config.trainer.{key}: expected a share in [0, 1], got {share!r}.")
    self.dropout, self.soft_share = quantizer_dropout, soft_share
    self.is_fsq = self.codec.quantizer.get("name", "fsq") == "fsq"
    if soft_share and not self.is_fsq:
      raise ValueError("config.trainer.soft_share: only an FSQ can leave latents unrounded.")
    for key, value, known in (
      ("method", method, METHODS), ("prior", prior, PRIORS), ("predict", predict, ("x", "u")),
    ):  # fmt: skip
      if value not in known:
        raise ValueError(f"config.trainer.{key}={value!r} is unknown. {C.nearest(value, known)}")
    if prior == "standard" and predict == "x":
      raise ValueError('config.trainer: predict="x" starts at y; use it with prior="shifted".')
    self.method, self.prior, self.sigma, self.predict = method, prior, sigma, predict
    self.far_weight = far_weight
    self.joint, self.begin, self.weights = joint, refiner_begin_percent / 100, weights
    self.sample_weight, self.sample_share = sample_weight, sample_share
    self.rate_weight = rate_weight
    if rate_weight and not (self.is_fsq and self.code_prior):
      raise ValueError("config.trainer.rate_weight needs an FSQ and config.models.prior.")
    self.flow = self.domain = None
    if method != "ae":
      self.flow = FlowLoss(method, ratio=ratio, p=p, eps=eps, t_dist=t_dist)
      sub = sub or (1 if domain == "mdct" else self.codec.sub)
      self.domain = frames.build(
        domain, hop=self.codec.hop, channels=self.codec.channels, sub=sub, power=power
      )

  # Data

  def stats(self, batches: Iterable[dict]) -> dict:
    """Mean and deviation of encoder features and of the domain's rows, over f32[B, T, C] waves."""
    parts = {"features": lambda w: self.codec.apply({}, w, method="features")}
    if self.domain:
      parts["rows"] = lambda w: self.domain.analysis(w)[0]
    parts = {k: jax.jit(f) for k, f in parts.items()}
    sums = {k: np.zeros(3, object) for k in parts}
    for batch in batches:
      for k, fn in parts.items():
        x = np.asarray(fn(batch["wav"]), np.float64)
        x = x.reshape(-1, x.shape[-1])
        sums[k] = sums[k] + np.array([len(x), x.sum(0), (x**2).sum(0)], object)
    out = {}
    for k, (n, total, square) in sums.items():
      mean = total / n
      std = np.sqrt(np.maximum(square / n - mean**2, 0.0))
      # Bins that are silent in the training data would otherwise be blown up in another recording.
      std = np.maximum(std, 0.05 * std.mean() + 1e-6)
      out[k] = {"mean": mean.astype(np.float32), "std": std.astype(np.float32)}
    return out

  def init(self, rng, batch, stats):
    """Parameters of both models; the statistics travel in "stats"."""
    k1, k2, k3 = jax.random.split(rng, 3)
    wav = batch["wav"][:1]
    codec = dict(self.codec.init({"params": k1, "codes": k1}, wav, stats["features"]))
    params = {"codec": codec.pop("params")}
    if self.code_prior is not None:
      hot = jnp.zeros((1, 1, len(self.code_prior.sizes), max(self.code_prior.sizes)))
      params["prior"] = self.code_prior.init(k3, hot)["params"]
    if self.refiner is not None:
      tokens = wav.shape[1] // self.codec.hop
      t = jnp.zeros((1,))
      rows = jnp.zeros((1, self.domain.num_rows(tokens), self.domain.dim))
      feats = self.domain.align(jnp.zeros((1, tokens, self.codec.width)))
      cond = jnp.concatenate([rows, feats], axis=-1)
      params["refiner"] = self.refiner.init(k2, rows, t, t, cond)["params"]
    return {"params": params, "stats": jax.tree.map(jnp.asarray, stats), **codec}

  # Pieces

  def _codec(self, variables, *args, method, **kw):
    own = {k: variables[k] for k in CODEC_COLLECTIONS if k in variables}
    return self.codec.apply(
      {"params": variables["params"]["codec"], **own}, *args, method=method, **kw
    )

  def _latents(self, variables, wav, mask):
    return self._codec(variables, wav, variables["stats"]["features"], mask, method="encode")

  def _autoencode(self, variables, wav, mask, groups=None):
    lat = self._latents(variables, wav, mask)
    kw = {} if groups is None else {"keep": jnp.full(wav.shape[:1], groups)}
    q = self._codec(variables, lat, method="quantize", **kw)
    y, feats = self._codec(variables, q.lat, mask, method="decode")
    return y, feats, q.codes

  def _train_quantizer(self, variables, lat, mask, rng):
    """(`Quantised` with dropout, groups kept or None, the quantiser's collections after it)."""
    k_keep, k_which, k_soft, k_codes = jax.random.split(rng, 4)
    rows, most = lat.shape[0], len(self.codec.groups)
    kw = {} if mask is None else {"mask": mask}
    if self.dropout:
      some = jax.random.randint(k_keep, (rows,), 1, most + 1)
      kw["keep"] = jnp.where(jax.random.uniform(k_which, (rows,)) < self.dropout, some, most)
    if self.soft_share:
      kw["soft"] = jax.random.uniform(k_soft, (rows,)) < self.soft_share
    own = [k for k in CODEC_COLLECTIONS if k in variables]
    out, updates = self._codec(
      variables, lat, method="quantize", mutable=own, rngs={"codes": k_codes}, **kw
    )
    return out, kw.get("keep"), updates

  def _rows(self, variables, wav, mask):
    rows, side = self.domain.analysis(wav, mask)
    stats = variables["stats"]["rows"]
    return (rows - stats["mean"]) / stats["std"], side

  def _wave(self, variables, rows, side, mask):
    stats = variables["stats"]["rows"]
    return self.domain.synthesis(rows * stats["std"] + stats["mean"], side, mask)

  def _row_mask(self, mask):
    if mask is None:
      return None
    return jnp.any(self.domain.align(mask[..., None].astype(jnp.float32)) > 0, axis=-1)

  def _velocity(self, variables) -> Callable:
    """u(z, t, h, {"y", "feats", "mask"})."""
    params = {"params": variables["params"]["refiner"]}

    def u(z, t, h, c):
      cond = jnp.concatenate([c["y"], c["feats"]], axis=-1)
      out = self.refiner.apply(params, z, t, h, cond, c["mask"], method="u")
      if self.predict == "u":
        return out
      return (z - (c["y"] + out)) / flow.expand(jnp.maximum(t, MIN_T), z)

    return u

  def _cond(self, y_rows, feats, mask):
    rows = y_rows.shape[:2]
    if mask is not None:  # outside the mask the decoder's features hold nothing of use
      feats = jnp.where(mask[..., None], feats, 0.0)
    row_mask = jnp.ones(rows, bool) if mask is None else self._row_mask(mask)
    return {"y": y_rows, "feats": self.domain.align(feats), "mask": row_mask}

  def _reconstruction(self, pred, wav, mask):
    kw = {} if self.weights is None else {"weights": C.to_dict(self.weights)}
    return spectral.reconstruction(pred, wav, self.codec.sr, mask=mask, **kw)

  # Training

  def loss(self, variables, batch, rng, *, step, total_steps, train) -> Loss:
    """Stage 1: reconstruction; stage 2: the refiner's flow (both if `joint` or evaluating)."""
    wav, sample_mask = batch["wav"], batch.get("wav_mask")
    mask = None if sample_mask is None else sample_mask[:, :: self.codec.hop]

    k_codes, k_flow = jax.random.split(rng)

    def stage1(codec):  # the variables that the codec's own gradient goes to
      lat = self._latents(codec, wav, mask)
      if train:
        q, keep, updates = self._train_quantizer(codec, lat, mask, k_codes)
      else:
        q, keep, updates = self._codec(codec, lat, method="quantize"), None, {}
      y, feats = self._codec(codec, q.lat, mask, method="decode")
      value, parts = self._reconstruction(y, wav, sample_mask)
      logs = {"ae_loss": value, **{f"ae_{k}": v for k, v in parts.items()}}
      if self.codec.groups:
        here = jnp.ones(q.codes.shape[:2], bool) if mask is None else mask
        if "_mask" in batch:  # rows that pad the last batch of an evaluation
          here = here & (batch["_mask"][:, None] > 0)
        usage = code_usage(q.codes, self.codec.codebook_sizes, here)
        logs |= {k: jnp.mean(usage[k]) for k in ("perplexity", "usage")}
      own = flow.frame_mean(q.loss[..., None], mask)
      if self.is_fsq:
        # A latent far out on the bound has no gradient left and its code carries nothing for ever.
        logs["far"] = flow.frame_mean(jnp.square(jax.nn.relu(jnp.abs(lat) - MAX_LATENT)), mask)
        own = own + self.far_weight * logs["far"]
      else:
        logs["quantizer"] = own
      bits = self._code_bits(variables, codec, lat, q, keep, mask, logs)
      return value + own, bits, logs, updates, y, feats

    if self.flow is None:
      value, bits, logs, updates, _, _ = stage1(variables)
      return Loss(value + bits, logs=logs, updates=updates)

    def stage2(variables):
      value, bits, logs, updates, y, feats = stage1(
        variables if self.joint else jax.lax.stop_gradient(variables)
      )
      if not self.joint:  # the codec stands still, its codebooks too
        value, updates = jax.lax.stop_gradient(value), {k: variables[k] for k in updates}
      y, feats = jax.lax.stop_gradient((y, feats))
      flow_value, flow_logs = self._flow_loss(
        variables, wav, y, feats, mask, sample_mask, k_flow, step=step, total_steps=total_steps
      )
      weighted = lambda v: v if isinstance(v, tuple) else (v, jnp.ones_like(v))
      logs |= {k: weighted(v) for k, v in flow_logs.items()}
      return flow_value + value + bits, logs, updates

    if not train:
      value, logs, _ = stage2(variables)
      return Loss(value, logs=logs)
    shapes = jax.eval_shape(stage2, variables)[1]

    def stage1_only(variables):
      value, bits, logs, updates, _, _ = stage1(variables)
      # What does not exist yet has no weight, and no place in the rows' means.
      absent = lambda v: jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), v)
      return value + bits, {k: logs.get(k, absent(v)) for k, v in shapes.items()}, updates

    begin = jnp.round(self.begin * total_steps)
    value, logs, updates = jax.lax.cond(step < begin, stage1_only, stage2, variables)
    return Loss(value, logs=logs, updates=updates)

  def _code_bits(self, variables, codec, lat, q, keep, mask, logs):
    """Bits of a token by the prior: f32[B], the loss that it follows; 0 without a prior.

    The codec feels it `rate_weight` times (through the hats of `FSQ.one_hot`).
    """
    if self.code_prior is None:
      return 0.0
    hot = self._codec(codec, lat, q.codes, self.rate_weight, method="one_hot")
    known = jnp.ones(hot.shape[:3], bool)
    if keep is not None:
      group = np.repeat(np.arange(len(self.codec.groups)), [len(g) for g in self.codec.groups])
      known = jnp.broadcast_to(group < keep[:, None, None], known.shape)
    if mask is not None:
      known = known & mask[..., None]
    params = variables["params"]["prior"]
    # The codec's gradient passes through the prior as it is; the prior's own weight is 1.
    bits = self.code_prior.apply({"params": params}, hot, known)
    bits = jnp.where(known, bits, 0.0)
    logs["bits"] = flow.frame_mean(jnp.sum(bits, -1, keepdims=True), mask)
    return logs["bits"]

  def _flow_loss(self, variables, wav, y, feats, mask, sample_mask, rng, **progress):
    k_noise, k_time, k_sample = jax.random.split(rng, 3)
    x, _ = self._rows(variables, wav, mask)
    y_rows, side = self._rows(variables, y, mask)
    cond = self._cond(y_rows, feats, mask)
    e = start_noise(self.prior, self.sigma, jax.random.normal(k_noise, x.shape), y_rows)
    u = self._velocity(variables)
    value, logs = self.flow(u, x, e, k_time, cond=cond, mask=cond["mask"])
    logs["flow_loss"] = value
    logs["y_mse"] = flow.frame_mean(jnp.square(y_rows - x), cond["mask"])
    if self.sample_weight:
      share = lambda v: v[: max(1, round(self.sample_share * v.shape[0]))]
      take = lambda tree: jax.tree.map(share, tree)
      e1 = start_noise(
        self.prior, self.sigma, jax.random.normal(k_sample, share(x).shape), share(y_rows)
      )
      out = self.flow.sample(u, e1, 1, take(cond))
      m = None if sample_mask is None else share(sample_mask)
      pred = self._wave(variables, out, take(side), None if mask is None else share(mask))
      heard, _ = self._reconstruction(pred, share(wav), m)
      logs["sample_loss"] = jnp.broadcast_to(jnp.mean(heard), value.shape)
      value = value + self.sample_weight * logs["sample_loss"]
    return value, logs

  # Use

  def predict_fns(self) -> dict[str, Callable]:
    """The functions below by name."""
    return {"reconstruct": self.reconstruct, "encode": self.encode, "decode": self.decode}

  def encode(self, variables, batch, rng):
    """{"wav" f32[B, T, C], "mask" bool[B, F]} -> {"lat" f32[B, F, D], "codes" int32[B, F, G]}."""
    lat = self._latents(variables, batch["wav"], batch.get("mask"))
    return {"lat": lat, "codes": self._codec(variables, lat, method="quantize").codes}

  def decode(self, variables, batch, rng, *, nfe=1):
    """Codes -> waveform, with `nfe` evaluations of the refiner (0: the deterministic decoder).

    Args:
      variables: of the trainer.
      batch: "codes" int32[B, F, k] of the first k groups; "mask" bool[B, F]; "token" int32[B, F],
        the place of each token in its clip; "seed" uint32[B]. Noise depends on (seed, token) alone.
      rng: not used.
      nfe: number of network evaluations.

    Returns:
      {"wav": f32[B, F * hop, C], "ae": the same without the refiner}.
    """
    q = self._codec(variables, batch["codes"], method="from_codes")
    y, feats = self._codec(variables, q, batch["mask"], method="decode")
    return {"wav": self._refine(variables, y, feats, batch, nfe), "ae": y}

  def _refine(self, variables, y, feats, batch, nfe):
    if self.flow is None or nfe == 0:
      return y
    y_rows, side = self._rows(variables, y, batch["mask"])
    cond = self._cond(y_rows, feats, batch["mask"])
    first = batch["token"][:, :1]
    index = first + jnp.arange(y_rows.shape[1])

    def noise(seed, index):
      key = jax.random.key(seed)
      draw = lambda i: jax.random.normal(jax.random.fold_in(key, i), y_rows.shape[2:])
      return jax.vmap(draw)(index)

    e = start_noise(self.prior, self.sigma, jax.vmap(noise)(batch["seed"], index), y_rows)
    rows = self.flow.sample(self._velocity(variables), e, nfe, cond)
    return self._wave(variables, rows, side, batch["mask"])

  def reconstruct(self, variables, batch, rng, *, nfe=1, groups=None):
    """{"wav" f32[B, T, C]} -> {"wav", "ae": alike, "codes" int32[B, F, k], "bits" [B]}.

    Only the first `groups` groups of codes are used (None: all).
    """
    wav, mask = batch["wav"], batch.get("mask")
    y, feats, codes = self._autoencode(variables, wav, mask, groups)
    b, f = codes.shape[:2]
    mask = jnp.ones((b, f), bool) if mask is None else mask
    token = jnp.broadcast_to(jnp.arange(f), (b, f))
    seed = jax.random.bits(rng, (b,), jnp.uint32)
    out = self._refine(variables, y, feats, {"mask": mask, "token": token, "seed": seed}, nfe)
    tokens = jnp.sum(mask, axis=1).astype(jnp.float32)
    bits = tokens * self.codec.bits_per_token(groups)
    return {"wav": out, "ae": y, "codes": codes[..., :groups], "bits": bits}
