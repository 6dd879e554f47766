"""The loss on rendered estimates: zero at the truth, with gradients for every head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from big_audio import config as C
from proj.vimh import trainer

SOUND = dict(weight=2.0, voice="simple", sr=2000, secs=0.1, fixed=dict(note_number=45.0))
HEADS = dict(
  note_velocity=dict(min=0.0, max=127.0, step=12.7, value="note_velocity/value"),
  log10_decay_time=dict(min=-2.0, max=0.0, step=0.2, value="log10_decay_time/value"),
)
DATA = {
  "image": np.random.default_rng(0).uniform(-1, 1, (3, 8, 8, 1)).astype(np.float32),
  "note_velocity": np.array([2, 5, 9]),
  "note_velocity/value": np.float32([25.4, 63.5, 114.3]),
  "log10_decay_time": np.array([1, 5, 9]),
  "log10_decay_time/value": np.float32([-1.8, -1.0, -0.2]),
}


def make(heads=HEADS, sound=SOUND, loss="normalized_regression"):
  heads = {k: dict(v, loss=loss) for k, v in heads.items()}
  net = dict(model="mlp", widths=[8], norm="none")
  config = ConfigDict(
    dict(
      models=dict(net=net, heads=dict(model="heads", outputs=dict.fromkeys(heads, 11))),
      trainer=dict(name="proj.vimh.trainer", heads=heads, sound=sound),
    )
  )
  return trainer.Trainer(config, C.build_models(config))


def test_the_truth_costs_nothing_and_estimates_have_gradients():
  t = make()
  logit = lambda key, lo, hi: (lambda x: np.log(x / (1 - x)))((DATA[key] - lo) / (hi - lo))[:, None]
  true = {
    "note_velocity": logit("note_velocity/value", 0, 127),
    "log10_decay_time": logit("log10_decay_time/value", -2, 0),
  }
  cost = jax.jit(lambda out: t.extra(DATA, out)["sound"][0])
  np.testing.assert_allclose(cost(true), 0, atol=2e-3)
  off = {k: v + 1 for k, v in true.items()}
  assert np.all(cost(off) > 0.02)
  grad = jax.jit(jax.grad(lambda out: jnp.sum(cost(out))))(off)
  for name, g in grad.items():
    assert np.all(np.isfinite(g)) and np.all(g > 0), name  # back down is better, for both


def test_the_weighted_distance_joins_the_loss():
  t = make(loss="cross_entropy")
  variables = t.init(jax.random.key(0), DATA, {})
  loss = t.loss(variables, DATA, None, step=0, total_steps=1, train=False)
  parts = sum(loss.logs[f"{h}_loss"] for h in HEADS)
  np.testing.assert_allclose(loss.value, parts + 2 * loss.logs["sound_loss"], rtol=1e-5)


def test_errors():
  with pytest.raises(ValueError, match='"simple"'):
    make(sound=dict(SOUND, voice="simpel"))
  with pytest.raises(ValueError, match="unknown argument 'wieght'"):
    make(sound=dict(SOUND, wieght=1))
  no_value = {k: {n: x for n, x in v.items() if n != "value"} for k, v in HEADS.items()}
  with pytest.raises(ValueError, match="cannot be rendered"):
    make(heads=no_value, loss="cross_entropy")
