"""Trained models from workdirs: what evaluators, command lines, apps and exports stand on.

runner = open_workdir("runs/codec")                 # or "runs/codec:12000"
out = runner.predict("reconstruct", batch, nfe=1)
"""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from big_audio import checkpoint, convert, trees
from big_audio import config as C
from big_audio.trainers import loss as losses

# In evaluation a loss is that of the end of a run; of how long a one does not matter.
END = 1_000_000


def variables(state: Mapping[str, Any], *, ema: bool = True) -> dict:
  """What `predict_fns` take: {"params": whole tree, + mutable collections}.

  Args:
    state: the loop's state.
    ema: use the averaged parameters where there are any.
  """
  params = state["params"]
  if ema and state.get("ema"):
    params = trees.unflatten({**trees.flatten(params), **trees.flatten(state["ema"])})
  return {"params": trees.merge(params, state.get("frozen") or {}), **state["vars"]}


def numeric(batch: Mapping[str, Any]) -> dict:
  """The leaves of a batch that a device can hold (names and other texts stay behind)."""
  # A device array is never fetched for this: it may lie on several hosts.
  kind = lambda v: v.dtype.kind if hasattr(v, "dtype") else np.asarray(v).dtype.kind
  return {k: v for k, v in batch.items() if kind(v) not in "OSU"}


class Predict:
  """A predict function, jitted once for each set of static keyword arguments.

  Args:
    name: named in errors.
    fn: (variables, batch, rng, **kw) -> dict.
    ema: see `variables`.
    on_call: called after every use; the loop counts batches for the progress line with it.
  """

  def __init__(self, name: str, fn: Callable, *, ema: bool = True, on_call: Callable | None = None):
    self.name, self._fn, self._ema, self._on_call = name, fn, ema, on_call
    self._jitted: dict[tuple, Callable] = {}

  def __call__(self, state, batch, rng, **kw):
    """The dict that the function gives; `kw` must be hashable."""
    key = tuple(sorted(kw.items()))
    if key not in self._jitted:
      self._jitted[key] = jax.jit(
        lambda s, b, r: C.call(
          f"predict[{self.name!r}]", self._fn, variables(s, ema=self._ema), b, r, **kw
        )
      )
    out = self._jitted[key](state, numeric(batch), rng)
    if self._on_call:
      self._on_call()
    return out


def bind(trainer, *, ema: bool = True, on_call: Callable | None = None) -> dict[str, Predict]:
  """{name: Predict} of a trainer, with "loss": {log name: (weighted sum, weight)} added."""

  def loss(variables_, batch, rng):
    out = trainer.loss(variables_, batch, rng, step=END, total_steps=END, train=False)
    w = losses.weights(out, batch.get("_mask"))
    total = jnp.sum(w * jnp.where(w > 0, out.value, 0.0))
    return {"loss": (total, jnp.sum(w)), **losses.log_means(out, batch.get("_mask"))}

  fns = {**trainer.predict_fns(), "loss": loss}
  return {name: Predict(name, fn, ema=ema, on_call=on_call) for name, fn in fns.items()}


class Runner:
  """A trained model of a workdir.

  Attributes:
    config: the run's config (locked).
    trainer: its strategy, with its models.
    step: of the checkpoint.
    variables: {"params", + collections}, host arrays.
    workdir: where it came from.
  """

  def __init__(self, workdir: str, config, trainer, step: int, state: Mapping[str, Any], ema: bool):
    self.workdir, self.config, self.trainer, self.step = workdir, config, trainer, step
    self._state = jax.tree.map(jnp.asarray, {**state, "frozen": {}})
    self.variables = variables(state if ema else {**state, "ema": None})
    self._predict = bind(trainer, ema=ema)

  def predict(self, name: str, batch: Mapping[str, Any], rng=None, **kw) -> dict:
    """The trainer's predict function `name` on a batch of arrays.

    Args:
      name: one of the trainer's functions.
      batch: {key: array [B, ...]}.
      rng: key; None is key(0).
      **kw: static arguments of the function.

    Raises:
      ValueError: unknown function or argument.
    """
    fn = C.pick("predict", self._predict, name)
    return fn(self._state, batch, jax.random.key(0) if rng is None else rng, **kw)


def open_workdir(spec: str, *, ema: bool = True, config=None) -> Runner:
  """The model that a run trained.

  Args:
    spec: "workdir" (latest checkpoint), "workdir:step" or "workdir:best" (by config.ckpt.best).
    ema: use the averaged parameters where there are any.
    config: in place of the stored one, e.g. with another compute type.

  Raises:
    ValueError: no such workdir, config or checkpoint.
  """
  workdir, step = C.parse_spec(spec)
  path = os.path.join(workdir, "config.json")
  if not os.path.isfile(path):
    raise ValueError(f"{workdir!r} is not the workdir of a run: it has no config.json.")
  config = C.load(path) if config is None else config
  trainer = C.resolve("trainers", config.trainer.name).Trainer(config, C.build_models(config))
  step, state = checkpoint.load_arrays(workdir, step)
  return Runner(workdir, config, trainer, step, state, ema)


class Function:
  """One predict function of another run: what evaluators get for each entry of `aux`.

  Attributes:
    spec: "workdir[:step]:function".
    config: of that run.
  """

  def __init__(self, where: str, spec: str, *, ema: bool = True):
    head, _, self._name = spec.rpartition(":")
    if not head or self._name.isdigit() or self._name == "best":
      raise ValueError(f'{where}={spec!r}: expected "workdir:function" or "workdir:step:function".')
    self._runner = open_workdir(head, ema=ema)
    names = self._runner.trainer.predict_fns()
    if self._name not in names:
      raise ValueError(f"{where}={spec!r}: no function. {C.nearest(self._name, names)}")
    self.spec, self.config = spec, self._runner.config

  def __call__(self, batch: Mapping[str, Any], rng=None, **kw) -> dict:
    """See `Runner.predict`; `batch` holds host arrays, so it runs on one device."""
    return self._runner.predict(self._name, batch, rng, **kw)


def open_aux(where: str, specs: Mapping[str, str]) -> dict[str, Function]:
  """{name: function} of {name: "workdir[:step]:function"}; raises as `Function` does."""
  if not isinstance(specs, Mapping):
    raise ValueError(f'{where}: expected {{name: "workdir:function"}}, got {specs!r}.')
  return {name: Function(f"{where}.{name}", spec) for name, spec in specs.items()}


def initialise(state: Mapping, init_from, models: Mapping | None = None, *,
               where="config.init_from") -> dict:  # fmt: skip
  """`state` with models, and what they need beside their parameters, taken from elsewhere.

  Args:
    state: {"params": {model name: ...}, + mutable collections}.
    init_from: list of items. From another run: dict(spec, into, [source, rename, missing, unused,
      ema, collections]): `into` and `source` are names of models here and there (source defaults
      to into); see `trees.strict_update`. `collections` is a regex of leaves outside of the
      parameters to take too, such as "stats/features/.*|codebook/.*" ("" for none). It must be
      given where the other run holds any that are here as well: a codec without its own statistics
      is another one.
      From a file of weights or the folder of a public checkpoint: dict(spec, family, into, [source,
      rename, missing, unused, config, positions]), see `convert.load`; `positions` ("cut" or
      "interpolate") allows those of another grid.
    models: {name: module} of `state`, for `positions`.

  Raises:
    ValueError: unknown keys or models, or a difference that no regex excuses.
  """
  for i, item in enumerate(init_from):
    item, at = C.to_dict(item), f"{where}[{i}]"
    if "family" in item:
      state = C.call(at, _init_from_file, state, models or {}, at, **item)
    else:
      state = C.call(at, _init_one, state, at, **item)
  return state


def _init_from_file(
  state, models, where, *, spec, family, into, source=None, rename=(), missing="", unused="",
  config=None, positions=None,
):  # fmt: skip
  params, source = state["params"], source or into
  target = C.pick(where, params, into)
  found = convert.load(spec, family, config=config)
  given = C.pick(f"{where} ({spec})", found.params, source)
  if source == "net":
    given = convert.fit(where, given, family, found.config, models.get(into), positions)
  elif positions:
    raise ValueError(f'{where}: positions={positions!r} is of source="net", not of {source!r}.')
  filled = trees.strict_update(
    target, given, where=where, rename=rename, missing=missing, unused=unused
  )
  return {**state, "params": {**params, into: filled}}


def _init_one(
  state, where, *, spec, into, source=None, rename=(), missing="", unused="", ema=True,
  collections=None,
):  # fmt: skip
  if spec.endswith(".safetensors"):
    raise ValueError(f'{where}: "{spec}" is a file of weights: say of which family, as "ast".')
  workdir, step = C.parse_spec(spec)
  _, found = checkpoint.load_arrays(workdir, step)
  theirs = variables(found, ema=ema)
  source = source or into
  params = state["params"]
  target = C.pick(where, params, into)
  given = C.pick(f"{where} ({spec})", theirs["params"], source)
  filled = trees.strict_update(
    target, given, where=where, rename=rename, missing=missing, unused=unused
  )
  rest = lambda tree: trees.flatten({k: v for k, v in tree.items() if k != "params"})
  here, there = rest(state), rest(theirs)
  if collections is None:
    if both := sorted(here.keys() & there.keys()):
      raise ValueError(
        f'{where}: beside its parameters, "{spec}" holds {", ".join(both)}. Say what to take, such '
        f'as collections="{both[0].rpartition("/")[0]}/.*", or collections="" to leave them.'
      )
    collections = ""
  wanted = [k for k in here if collections and re.fullmatch(collections, k)]
  if collections and not wanted:
    raise ValueError(f"{where}.collections={collections!r} fits none of {', '.join(sorted(here))}.")
  pick = lambda tree: trees.unflatten({k: tree[k] for k in wanted if k in tree})
  taken = trees.strict_update(pick(here), pick(there), where=f"{where}.collections")
  others = trees.unflatten({**here, **trees.flatten(taken)})
  return {"params": {**params, into: filled}, **others}
