"""The toy on which one-evaluation objectives separate: 8 Gaussians, a 3x128 MLP, 8000 steps.

  python -m tests.objectives.eight_gaussians [--steps 8000] [--only alpha]

Off-mode share: samples further than 0.3 from every mode. SW: sliced 2-Wasserstein distance.
"""

import argparse
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from big_audio.nn.embed import sinusoids
from big_audio.objectives import alphaflow, flow, meanflow
from big_audio.samplers import ode

RADIUS, STD, OFF = 1.4, 0.1, 0.3
ANGLES = np.arange(8) * np.pi / 4
MODES = RADIUS * np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)


class Toy(nn.Module):
  """Three hidden layers of 128 on (z, t, h); time as sinusoids of 0..1 turned into 0..50 rad."""

  @nn.compact
  def __call__(self, z, t, h):
    emb = [sinusoids(50.0 * s, 32, 1e3) for s in (t, h)]
    x = jnp.concatenate([z, *emb], axis=-1)
    for i in range(3):
      x = nn.silu(nn.Dense(128, name=f"layer{i}")(x))
    return nn.Dense(2, name="head")(x)


def draw(rng, n):
  """n samples of the mixture, f32[n, 2]."""
  k1, k2 = jax.random.split(rng)
  modes = jnp.asarray(MODES, jnp.float32)[jax.random.randint(k1, (n,), 0, 8)]
  return modes + STD * jax.random.normal(k2, (n, 2))


def train(method, *, seed=0, steps=8000, batch=1024, tangent=(1.0, 1.0)):
  """EMA parameters of the toy after training with fm | mf | imf | alpha."""
  net = Toy()
  params = net.init(jax.random.key(seed), jnp.zeros((1, 2)), jnp.zeros(1), jnp.zeros(1))
  tx = optax.chain(
    optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(2e-3, steps))
  )

  def loss_fn(params, rng, i):
    k1, k2, k3 = jax.random.split(rng, 3)
    x, e = draw(k1, batch), jax.random.normal(k2, (batch, 2))
    fn = lambda z, t, h, _: net.apply(params, z, t, h)
    if method == "fm":
      return flow.flow_matching(fn, x, e, flow.sample_t(k3, (batch,)))[0].mean()
    t, r = meanflow.sample_t_r(k3, batch, ratio=0.5)
    if method == "alpha":
      alpha = alphaflow.schedule(i / steps)
      return jax.lax.cond(
        alpha > 0,
        lambda: alphaflow.alphaflow(fn, x, e, t, r, alpha, ratio=0.5)[0].mean(),
        lambda: meanflow.meanflow(fn, x, e, t, r, ratio=0.5, eps=1e-3)[0].mean(),
      )
    kw = dict(ratio=0.5, improved=method == "imf", p=1.0, tangent=tangent)
    return meanflow.meanflow(fn, x, e, t, r, **kw)[0].mean()

  def step(carry, i):
    params, opt, ema = carry
    grads = jax.grad(loss_fn)(params, jax.random.fold_in(jax.random.key(seed + 1), i), i)
    updates, opt = tx.update(grads, opt, params)
    params = optax.apply_updates(params, updates)
    return (params, opt, jax.tree.map(lambda e, p: 0.998 * e + 0.002 * p, ema, params)), None

  @jax.jit
  def run(params):
    return jax.lax.scan(step, (params, tx.init(params), params), jnp.arange(steps))[0][2]

  return net, run(params)


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def sample(net, params, e, nfe, sampler):
  """f32[n, 2] by u_steps or v_steps."""
  fn = lambda z, t, h, _: net.apply(params, z, t, h)
  return getattr(ode, sampler)(fn, e, nfe)


def score(x, seed=7):
  """(off-mode share, sliced 2-Wasserstein distance to fresh samples) of x [n, 2]."""
  x = np.asarray(x)
  distance = np.linalg.norm(x[:, None] - MODES[None], axis=-1).min(axis=1)
  ref = np.asarray(draw(jax.random.key(seed), len(x)))
  angle = np.linspace(0, np.pi, 64, endpoint=False)
  lines = np.stack([np.cos(angle), np.sin(angle)])
  gap = np.sort(x @ lines, axis=0) - np.sort(ref @ lines, axis=0)
  return float((distance > OFF).mean()), float(np.sqrt((gap**2).mean()))


def table(steps=8000, seed=0, only=()):
  """{row name: {nfe: (off-mode share, SW)}} of all rows, or some of them."""
  rows = {}
  for name, method, tangent in (
    ("fm", "fm", (1.0, 1.0)),
    ("mf", "mf", (1.0, 1.0)),
    ("imf", "imf", (1.0, 1.0)),
    ("alpha", "alpha", (1.0, 1.0)),
    ("bug: unit tangent on r", "mf", (0.0, -1.0)),
  ):
    if only and name not in only:
      continue
    net, params = train(method, seed=seed, steps=steps, tangent=tangent)
    e = jax.random.normal(jax.random.key(99), (8192, 2))
    sampler = "v_steps" if method == "fm" else "u_steps"
    rows[name] = {n: score(sample(net, params, e, n, sampler)) for n in (1, 2, 4, 32)}
  return rows


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--steps", type=int, default=8000)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--only", nargs="*", default=(), help="names of rows")
  flags = parser.parse_args()
  floor = score(draw(jax.random.key(1), 8192))
  print(f"off-mode share / SW; floor (fresh samples): {floor[0]:.3f} / {floor[1]:.3f}")
  for name, scores in table(flags.steps, flags.seed, flags.only).items():
    print(f"{name:24}", "  ".join(f"NFE {n}: {o:.3f} / {s:.3f}" for n, (o, s) in scores.items()))
