"""Neural codecs: an autoencoder with a quantiser, and a flow that refines what it decodes.

  trainer = dict(name="autoencode", method="imf", domain="magnitude", refiner_begin_percent=60)

Stage 1 trains the codec on waveform and spectral losses, with `gan=dict(...)` and a model
"discriminator" on an adversarial one too (trainers/adversary.py; both players move at every step).
Stage 2, from `refiner_begin_percent` of the run on, trains the refiner to carry the decoder's
output y to the recording x in `domain` (models/frames.py), from e = y + sigma * eps at t=1
(FlowDec, 2503.01485) or from plain noise. The codec then stands still unless `joint`; give it a
schedule that ends where the refiner begins. `method="ae"` has no stage 2 and no refiner; at
inference, a refiner with 0 evaluations is the AE. A model "prior" (models/code_prior.py) learns
what codes cost.

With `predict="x"` the net gives the correction of y and u = (z - x_hat) / max(t, .05) (pMF,
2601.22158), so an untrained refiner returns the AE's output; with "u" it gives u itself. With
`joint`, the losses of the refiner reach the codec through the decoder's features that condition it.
"""

import math
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from big_audio import config as C
from big_audio import sharding
from big_audio.models import frames
from big_audio.nn.quantize import code_usage
from big_audio.objectives import flow, meanflow, spectral
from big_audio.samplers import ode
from big_audio.trainers import checks
from big_audio.trainers.adversary import Adversary
from big_audio.trainers.flow_loss import METHODS, PRIORS, FlowLoss, start_noise
from big_audio.trainers.loss import Loss
from big_audio.trainers.rate import MAX_WEIGHT, next_log_weight
from big_audio.trainers.stats import moments

CODEC_COLLECTIONS = ("codebook",)  # what a quantiser may keep beside its parameters
AVERAGE_SKIP = "discriminator/.*|codec/quant/books_.*"
LOSSES = (  # settings of `spectral.reconstruction`, beside its weights
  "mel_windows", "mels", "stft_windows", "loudness_windows", "mdct_windows", "bands", "floor",
  "power", "excess",
)  # fmt: skip
PHASES = ("codec", "adversarial", "refiner")
MAX_BOUND = 0.83  # a latent beyond it saturates the quantiser: 2 sigmoid(1.6 * 1.5) - 1


class Trainer:
  """Strategy of `config.trainer`; models "codec" and, unless method="ae", "refiner".

  predict_fns: reconstruct(nfe, groups), encode, decode(nfe); see there.
  """

  def __init__(self, config, models):
    self.codec = C.pick("config.models", models, "codec")
    self.code_prior = models.get("prior")
    self.discriminator = models.get("discriminator")
    own, flow = C.share("config.trainer", config.trainer, self._configure, FlowLoss)
    C.call("config.trainer", self._configure, flow, **own)
    self.refiner = None if self.flow is None else C.pick("config.models", models, "refiner")
    if self.refiner is not None and self.refiner.dim != self.domain.dim:
      raise ValueError(
        f"config.models.refiner.dim={self.refiner.dim}: rows of this codec and domain have "
        f"{self.domain.dim} numbers. Use dim={self.domain.dim}."
      )
    # Where 2 sigmoid(gain z) - 1 reaches MAX_BOUND.
    self.max_latent = 2 * math.atanh(MAX_BOUND) / self.codec.quantizer.get("gain", 1.6)
    sizes = [n for g in self.codec.groups for n in g]
    if self.code_prior is not None and list(self.code_prior.sizes) != sizes:
      raise ValueError(
        f"config.models.prior.sizes: expected the codec's levels {sizes}, got "
        f"{list(self.code_prior.sizes)}."
      )
    if self.flow is not None and self.flow.guidance == "flexible":
      raise ValueError(
        'config.trainer.guidance: a refiner takes guidance of kind "fixed"; "flexible" is for '
        'trainer "flow".'
      )
    for key in ("guidance", "classes"):
      if getattr(self.refiner, key, None):
        raise ValueError(f"config.models.refiner.{key}: a refiner has no such input; remove it.")
    if self.flow is not None and self.flow.method == "fm" and getattr(self.refiner, "v_head", 0):
      raise ValueError("config.models.refiner.v_head is for mf, imf and alpha, not fm.")
    if self.dropout and len(self.codec.groups) < 2:
      raise ValueError("config.trainer.quantizer_dropout needs a quantizer of two or more groups.")
    held = ["discriminator/x"] if self.discriminator is not None else []
    if self.codec.quantizer.get("name", "fsq") == "rvq":  # replacements move its codebooks
      held.append("codec/quant/books_0/codes")
    checks.averages(config, held, skip=AVERAGE_SKIP)
    self._check_schedule(config)
    if self.flow is not None:
      guided = 2 if self.scale != 1 else 1
      checks.evaluations(config, guided * ode.STAGES.get(self.sampler, 1))
    if self.flow is None and "refiner" in models:
      raise ValueError('config.models.refiner: method="ae" trains no refiner; remove it.')

  def _check_schedule(self, config):
    """What the optimizer moves must be what the phase trains, see `phase`."""
    begin, edges = 100 * self.begin, {}
    if self.flow is not None:
      edges = {"refiner": ("begin", begin), "codec": ("end", 100 if self.joint else begin)}
    if self._judged("codec"):
      edges["discriminator"] = ("begin", self.gan.begin)
    idle = () if self.joint else ("codec",)
    checks.edges(config, edges, may_be_frozen=idle)

  def _configure(
    self, settings, /, *, name, method="imf", domain="mdct", sub=None, power=0.3, prior="shifted",
    sigma=0.5, predict="x", joint=False, refiner_begin_percent=60.0, weights=None, losses=None,
    far_weight=0.1, quantizer_dropout=0.0, soft_share=0.0, rate_weight=0.0, coded_bits=None,
    gan=None, sample_weight=0.0, sample_share=0.25, sampler=None, scale=1.0,
  ):  # fmt: skip
    checks.ranges(
      quantizer_dropout=(quantizer_dropout, 1), soft_share=(soft_share, 1),
      sample_share=(sample_share, 1), refiner_begin_percent=(refiner_begin_percent, 99.9),
      sigma=(sigma, None), sample_weight=(sample_weight, None), rate_weight=(rate_weight, None),
      far_weight=(far_weight, None),
    )  # fmt: skip
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
    self.far_weight, self.sampler, self.scale = far_weight, sampler, scale
    self.joint, self.begin = joint, refiner_begin_percent / 100
    self.losses = C.to_dict(losses or {})
    for key in self.losses:
      if key not in LOSSES:
        raise ValueError(f"config.trainer.losses.{key} is unknown. {C.nearest(key, LOSSES)}")
    if weights is not None:
      self.losses["weights"] = C.to_dict(weights)
    self.sample_weight, self.sample_share = sample_weight, sample_share
    self.rate_weight, self.coded_bits = float(rate_weight), coded_bits
    self.gan = None if gan is None else C.call("config.trainer.gan", Adversary, **C.to_dict(gan))
    if (self.gan is None) != (self.discriminator is None):
      raise ValueError("config.trainer.gan and config.models.discriminator need each other.")
    if self._judged("refiner") and not (sample_weight and method != "ae"):
      raise ValueError(
        'config.trainer.gan.of="refiner" judges its samples: needs a flow and sample_weight > 0.'
      )
    if self._judged("codec") and method != "ae" and self.gan.begin >= refiner_begin_percent:
      raise ValueError(
        f"config.trainer.gan.begin_percent={self.gan.begin:g}: the refiner begins at "
        f"{refiner_begin_percent:g} per cent of the run and ends the adversary; begin before it."
      )
    if (rate_weight or coded_bits) and not (self.is_fsq and self.code_prior):
      raise ValueError("config.trainer.rate_weight, coded_bits: need an FSQ and models.prior.")
    if coded_bits is not None and not (coded_bits > 0 and 0 < rate_weight <= MAX_WEIGHT):
      raise ValueError(
        f"config.trainer.coded_bits={coded_bits!r}: expected bits > 0, and a rate_weight above 0 "
        f"and at most {MAX_WEIGHT} to begin with, got {rate_weight!r}."
      )
    if method == "ae" and settings:
      raise ValueError(f'config.trainer: method="ae" has no flow, so no {", ".join(settings)}.')
    self.flow = self.domain = None
    if method != "ae":
      self.flow = FlowLoss(method, **settings)
      if scale != 1 and not self.flow.drop:
        raise ValueError(
          f"config.trainer.scale={scale:g} guides by a refiner without condition, which drop=0 "
          "never trains. Use drop=0.1, or scale=1."
        )
      self.flow.check_sampler(sampler, predict)
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
    return moments((batch["wav"] for batch in batches), parts)

  def init(self, rng, batch, stats):
    """Parameters of both models; the statistics travel in "stats"."""
    k1, k2, k3, k4 = jax.random.split(rng, 4)
    wav = batch["wav"][:1]
    codec = dict(self.codec.init({"params": k1, "codes": k1}, wav, stats["features"]))
    params = {"codec": codec.pop("params")}
    if self.discriminator is not None:
      params["discriminator"] = self.discriminator.init(k4, wav)["params"]
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
    out = {"params": params, "stats": jax.tree.map(jnp.asarray, stats), **codec}
    if self.coded_bits:
      out["rate"] = {"log_weight": jnp.log(self.rate_weight)}
    return out

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

  def _rows(self, variables, wav):
    rows, side = self.domain.analysis(wav)
    stats = variables["stats"]["rows"]
    return (rows - stats["mean"]) / stats["std"], side

  def _wave(self, variables, rows, side, mask):
    stats = variables["stats"]["rows"]
    return self.domain.synthesis(rows * stats["std"] + stats["mean"], side, mask)

  def _row_mask(self, mask):
    if mask is None:
      return None
    return jnp.any(self.domain.align(mask[..., None].astype(jnp.float32)) > 0, axis=-1)

  def _velocity(self, variables, heads=False) -> Callable:
    """u(z, t, h, {"y", "feats", "mask"}); for training (`heads`) with the v-head's output."""
    params = {"params": variables["params"]["refiner"]}
    more = {"with_v": True} if heads and getattr(self.refiner, "v_head", 0) else {}

    def u(z, t, h, c):
      cond = jnp.concatenate([c["y"], c["feats"]], axis=-1)
      return self.refiner.apply(params, z, t, h, cond, c["mask"], method="u", **more)

    if self.predict == "u":
      return u
    return flow.predict_x(u, lambda c: c["y"])

  def _cond(self, y_rows, feats, mask):
    rows = y_rows.shape[:2]
    if mask is not None:  # outside the mask the decoder's features hold nothing of use
      feats = jnp.where(mask[..., None], feats, 0.0)
    row_mask = jnp.ones(rows, bool) if mask is None else self._row_mask(mask)
    return {"y": y_rows, "feats": self.domain.align(feats), "mask": row_mask}

  def _null(self, cond):
    """The refiner without the decoder's features: all it knows is y."""
    return {**cond, "feats": jnp.zeros_like(cond["feats"])}

  def _reconstruction(self, pred, wav, mask):
    return spectral.reconstruction(pred, wav, self.codec.sr, mask=mask, **self.losses)

  # Training

  def phase(self, step: int, total_steps: int) -> str:
    """What a step trains: "codec", "adversarial" (codec and discriminator) or "refiner"."""
    if self.flow is not None and step >= self._refiner_begin(total_steps):
      return "refiner"
    if self._judged("codec") and step >= round(self.gan.begin / 100 * total_steps):
      return "adversarial"
    return "codec"

  def _judged(self, name) -> bool:
    return self.gan is not None and self.gan.of == name

  def _refiner_begin(self, total_steps) -> int:
    return round(self.begin * total_steps)

  def loss(self, variables, batch, rng, *, step, total_steps, train, phase=None) -> Loss:
    """The losses of a phase, see `phase`; all that the run has if it evaluates.

    The codec is trained in the phase "refiner" too if `joint`, the code prior in every phase.
    """
    if train and phase not in PHASES:
      raise ValueError(f"trainers.autoencode: phase={phase!r}: expected one of {PHASES}.")
    wav, sample_mask = batch["wav"], batch.get("wav_mask")
    mask = None if sample_mask is None else sample_mask[:, :: self.codec.hop]
    k_codes, k_flow = jax.random.split(rng)
    refiner_begin = self._refiner_begin(total_steps)
    refine = self.flow is not None and (phase == "refiner" or not train)
    play = self._judged("codec") and (phase == "adversarial" or not train)
    still = phase == "refiner" and not self.joint  # the codec, its codebooks too
    codec = jax.lax.stop_gradient(variables) if still else variables

    lat = self._latents(codec, wav, mask)
    keep, updates = None, {}
    if train:
      q, keep, updates = self._train_quantizer(codec, lat, mask, k_codes)
      updates = {} if still else updates
    else:
      q = self._codec(codec, lat, method="quantize")
    y, feats = self._codec(codec, q.lat, mask, method="decode")
    value, parts = self._reconstruction(y, wav, sample_mask)
    logs = {"ae_loss": value, **{f"ae_{k}": v for k, v in parts.items()}}
    if self.codec.groups:
      logs |= self._usage(q.codes, mask, batch)
    value = value + self._quantizer_loss(lat, q, mask, logs)
    if play:
      extra, found = self._adversarial(variables, y, wav)
      value, logs = value + extra, logs | found
    value = value + self._code_bits(variables, codec, lat, q, keep, mask, logs)
    if self.coded_bits and train and not still:
      codec_steps = total_steps if self.joint or self.flow is None else refiner_begin
      log_weight = variables["rate"]["log_weight"]
      logs["rate_weight"] = jnp.exp(log_weight)
      whole = None if keep is None else keep == len(self.codec.groups)
      after = next_log_weight(log_weight, logs["bits"], self.coded_bits, codec_steps, whole)
      updates = {**updates, "rate": {"log_weight": after}}
    if refine:
      y = jax.lax.stop_gradient(y)
      feats = feats if self.joint else jax.lax.stop_gradient(feats)
      left = total_steps - refiner_begin
      value = value + self._flow_loss(
        variables, wav, y, feats, mask, sample_mask, k_flow, logs, train=train, total_steps=left,
        # Evaluation measures the objective that the run ends with.
        step=step - refiner_begin if train else left,
      )  # fmt: skip
    return Loss(value, logs=logs, updates=updates)

  def _usage(self, codes, mask, batch):
    here = jnp.ones(codes.shape[:2], bool) if mask is None else mask
    if "_mask" in batch:  # rows that pad the last batch of an evaluation
      here = here & (batch["_mask"][:, None] > 0)
    usage = code_usage(codes, self.codec.codebook_sizes, here)
    return {k: jnp.mean(usage[k]) for k in ("perplexity", "usage")}

  def _quantizer_loss(self, lat, q, mask, logs):
    own = flow.frame_mean(q.loss[..., None], mask)
    if not self.is_fsq:
      logs["quantizer"] = own
      return own
    # A latent far out on the bound has no gradient left and its code carries nothing for ever.
    logs["far"] = flow.frame_mean(jnp.square(jax.nn.relu(jnp.abs(lat) - self.max_latent)), mask)
    return own + self.far_weight * logs["far"]

  def _adversarial(self, variables, fake, real):
    judge = lambda params, x: self.discriminator.apply({"params": params}, x)
    return self.gan.losses(judge, variables["params"]["discriminator"], real, fake)

  def _code_bits(self, variables, codec, lat, q, keep, mask, logs):
    """Bits of a token by the prior: f32[B], the loss that it follows; 0 without a prior.

    The codec feels it `rate_weight` times (through the hats of `FSQ.one_hot`), or as many times as
    it takes to come to `coded_bits`.
    """
    if self.code_prior is None:
      return 0.0
    pull = jnp.exp(variables["rate"]["log_weight"]) if self.coded_bits else self.rate_weight
    hot = self._codec(codec, lat, q.codes, pull, method="one_hot")
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

  def _flow_loss(self, variables, wav, y, feats, mask, sample_mask, rng, logs, train, **progress):
    k_noise, k_time, k_sample = jax.random.split(rng, 3)
    x, _ = self._rows(variables, wav)
    y_rows, side = self._rows(variables, y)
    cond = self._cond(y_rows, feats, mask)
    e = start_noise(self.prior, self.sigma, jax.random.normal(k_noise, x.shape), y_rows)
    value, found = self.flow(
      self._velocity(variables, heads=True), x, e, k_time, cond=cond, mask=cond["mask"],
      null=self._null(cond), **progress,
    )  # fmt: skip
    logs |= {**found, "flow_loss": value}
    logs["y_mse"] = flow.frame_mean(jnp.square(y_rows - x), cond["mask"])
    if self.sample_weight:
      shards = sharding.data_shards()
      least = shards / x.shape[0]  # one row of a device
      share = max(self.sample_share, least) if train else 1.0
      rows, _ = meanflow.jvp_rows(x.shape[0], share, shards)
      take = lambda tree: meanflow.take_rows(tree, rows, shards)
      e1 = start_noise(
        self.prior, self.sigma, jax.random.normal(k_sample, take(x).shape), take(y_rows)
      )
      out = self.flow.sample(self._velocity(variables), e1, 1, take(cond))
      m = None if sample_mask is None else take(sample_mask)
      pred = self._wave(variables, out, take(side), None if mask is None else take(mask))
      heard, _ = self._reconstruction(pred, take(wav), m)
      extra, found = self.sample_weight * heard, {"sample_loss": heard}
      if self._judged("refiner"):
        more, judged = self._adversarial(variables, pred, take(wav))
        extra, found = extra + more, found | judged
      if len(heard) < x.shape[0]:  # some rows stand for all
        everyone = lambda v: jnp.broadcast_to(jnp.mean(v), value.shape)
        extra, found = everyone(extra), jax.tree.map(everyone, found)
      value = value + extra
      logs |= found
    return value

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
    y_rows, side = self._rows(variables, y)
    cond = self._cond(y_rows, feats, batch["mask"])
    first = batch["token"][:, :1]
    index = first + jnp.arange(y_rows.shape[1])

    def noise(seed, index, again):
      key = jax.random.fold_in(jax.random.key(seed), again)
      draw = lambda i: jax.random.normal(jax.random.fold_in(key, i), y_rows.shape[2:])
      return jax.vmap(draw)(index)

    def start(again=0):
      eps = jax.vmap(lambda seed, i: noise(seed, i, again))(batch["seed"], index)
      return start_noise(self.prior, self.sigma, eps, y_rows)

    rows = self.flow.sample(
      self._velocity(variables), start(), nfe, cond, sampler=self.sampler,
      noise=lambda i: start(i + 1), null=self._null(cond), scale=self.scale,
    )  # fmt: skip
    return self._wave(variables, rows, side, batch["mask"])

  def reconstruct(self, variables, batch, rng, *, nfe=1, groups=None):
    """{"wav" f32[B, T, C]} -> {"wav", "ae": alike, "codes" int32[B, F, k], "bits" [B]}.

    Also "code_mask" bool[B, F], the tokens inside the clip, as "mask" bool[B, F] or "wav_mask"
    bool[B, T] of the batch tell. Only the first `groups` groups of codes are used (None: all).
    """
    wav, mask = batch["wav"], batch.get("mask")
    if mask is None and "wav_mask" in batch:
      mask = batch["wav_mask"][:, :: self.codec.hop]
    y, feats, codes = self._autoencode(variables, wav, mask, groups)
    b, f = codes.shape[:2]
    mask = jnp.ones((b, f), bool) if mask is None else mask
    token = jnp.broadcast_to(jnp.arange(f), (b, f))
    seed = jax.random.bits(rng, (b,), jnp.uint32)
    out = self._refine(variables, y, feats, {"mask": mask, "token": token, "seed": seed}, nfe)
    tokens = jnp.sum(mask, axis=1).astype(jnp.float32)
    # As in trainers/flow.py, a number of a continuous latent counts as 32 bits.
    per_token = self.codec.bits_per_token(groups) or 32 * self.codec.latent_dim
    codes = codes[..., :groups]
    return {"wav": out, "ae": y, "codes": codes, "code_mask": mask, "bits": tokens * per_token}
