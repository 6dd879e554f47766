"""One training step and the state it advances: gradients, accumulation, optimizer, EMA, skips.

state = {"params", "frozen", "vars", "opt", "ema", "step", "ctl"}. `params` are the trainable leaves
and `frozen` the others: the tree is split before differentiation, so frozen weights cost neither
gradient nor optimizer state nor average. `ctl` is what the loop steers by, see `CTL`.
"""

import math

import jax
import jax.numpy as jnp

from big_audio import optim, sharding, trees
from big_audio.trainers import loss as losses

# lr_scale: the plateau's factor on all learning rates; best, bad_evals: of the plateau's metric;
# skipped: updates left out since their gradient was not finite.
CTL = dict(lr_scale=1.0, best=math.inf, bad_evals=0, skipped=0)


def phase(trainer, step: int, total: int):
  """The phase of a run in which a step lies; None for trainers that have one only.

  A trainer with phases offers `phase(step, total_steps) -> str` and takes `phase` in its loss. Each
  is a program of its own: `lax.cond` on the step would fill the residuals of all branches.
  """
  return trainer.phase(step, total) if hasattr(trainer, "phase") else None


def make_update(
  trainer, opt: optim.Optimizer, *, accum: int, total: int, max_skipped: int, phase=None,
  active=None,
):  # fmt: skip
  """The step to jit: (state, batch, key) -> (state, metrics), for steps of one phase.

  `active` are the groups of the optimizer that move, see `optim.Optimizer`.
  """
  static = {} if phase is None else {"phase": phase}

  def objective(params, frozen, vars_, rows, key, step):
    variables = {"params": trees.merge(params, frozen), **vars_}
    loss = trainer.loss(variables, rows, key, step=step, total_steps=total, train=True, **static)
    if accum > 1 and loss.scalars:
      raise ValueError(
        f"config.accum_steps={accum}: the loss terms {sorted(loss.scalars)} couple the whole batch "
        f"and cannot be computed on micro-batches. Use accum_steps=1."
      )
    w = jax.lax.stop_gradient(losses.weights(loss, rows.get("_mask")))
    total_loss = jnp.sum(w * jnp.where(w > 0, loss.value, 0.0))
    sums = {"loss": (total_loss, jnp.sum(w)), **losses.log_means(loss, rows.get("_mask"))}
    if accum == 1:  # micro-batches are divided by the weight of the whole batch, afterwards
      total_loss = total_loss / jnp.maximum(jnp.sum(w), 1e-12)
    return total_loss + sum(loss.scalars.values(), 0.0), (
      sums,
      {**vars_, **loss.updates},
      loss.scalars,
    )

  def gradients(state, batch, rng):
    grad = jax.grad(objective, has_aux=True)
    frozen, step = state["frozen"], state["step"]
    if accum == 1:
      g, (sums, vars_, scalars) = grad(state["params"], frozen, state["vars"], batch, rng, step)
      return g, sums, vars_, sum(scalars.values(), 0.0)
    shards = sharding.data_shards()

    def micro(x):  # every micro-batch takes its share of every device's rows
      x = x.reshape(shards, accum, -1, *x.shape[1:]).swapaxes(0, 1)
      return x.reshape(accum, -1, *x.shape[3:])

    def body(carry, xs):
      rows, i = xs
      g, (sums, vars_, _) = grad(
        state["params"], frozen, carry[1], rows, jax.random.fold_in(rng, i), step
      )
      return (jax.tree.map(jnp.add, carry[0], g), vars_), sums

    zeros = jax.tree.map(jnp.zeros_like, state["params"])
    xs = (jax.tree.map(micro, batch), jnp.arange(accum))
    (g, vars_), sums = jax.lax.scan(body, (zeros, state["vars"]), xs)
    sums = jax.tree.map(jnp.sum, sums)
    return jax.tree.map(lambda x: x / jnp.maximum(sums["loss"][1], 1e-12), g), sums, vars_, 0.0

  def update(state, batch, base_key):
    step, ctl = state["step"], state["ctl"]
    grads, sums, vars_, coupled = gradients(state, batch, jax.random.fold_in(base_key, step))
    params, opt_state, norms = opt.update(
      grads, state["opt"], state["params"], step, ctl["lr_scale"], active
    )
    new = {"params": params, "vars": vars_, "opt": opt_state}
    keep = lambda new, old: new
    if max_skipped:  # a step with a gradient that is not finite changes nothing, and is counted
      ok = jnp.isfinite(norms["grad_norm"])
      keep = lambda new, old: jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, old)
      new = keep(new, {k: state[k] for k in new})
      ctl = {**ctl, "skipped": ctl["skipped"] + jnp.where(ok, 0, 1)}
    new["ema"] = state["ema"]
    if opt.ema:  # behind the skip: a group that ends here takes its average in any case
      ema, new["params"] = opt.ema(state["ema"], new["params"], step, active)
      new["ema"] = keep(ema, state["ema"])
    # A log without any weight has no value at this step.
    out = {
      k: jnp.where(w > 0, value / jnp.maximum(w, 1e-12), jnp.nan) for k, (value, w) in sums.items()
    }
    if max_skipped:
      out["skipped"] = ctl["skipped"]
    out["loss"] = out["loss"] + coupled
    lrs = {k: v * ctl["lr_scale"] for k, v in opt.lrs(step).items()}
    out |= norms
    out |= {"lr": next(iter(lrs.values()))} if len(lrs) == 1 else {f"lr/{k}": lrs[k] for k in lrs}
    return {**new, "frozen": state["frozen"], "step": step + 1, "ctl": ctl}, out

  return update


def averaged(params, opt: optim.Optimizer):
  """The part of the trainable parameters that the EMA follows."""
  return trees.split(params, lambda n: not opt.ema_skip(n))[0]


def build_state(config, trainer, batch, stats, *, total: int, units: dict):
  """(optimizer, make_state(key, batch, stats)): everything about shapes, nothing allocated yet."""
  shapes = jax.eval_shape(trainer.init, jax.random.key(0), batch, stats)
  opt = optim.build(
    config.optimizer, list(trees.flatten(shapes["params"])), total_steps=total, **units
  )

  def make_state(key, batch, stats):
    variables = dict(trainer.init(key, batch, stats))
    params, frozen = trees.split(variables.pop("params"), lambda n: opt.groups[n] != "")
    ema = jax.tree.map(jnp.copy, averaged(params, opt)) if opt.ema else {}
    ctl = {
      k: jnp.asarray(v, jnp.int32 if isinstance(v, int) else jnp.float32) for k, v in CTL.items()
    }
    return {"params": params, "frozen": frozen, "vars": variables, "opt": opt.init(params),
            "ema": ema, "step": jnp.zeros((), jnp.int32), "ctl": ctl}  # fmt: skip

  return opt, make_state


def next_ctl(ctl: dict, value: float, cfg) -> dict:
  """`ctl` after one more value of the plateau's metric (host numbers)."""
  sign = 1.0 if cfg.mode == "min" else -1.0
  if sign * value < sign * ctl["best"] or ctl["best"] == math.inf:
    return {**ctl, "best": value, "bad_evals": 0}
  bad = ctl["bad_evals"] + 1
  scale = ctl["lr_scale"]
  if cfg.patience and bad % cfg.patience == 0:
    scale = max(scale * cfg.factor, cfg.min_scale)
  return {**ctl, "lr_scale": scale, "bad_evals": bad}


def steer(ctl: dict, value: float, cfg) -> dict:
  """`ctl`, on its devices, after one more value of the plateau's metric."""
  host = next_ctl({k: v.item() for k, v in jax.device_get(ctl).items()}, value, cfg)
  return {k: jax.device_put(jnp.asarray(v, ctl[k].dtype), ctl[k].sharding) for k, v in host.items()}
