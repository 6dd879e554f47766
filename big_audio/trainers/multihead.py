"""Classifiers with several heads on one trunk, and embedders: the trunk alone.

  models = dict(net=dict(model="cnn"), heads=dict(model="heads", outputs=dict(label=10)))
  trainer = dict(name="multihead", key="image")

Each head has a loss of `LOSSES`, a weight, and a target: a key of the batch. The total is the
weighted sum. A head without settings takes the cross entropy of the target of its own name.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from big_audio import config as C
from big_audio.trainers.loss import Loss


def cross_entropy(logits, target, *, smoothing: float = 0.0):
  """-log softmax(logits)[target]: f32[B, N], int[B] -> f32[B].

  Args:
    logits: of N classes.
    target: class in [0, N).
    smoothing: share of the target's probability that all classes get in equal parts.
  """
  log = jax.nn.log_softmax(logits.astype(jnp.float32))
  hit = jnp.take_along_axis(log, target[:, None], axis=1)[:, 0]
  return -(1 - smoothing) * hit - smoothing * jnp.mean(log, axis=1)


# name -> fn(outputs f32[B, N], target [B], **settings) -> f32[B]
LOSSES: dict[str, Callable] = {"cross_entropy": cross_entropy}


class Trainer:
  """Strategy of `config.trainer`; models "net" (a trunk) and "heads" (models/heads.py).

  A trunk is called as net(x, train=bool) -> features [B, D]. predict_fns: classify, embed.
  """

  def __init__(self, config, models):
    self.net = C.pick("config.models", models, "net")
    self.head_model = C.pick("config.models", models, "heads")
    C.call("config.trainer", self._configure, **{k: config.trainer[k] for k in config.trainer})

  def _configure(self, *, name, key="image", heads=None):
    outputs = self.head_model.outputs
    heads = C.to_dict(heads or {})
    for head in heads:
      C.pick("config.trainer.heads", outputs, head)
    self.key = key
    self.heads = {}
    for head in outputs:
      where = f"config.trainer.heads.{head}"
      self.heads[head] = C.call(where, _head, where, **{"target": head, **heads.get(head, {})})

  def init(self, rng, batch, stats):
    """Parameters of the trunk and the heads; `stats` is not used."""
    k1, k2 = jax.random.split(rng)
    features, net = self.net.init_with_output(k1, batch[self.key][:1])
    heads = self.head_model.init(k2, features)
    return {"params": {"net": net["params"], "heads": heads["params"]}}

  def _features(self, variables, x, rng=None):
    params = {"params": variables["params"]["net"]}
    if rng is None:
      return self.net.apply(params, x)
    return self.net.apply(params, x, train=True, rngs={"dropout": rng})

  def _outputs(self, variables, features):
    return self.head_model.apply({"params": variables["params"]["heads"]}, features)

  def loss(self, variables, batch, rng, *, step, total_steps, train) -> Loss:
    """Weighted sum over heads; logs <head>_loss and, for classes, <head>_accuracy."""
    features = self._features(variables, batch[self.key], rng if train else None)
    outputs, logs = self._outputs(variables, features), {}
    value = jnp.zeros(features.shape[0])
    for name, head in self.heads.items():
      target = self.target(batch, name)
      loss = head["loss"](outputs[name], target)
      logs[f"{name}_loss"] = loss
      if jnp.issubdtype(target.dtype, jnp.integer):
        hit = jnp.argmax(outputs[name], axis=-1) == target
        logs[f"{name}_accuracy"] = hit.astype(jnp.float32)
      value = value + head["weight"] * loss
    return Loss(value, logs=logs)

  def target(self, batch, head: str):
    """The target [B] of a head in a batch: [B] or [B, 1]."""
    key = self.heads[head]["target"]
    if key not in batch:
      raise ValueError(
        f"config.trainer.heads.{head}: the batch has no {key!r}. {C.nearest(key, batch)}"
      )
    x = batch[key]
    if x.ndim > 2 or (x.ndim == 2 and x.shape[1] != 1):
      raise ValueError(f"config.trainer.heads.{head}: expected {key} [B], got shape {x.shape}.")
    return x.reshape(-1)

  def predict_fns(self) -> dict[str, Callable]:
    """classify: {head: outputs f32[B, N], "target/<head>" [B] where the batch holds it}; embed."""
    return {"classify": self.classify, "embed": self.embed}

  def classify(self, variables, batch, rng):
    """{key} -> {head: f32[B, N]}, with {"target/<head>": [B]} where the batch has the targets."""
    out = dict(self._outputs(variables, self._features(variables, batch[self.key])))
    known = [h for h in self.heads if self.heads[h]["target"] in batch]
    return out | {f"target/{h}": self.target(batch, h) for h in known}

  def embed(self, variables, batch, rng):
    """{key} -> {"features": f32[B, D]}."""
    return {"features": self._features(variables, batch[self.key])}


def _head(where, *, target, loss="cross_entropy", weight=1.0, **settings):
  fn = C.pick(f"{where}.loss", LOSSES, loss)
  return {
    "target": target,
    "weight": weight,
    "loss": lambda o, t: C.call(where, fn, o, t, **settings),
  }
