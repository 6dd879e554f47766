"""Several heads on one trunk: classifiers, estimators of parameters, and embedders (the trunk).

  models = dict(net=dict(model="cnn"), heads=dict(model="heads", outputs=dict(label=10)))
  trainer = dict(name="multihead", key="image")

`outputs` of the heads are numbers of classes; a head's loss (`objectives.ordinal`) decides how many
outputs it takes for them. Each head has a weight and a target: a key of the batch that holds the
class. The total is the weighted sum. A head without settings takes the cross entropy of the target
of its own name. Heads of physical quantities say what the classes stand for:

  heads = dict(cutoff=dict(loss="soft_target", width=2, min=200., max=2000., step=100.,
                           value="cutoff/value"))

A third model "aux" adds what is known beside the picture: `trainer.aux` names keys of the batch
whose numbers, whitened, go through it and join the trunk's features. Whitened, not standardised:
where numbers nearly determine each other, what they do not share may be all that a head needs.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from big_audio import config as C
from big_audio.objectives import ordinal
from big_audio.trainers.loss import Loss

WEIGHTING = ("fixed", "learned")


class Trainer:
  """Strategy of `config.trainer`; models "net" (a trunk), "heads" (models/heads.py), maybe "aux".

  A trunk is called as net(x, train=bool) -> features [B, D]. predict_fns: classify, values, embed.
  """

  def __init__(self, config, models):
    self.net = C.pick("config.models", models, "net")
    self.head_model = C.pick("config.models", models, "heads")
    self.aux_model = models.get("aux")
    C.call("config.trainer", self._configure, **{k: config.trainer[k] for k in config.trainer})

  def _configure(self, *, name, key="image", heads=None, aux=(), weighting="fixed"):
    """Settings.

    Args:
      name: of this trainer.
      key: of the batch, what the trunk sees.
      heads: {head: settings}, see the module's text.
      aux: keys of the batch for the model "aux".
      weighting: "fixed", or "learned": exp(-w) loss + w with one w a head (Kendall et al. 2018);
        the log "unweighted" is then the sum without w.
    """
    classes = self.head_model.outputs
    heads = C.to_dict(heads or {})
    for head in heads:
      C.pick("config.trainer.heads", classes, head)
    C.pick("config.trainer.weighting", dict.fromkeys(WEIGHTING), weighting)
    if bool(aux) != (self.aux_model is not None):
      raise ValueError(
        f"config.trainer.aux={list(aux)} and config.models.aux belong together: keys of the batch, "
        'and the model that takes them, such as dict(model="aux_mlp").'
      )
    self.key, self.aux, self.weighting = key, tuple(aux), weighting
    self.heads = {
      head: C.call(f"config.trainer.heads.{head}", _head, head, count, **heads.get(head, {}))
      for head, count in classes.items()
    }
    width = {h: head["objective"].width(classes[h]) for h, head in self.heads.items()}
    ranks = {h: n for h, n in width.items() if self.heads[h]["objective"].ranks}
    plain = {h: n for h, n in width.items() if h not in ranks}
    self.head_model = self.head_model.clone(outputs=plain, **({"ranks": ranks} if ranks else {}))

  def stats(self, batches) -> dict:
    """Mean and whitening matrix of the auxiliary numbers; {} without any."""
    if not self.aux:
      return {}
    x = np.concatenate([self._aux_vector(b) for b in batches]).astype(np.float64)
    mean = x.mean(0)
    variance, axes = np.linalg.eigh(np.atleast_2d(np.cov((x - mean).T, bias=True)))
    # Directions without any variance beyond rounding of float32 carry nothing.
    known = variance > 1e-12 * max(variance.max(), 1e-12)
    matrix = axes * np.where(known, 1 / np.sqrt(np.where(known, variance, 1)), 0)
    return {"aux": {"mean": mean.astype(np.float32), "matrix": matrix.astype(np.float32)}}

  def init(self, rng, batch, stats):
    """Parameters, the trunk's running statistics if it has any, and `stats`."""
    k1, k2, k3 = jax.random.split(rng, 3)
    features, net = self.net.init_with_output(k1, batch[self.key][:1])
    params, others = {"net": net.pop("params")}, {k: {"net": v} for k, v in net.items()}
    if self.aux:
      others["stats"] = stats
      beside, aux = self.aux_model.init_with_output(k3, self._aux({"stats": stats}, batch)[:1])
      features = jnp.concatenate([features, beside], axis=-1)
      params["aux"] = aux["params"]
    params["heads"] = self.head_model.init(k2, features)["params"]
    if self.weighting == "learned":
      params["weights"] = {head: jnp.zeros(()) for head in self.heads}
    return {"params": params, **others}

  def _aux_vector(self, batch):
    for k in self.aux:
      if k not in batch:
        raise ValueError(f"config.trainer.aux: the batch has no {k!r}. {C.nearest(k, batch)}")
    return jnp.concatenate([batch[k].reshape(batch[k].shape[0], -1) for k in self.aux], axis=-1)

  def _aux(self, variables, batch):
    stats = variables["stats"]["aux"]
    # Full precision: the directions of least variance are differences of large numbers.
    x = self._aux_vector(batch) - stats["mean"]
    return jnp.matmul(x, stats["matrix"], precision="highest")

  def _features(self, variables, batch, rng=None):
    """(features f32[B, D], new values of the trunk's collections); trains where `rng` is given."""
    own = {k: v["net"] for k, v in variables.items() if "net" in v}
    collections = [k for k in own if k != "params"]
    x, updates = batch[self.key], {}
    if rng is None:
      features = self.net.apply(own, x)
    else:
      k1, k2 = jax.random.split(rng)
      features, updates = self.net.apply(
        own, x, train=True, rngs={"dropout": k1}, mutable=collections
      )
    if self.aux:
      train = {} if rng is None else dict(train=True, rngs={"dropout": k2})
      beside = self.aux_model.apply(
        {"params": variables["params"]["aux"]}, self._aux(variables, batch), **train
      )
      features = jnp.concatenate([features, beside], axis=-1)
    return features, {k: {"net": v} for k, v in updates.items()}

  def outputs(self, variables, batch, rng=None):
    """({head: f32[B, width]}, updates of collections)."""
    features, updates = self._features(variables, batch, rng)
    return self.head_model.apply({"params": variables["params"]["heads"]}, features), updates

  def loss(self, variables, batch, rng, *, step, total_steps, train) -> Loss:
    """Weighted sum over heads; logs <head>_loss and what `measures` gives, and their means."""
    outputs, updates = self.outputs(variables, batch, rng if train else None)
    logs, value, unweighted = {}, 0.0, 0.0
    for name, (loss, weight) in self.extra(batch, outputs).items():
      logs[f"{name}_loss"] = loss
      value = value + weight * loss
    for name, head in self.heads.items():
      target = self.target(batch, name)
      loss = head["objective"].loss(outputs[name], target)
      logs[f"{name}_loss"] = loss
      logs |= {f"{name}_{k}": v for k, v in self.measures(name, outputs[name], target).items()}
      unweighted = unweighted + head["weight"] * loss
      if self.weighting == "learned":
        w = variables["params"]["weights"][name]
        loss = jnp.exp(-w) * loss + w
      value = value + head["weight"] * loss
    if self.weighting == "learned":  # comparable along a run, as the loss is not
      logs["unweighted"] = unweighted
    if len(self.heads) > 1:
      for measure in ("accuracy", "within1"):
        found = [logs[k] for h in self.heads if (k := f"{h}_{measure}") in logs]
        if found:
          logs[measure] = sum(found) / len(found)
    return Loss(value, logs=logs, updates=updates)

  def extra(self, batch, outputs) -> dict:
    """{name: (f32[B], weight)}, losses of all heads together; a subclass may have some."""
    return {}

  def measures(self, name: str, outputs, target) -> dict:
    """Of a head's outputs, each f32[B].

    accuracy of the class; of physical quantities also within1 (the class or a neighbour) and mae,
    the distance in physical units of the estimated value from the true one.
    """
    head = self.heads[name]
    objective, scale = head["objective"], head["scale"]
    found = jnp.argmax(objective.scores(outputs), axis=-1)
    out = {"accuracy": (found == target.label).astype(jnp.float32)}
    if scale.physical:
      out["within1"] = (jnp.abs(found - target.label) <= 1).astype(jnp.float32)
      true = scale.value(target.position)
      out["mae"] = jnp.abs(scale.value(objective.position(outputs)) - true)
    return out

  def target(self, batch, head: str) -> ordinal.Target:
    """What a head should say, from keys of the batch that hold [B] or [B, 1]."""
    settings = self.heads[head]
    label = self._column(batch, head, settings["target"])
    if not jnp.issubdtype(label.dtype, jnp.integer):
      raise ValueError(
        f"config.trainer.heads.{head}: expected classes (integers) in {settings['target']!r}, got "
        f"{label.dtype}."
      )
    if settings["value"] is None:
      return ordinal.Target(label, label.astype(jnp.float32))
    value = self._column(batch, head, settings["value"])
    return ordinal.Target(label, settings["scale"].position(value.astype(jnp.float32)))

  def _column(self, batch, head, key):
    if key not in batch:
      raise ValueError(
        f"config.trainer.heads.{head}: the batch has no {key!r}. {C.nearest(key, batch)}"
      )
    x = batch[key]
    if x.ndim > 2 or (x.ndim == 2 and x.shape[1] != 1):
      raise ValueError(f"config.trainer.heads.{head}: expected {key} [B], got shape {x.shape}.")
    return x.reshape(-1)

  def predict_fns(self) -> dict[str, Callable]:
    """classify, values and embed; see there."""
    return {"classify": self.classify, "values": self.values, "embed": self.embed}

  def classify(self, variables, batch, rng):
    """{key} -> {head: scores f32[B, K]}, with {"target/<head>": i32[B]} where the batch has them.

    The largest score is of the predicted class, whatever the head's loss.
    """
    outputs, _ = self.outputs(variables, batch)
    out = {h: head["objective"].scores(outputs[h]) for h, head in self.heads.items()}
    known = [h for h in self.heads if self.heads[h]["target"] in batch]
    return out | {f"target/{h}": self.target(batch, h).label for h in known}

  def values(self, variables, batch, rng):
    """{key} -> {head: f32[B]}, the estimates in physical units, of the heads that have any."""
    return self.estimates(self.outputs(variables, batch)[0])

  def estimates(self, outputs) -> dict:
    """{head: f32[B]} in physical units, of the heads that have any."""
    return {
      h: head["scale"].value(head["objective"].position(outputs[h]))
      for h, head in self.heads.items()
      if head["scale"].physical
    }

  def embed(self, variables, batch, rng):
    """{key} -> {"features": f32[B, D]}."""
    return {"features": self._features(variables, batch)[0]}


def _head(
  head, classes, *, target=None, value=None, loss="cross_entropy", weight=1.0, min=None, max=None,
  step=None, **settings,
):  # fmt: skip
  where = f"config.trainer.heads.{head}"
  try:
    scale = ordinal.Scale(classes, min, max, step)
    make = C.pick(f"{where}.loss", ordinal.OBJECTIVES, loss)
    # Bound, so that messages name only what a config can set.
    objective = C.call(f"{where} (loss={loss!r})", functools.partial(make, scale), **settings)
  except ValueError as e:
    raise ValueError(f"{e}" if str(e).startswith(where) else f"{where}: {e}") from None
  if value is not None and not scale.physical:
    raise ValueError(f"{where}: value={value!r} needs min, max and step.")
  return dict(objective=objective, scale=scale, weight=weight, target=target or head, value=value)
