"""Embeddings by metric learning: a trunk, a projector, and a loss over the whole batch.

  models = dict(net=dict(model="ast", variant="base"), head=dict(model="projector"))
  trainer = dict(name="embed", key="fbank", loss=dict(name="triplet", miner="semihard", margin=.3))

Batches hold classes in "label" (-1: of no class) and recordings in "track"; those of one class from
different tracks should be near each other. Draw them with `config.input.sampler`, so that every
item finds a positive. Losses and miners are those of `objectives.metric`. They see the global
batch, whatever the number of devices, so micro-batches are refused; `memory` is the way to more
negatives.

`mixup` blends items with others of their class. `lora` trains adapters on kernels that the
optimizer's schedule has frozen:

  trainer.lora = dict(pattern=r"net/block_\\d+/attend/(query|value)/kernel", rank=8, alpha=16.)
  optimizer.schedule = [("net/.*", None), (".*", dict(kind="cosine"))]
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from big_audio import config as C
from big_audio.nn import lora
from big_audio.nn.image import BATCH_NORM_EPS
from big_audio.objectives import memory, metric, mining
from big_audio.trainers.loss import Loss


class Trainer:
  """Strategy of `config.trainer`; models "net" (a trunk) and "head" (models/projector.py).

  A trunk is called as net(x, train=bool) -> features [B, D], the head likewise, to unit length.
  """

  def __init__(self, config, models):
    self.net = C.pick("config.models", models, "net")
    self.head = C.pick("config.models", models, "head")
    C.call("config.trainer", self._configure, **{k: config.trainer[k] for k in config.trainer})

  def _configure(self, *, name, loss, key="fbank", classes=None, mixup=None, lora=None):
    """Settings.

    Args:
      name: of this trainer.
      loss: dict(name=, and settings of `objectives.metric.build`).
      key: of the batch, what the trunk sees.
      classes: their number; needed by losses with proxies.
      mixup: dict(alpha, share): a share of the items becomes l x + (1 - l) x', x' of the same
        class, l ~ Beta(alpha, alpha) (Zhang et al. 1710.09412, within classes).
      lora: dict(pattern, rank, alpha) of `nn.lora`; names begin with net/ or head/.
    """
    settings = C.to_dict(loss)
    if "name" not in settings:
      raise ValueError(f"config.trainer.loss: no name. {C.nearest('', metric.LOSSES)}")
    self.objective = metric.build(**settings)
    if self.objective.needs_proxies and not classes:
      raise ValueError(
        f"config.trainer.loss: {settings['name']} learns a vector for each class; set "
        "config.trainer.classes to their number."
      )
    self.key, self.classes = key, classes
    self.mixup = C.call("config.trainer.mixup", _mixup, **mixup) if mixup else None
    self.lora = C.call("config.trainer.lora", _lora, **lora) if lora else None

  def init(self, rng, batch, stats):
    """Parameters of both models, and proxies, adapters and an empty memory where they are used."""
    k1, k2, k3, k4 = jax.random.split(rng, 4)
    features, net = self.net.init_with_output(k1, batch[self.key][:1])
    x, head = self.head.init_with_output(k2, features)
    params = {"net": net.pop("params"), "head": head.pop("params")}
    others: dict = {}
    for name, collections in (("net", net), ("head", head)):
      for k, v in collections.items():
        others.setdefault(k, {})[name] = v
    dims = x.shape[-1]
    if self.objective.needs_proxies:
      params["proxies"] = jax.random.normal(k3, (self.classes, dims))
    if self.lora:
      params["lora"] = lora.init(k4, params, self.lora["pattern"], self.lora["rank"])
    if self.objective.memory:
      others["memory"] = memory.init(self.objective.memory, dims)._asdict()
    return {"params": params, **others}

  def _forward(self, variables, x, rng=None):
    """(features f32[B, D], embedding f32[B, E], updates); trains where `rng` is given."""
    params = variables["params"]
    if self.lora:
      params = lora.merge(params, params["lora"], self.lora["alpha"])
    rngs, updates = (None, None) if rng is None else jax.random.split(rng), {}

    def call(name, model, x, key):
      others = {k: v[name] for k, v in variables.items() if k != "params" and name in v}
      own = {"params": params[name], **others}
      if key is None:
        return model.apply(own, x)
      x, new = model.apply(own, x, train=True, rngs={"dropout": key}, mutable=list(others))
      for k, v in new.items():
        updates.setdefault(k, {})[name] = v
      return x

    features = call("net", self.net, x, rngs[0])
    return features, call("head", self.head, features, rngs[1]), updates

  def loss(self, variables, batch, rng, *, step, total_steps, train) -> Loss:
    """The objective over the batch, with its logs; in evaluation without dropout and mixup."""
    for k in (self.key, "label", "track"):
      if k not in batch:
        raise ValueError(f"trainers.embed: the batch has no {k!r}. {C.nearest(k, batch)}")
    x, label = batch[self.key], batch["label"]
    k1, k2, k3 = jax.random.split(rng, 3)
    if train and self.mixup:
      x = self.mixup(k1, x, label)
    _, embedding, updates = self._forward(variables, x, k2 if train else None)
    valid = batch["_mask"] > 0 if "_mask" in batch else jnp.ones(len(label), bool)
    items = mining.Items(embedding, label, batch["track"], valid)
    refs = None
    if self.objective.memory:
      stored = memory.Memory(**variables["memory"])
      refs = memory.refs(stored)
      if train:
        updates = {**updates, "memory": memory.update(stored, items)._asdict()}
    value, logs = self.objective.loss(
      items, refs=refs, proxies=variables["params"].get("proxies"), rng=k3,
      progress=step / total_steps,
    )  # fmt: skip
    if not train:  # as a mean, which is what is shown of an evaluation
      return Loss(jnp.full(len(label), value), logs=logs)
    return Loss(jnp.zeros(len(label)), scalars={"metric": value}, logs=logs, updates=updates)

  def weights(self, variables) -> dict:
    """{"net", "head"}: parameters that give the embeddings of `embed` without anything else.

    Adapters are merged into their kernels, and a batch norm of the head, which is linear once it is
    trained, into the layer behind it.

    Raises:
      ValueError: a trunk with running statistics.
    """
    params = variables["params"]
    if self.lora:
      params = lora.merge(params, params["lora"], self.lora["alpha"])
    running = variables.get("batch_stats", {})
    if "net" in running:
      raise ValueError(
        "trainers.embed: the trunk has running statistics, which have no place here."
      )
    head = dict(params["head"])
    if "norm" in head:
      norm, seen = head.pop("norm"), running["head"]["norm"]
      scale = norm["scale"] / jnp.sqrt(seen["var"] + BATCH_NORM_EPS)
      shift = norm["bias"] - seen["mean"] * scale
      kernel, bias = head["dense0"]["kernel"], head["dense0"]["bias"]
      change = jnp.matmul(shift, kernel, precision="highest")
      head["dense0"] = {"kernel": kernel * scale[:, None], "bias": bias + change}
    return jax.tree.map(np.asarray, {"net": params["net"], "head": head})

  def predict_fns(self) -> dict[str, Callable]:
    """embed; see there."""
    return {"embed": self.embed}

  def embed(self, variables, batch, rng):
    """{key} -> {"embedding": f32[B, E] of unit length, "features": f32[B, D] of the trunk}."""
    features, embedding, _ = self._forward(variables, batch[self.key])
    return {"embedding": embedding, "features": features}


def _lora(*, pattern, rank, alpha):
  return dict(pattern=pattern, rank=rank, alpha=alpha)


def _mixup(*, alpha, share):
  if not (alpha > 0 and 0 < share <= 1):
    raise ValueError(
      f"config.trainer.mixup: expected alpha > 0 and 0 < share <= 1, got {alpha} and {share}."
    )

  def mix(rng, x, label):
    k1, k2, k3 = jax.random.split(rng, 3)
    b = len(label)
    # One of the others of the class, uniformly; who has none meets itself.
    can = (label[:, None] == label) & ~jnp.eye(b, dtype=bool) & (label >= 0)[:, None]
    score = jnp.where(can, jax.random.uniform(k1, (b, b)), jnp.where(jnp.eye(b, dtype=bool), 0, -1))
    other = jnp.argmax(score, axis=1)
    weight = jax.random.beta(k2, alpha, alpha, (b,))
    weight = jnp.where(jax.random.uniform(k3, (b,)) < share, weight, 1.0)
    weight = weight.reshape(-1, *[1] * (x.ndim - 1))
    return weight * x + (1 - weight) * x[other]

  return mix
