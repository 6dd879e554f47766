"""One training step of FM, MF, iMF and alpha-Flow side by side: what the jvp of MeanFlow costs.

Ratios are to FM. `gflop` is XLA's count for the compiled step, jvp, gradient and optimizer
included; `mfu` its share of what the device can do at most (`timing.PEAK_FLOPS`), where that is
known. `mib` is the largest amount of device memory since the program began.
"""

import jax
import numpy as np

from big_audio import config as C
from big_audio import train_step, trees
from big_audio.tools import timing

# The first two are as wide and deep as the original codec's MLP for MNIST (18.8 M parameters there,
# which its batch of 128 goes with).
ORIGINAL = dict(dim=784, latent=256, cond_dim=128, depth=8)
SMALL = dict(dim=784, latent=32, cond_dim=128, depth=4, hidden=256)
SHAPES = (
  ("784-d, latent 256, cond 128, 8 blocks", 128, ORIGINAL),
  ("784-d, latent 256, cond 128, 8 blocks", 1024, ORIGINAL),
  ("784-d, latent 32, 4 blocks of 256", 1024, SMALL),
)
METHODS = ("fm", "mf", "imf", "alpha")
# CPU time of a step of the original codec, jitted, on its shape and batch, over that of its FM.
# Measured on another machine: it compares with `cpu_ratio`, and milliseconds would with nothing.
ORIGINAL_CPU_RATIO = {"fm": 1.0, "mf": 1.15, "imf": 1.40}


def run(rounds: int) -> list[timing.Row]:
  """Rows for each shape of the net; ratios are to FM."""
  rows = []
  for name, batch, shape in SHAPES:
    millions = _millions(shape, batch)
    group = f"train step of {batch} rows, mlp_flow {name} ({millions:.1f} M parameters)"
    steps = {m: _step(m, shape, batch) for m in METHODS}
    found = timing.interleaved({m: fn for m, (fn, _) in steps.items()}, rounds, group=group)
    for row in found:
      row |= timing.throughput(row["wall_ms"], steps[row["name"]][1])
      if shape is ORIGINAL and batch == 128 and row["name"] in ORIGINAL_CPU_RATIO:
        row["original_cpu_ratio_elsewhere"] = ORIGINAL_CPU_RATIO[row["name"]]
    rows += found
  return rows


def _config(method, shape):
  return C.canonical(
    dict(
      models=dict(net=dict(model="mlp_flow", **shape)),
      trainer=dict(name="flow", method=method, key="image"),
      optimizer=dict(name="adam", lr=1e-3, clip=1.0, ema=dict(decay=0.999)),
    )
  )


def _parts(method, shape, rows):
  config = _config(method, shape)
  trainer = C.resolve("trainers", "flow").Trainer(config, C.build_models(config))
  image = np.random.default_rng(0).standard_normal((rows, shape["dim"], 1, 1))
  batch = {"image": image.astype(np.float32)}
  stats = trainer.stats([batch])
  opt, make_state = train_step.build_state(
    config, trainer, batch, stats, total=1000, units=dict(batch_size=rows, data_size=rows)
  )
  return trainer, batch, stats, opt, make_state


def _millions(shape, rows):
  _, batch, stats, _, make_state = _parts("fm", shape, rows)
  state = jax.eval_shape(make_state, jax.random.key(0), batch, stats)
  return trees.count(state["params"]) / 1e6


def _step(method, shape, rows):
  """(a function that advances its own state by one step, FLOP of a step or None)."""
  trainer, batch, stats, opt, make_state = _parts(method, shape, rows)
  update = train_step.make_update(trainer, opt, accum=1, total=1000, max_skipped=0)
  box = [jax.jit(make_state)(jax.random.key(0), batch, stats)]
  if method == "alpha":  # where alpha is .5, in the middle of its schedule
    box[0]["step"] = box[0]["step"] + 500
  batch, key = jax.device_put(batch), jax.random.key(1)
  update = jax.jit(update, donate_argnums=0).lower(box[0], batch, key).compile()

  def step():
    box[0], metrics = update(box[0], batch, key)
    return box[0]["step"], metrics

  return step, timing.flop(update)
