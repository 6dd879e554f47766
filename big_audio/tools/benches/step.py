"""One training step of FM, MF and iMF side by side: what the jvp of MeanFlow costs."""

import jax
import numpy as np

from big_audio import config as C
from big_audio import train_step
from big_audio.tools import timing

ROWS = 1024
# The first is as wide and deep as the original codec's MLP for MNIST (18.8 M parameters there).
SHAPES = {
  "784-d, latent 256, cond 128, 8 blocks": dict(dim=784, latent=256, cond_dim=128, depth=8),
  "784-d, latent 32, 4 blocks of 256": dict(dim=784, latent=32, cond_dim=128, depth=4, hidden=256),
}
METHODS = ("fm", "mf", "imf")


def run(rounds: int) -> list[timing.Row]:
  """Rows for each shape of the net; ratios are to FM, `params` in millions."""
  rows = []
  for name, shape in SHAPES.items():
    rows += timing.interleaved(
      {m: _step(m, shape) for m in METHODS},
      rounds,
      group=f"train step of {ROWS} rows, mlp_flow {name} ({_millions(shape):.1f} M parameters)",
    )
  return rows


def _config(method, shape):
  return C.canonical(
    dict(
      models=dict(net=dict(model="mlp_flow", **shape)),
      trainer=dict(name="flow", method=method, key="image"),
      optimizer=dict(name="adam", lr=1e-3, clip=1.0, ema=dict(decay=0.999)),
    )
  )


def _parts(method, shape):
  config = _config(method, shape)
  trainer = C.resolve("trainers", "flow").Trainer(config, C.build_models(config))
  image = np.random.default_rng(0).standard_normal((ROWS, shape["dim"])).astype(np.float32)
  batch = {"image": image}
  opt, make_state = train_step.build_state(
    config, trainer, batch, {}, total=1000, units=dict(batch_size=ROWS, data_size=ROWS)
  )
  return trainer, batch, opt, make_state


def _millions(shape):
  _, batch, _, make_state = _parts("fm", shape)
  state = jax.eval_shape(make_state, jax.random.key(0), batch, {})
  return sum(x.size for x in jax.tree.leaves(state["params"])) / 1e6


def _step(method, shape):
  """A function that advances its own state by one step."""
  trainer, batch, opt, make_state = _parts(method, shape)
  update = jax.jit(
    train_step.make_update(trainer, opt, accum=1, total=1000, max_skipped=0), donate_argnums=0
  )
  box = [jax.jit(make_state)(jax.random.key(0), batch, {})]
  batch, key = jax.device_put(batch), jax.random.key(1)

  def step():
    box[0], metrics = update(box[0], batch, key)
    return box[0]["step"], metrics

  return step
