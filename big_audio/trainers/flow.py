"""Flows on tokens: autoencoder, flow matching, MeanFlow and improved MeanFlow on one backbone.

  trainer = dict(name="flow", net="net", key="image", method="imf", prior="shifted", sigma=.5)

The net offers encode, decode_det and u (models/mlp_flow.py). With `prior="shifted"` the flow starts
at e = y + sigma * eps around the deterministic reconstruction y (FlowDec, 2503.01485), so that all
methods share one path and one comparison; `prior="standard"` starts at plain noise.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from big_audio import config as C
from big_audio import sharding
from big_audio.objectives import flow, meanflow
from big_audio.samplers import ode
from big_audio.trainers.loss import Loss

METHODS = ("ae", "fm", "mf", "imf")
PRIORS = ("shifted", "standard")


class FlowLoss:
  """The generative objective of a method, with its settings.

  Args:
    method: fm | mf | imf.
    ratio: share of rows with r < t (mf, imf).
    p, eps: adaptive weighting, see `objectives.flow.adaptive`.
    t_dist: arguments of `objectives.flow.sample_t`.
  """

  def __init__(self, method: str, *, ratio=0.5, p=1.0, eps=0.01, t_dist=None):
    if method not in METHODS[1:]:
      raise ValueError(f"config.trainer.method={method!r}. {C.nearest(method, METHODS)}")
    self.method, self.ratio, self.p, self.eps = method, ratio, p, eps
    self.t_dist = dict(t_dist or {})

  def __call__(self, fn: Callable, x, e, rng, *, cond=None, mask=None):
    """(loss f32[B], logs) of fn(z, t, h, cond) between x and e, f32[B, ...]."""
    batch = x.shape[0]
    if self.method == "fm":
      t = flow.sample_t(rng, (batch,), **self.t_dist)
      return flow.flow_matching(fn, x, e, t, cond=cond, mask=mask, p=self.p, eps=self.eps)
    shards = sharding.data_shards()
    t, r = meanflow.sample_t_r(rng, batch, ratio=self.ratio, shards=shards, **self.t_dist)
    return meanflow.meanflow(
      fn, x, e, t, r, ratio=self.ratio, improved=self.method == "imf",
      cond=cond, mask=mask, p=self.p, eps=self.eps, shards=shards,
    )  # fmt: skip

  def sample(self, fn: Callable, e, nfe: int, cond=None):
    """x from e with `nfe` evaluations, by the sampler that fits the method."""
    return (ode.v_steps if self.method == "fm" else ode.u_steps)(fn, e, nfe, cond)


def start_noise(prior: str, sigma: float, eps, y):
  """The flow's state at t=1: eps (standard) or y + sigma * eps (shifted), like eps."""
  return eps if prior == "standard" else jax.lax.stop_gradient(y) + sigma * eps


class Trainer:
  """Strategy of `config.trainer` (see the module's text); `predict_fns`: reconstruct(nfe)."""

  def __init__(self, config, models):
    C.call("config.trainer", self._configure, **{k: config.trainer[k] for k in config.trainer})
    self.net = C.pick("config.models", models, self.net_name)

  def _configure(
    self, *, name, net="net", key="image", method="imf", prior="shifted", sigma=0.5, detach=False,
    ratio=0.5, p=1.0, eps=0.01, t_dist=None,
  ):  # fmt: skip
    if method not in METHODS:
      raise ValueError(f"config.trainer.method={method!r}. {C.nearest(method, METHODS)}")
    if prior not in PRIORS:
      raise ValueError(f"config.trainer.prior={prior!r}. {C.nearest(prior, PRIORS)}")
    self.net_name, self.key, self.method = net, key, method
    self.prior, self.sigma, self.detach = prior, sigma, detach
    self.flow = None if method == "ae" else FlowLoss(
      method, ratio=ratio, p=p, eps=eps, t_dist=t_dist)  # fmt: skip

  def _tokens(self, batch):
    """[B, ...] -> f32[B, 1, D]: one token an example."""
    x = batch[self.key].astype(jnp.float32)
    return x.reshape(x.shape[0], 1, -1)

  def _apply(self, variables, *args, method):
    return self.net.apply({"params": variables["params"][self.net_name]}, *args, method=method)

  def init(self, rng, batch, stats):
    """Parameters; `stats` is not used."""
    x = self._tokens(batch)
    t = jnp.zeros((x.shape[0],))
    return {"params": {self.net_name: self.net.init(rng, x, t, t)["params"]}}

  def loss(self, variables, batch, rng, *, step, total_steps, train) -> Loss:
    """Reconstruction error of the deterministic decoder plus the flow's loss."""
    x = self._tokens(batch)
    latent = self._apply(variables, x, method="encode")
    y = self._apply(variables, latent, method="decode_det")
    ae = flow.frame_mean(jnp.square(y - x))
    if self.flow is None:
      return Loss(ae, logs={"ae_mse": ae})
    noise_rng, time_rng = jax.random.split(rng)
    e = start_noise(self.prior, self.sigma, jax.random.normal(noise_rng, x.shape), y)
    cond = jax.lax.stop_gradient(latent) if self.detach else latent
    fn = lambda z, t, h, c: self._apply(variables, z, t, h, c, method="u")
    value, logs = self.flow(fn, x, e, time_rng, cond=cond)
    return Loss(ae + value, logs={"ae_mse": ae, "flow_loss": value, **logs})

  def predict_fns(self) -> dict[str, Callable]:
    """reconstruct(nfe=1): {key: like the input, "ae": the deterministic reconstruction}."""

    def reconstruct(variables, batch, rng, *, nfe=1):
      x = self._tokens(batch)
      latent = self._apply(variables, x, method="encode")
      y = self._apply(variables, latent, method="decode_det")
      out = y
      if self.flow is not None:
        e = start_noise(self.prior, self.sigma, jax.random.normal(rng, x.shape), y)
        fn = lambda z, t, h, c: self._apply(variables, z, t, h, c, method="u")
        out = self.flow.sample(fn, e, nfe, latent)
      shape = batch[self.key].shape
      return {self.key: out.reshape(shape), "ae": y.reshape(shape)}

    return {"reconstruct": reconstruct}
