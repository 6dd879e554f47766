import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from big_audio import optim

PARAMS = {"enc": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "dec": {"kernel": jnp.ones(3)}}
NAMES = ["enc/kernel", "enc/bias", "dec/kernel"]


def test_schedules_against_closed_forms():
  s = lambda step, **kw: float(optim.schedule(kw, total_steps=100)(step))
  assert s(50, kind="constant") == 1
  assert s(0, kind="cosine", warmup_steps=10) == pytest.approx(0.1)
  assert s(9, kind="cosine", warmup_steps=10) == pytest.approx(1.0)
  assert s(55, kind="cosine", warmup_steps=10) == pytest.approx(0.5 * (1 + math.cos(math.pi / 2)))
  assert s(100, kind="cosine", final=0.01) == pytest.approx(0.01)
  assert s(500, kind="cosine", final=0.01) == pytest.approx(0.01)
  assert s(25, kind="linear", final=0.0) == pytest.approx(0.75)
  assert s(30, kind="rsqrt", timescale_steps=10) == pytest.approx(0.5)
  assert s(30, kind="inverse", timescale_steps=10) == pytest.approx(0.25)
  assert s(59, kind="linear", begin_percent=60) == 0
  assert s(80, kind="linear", begin_percent=60) == pytest.approx(0.5)


def test_schedule_errors():
  with pytest.raises(ValueError, match='"cosine"'):
    optim.schedule(dict(kind="cosin"), total_steps=10)
  with pytest.raises(ValueError, match='"warmup_steps"'):
    optim.schedule(dict(kind="cosine", warmup_stps=1), total_steps=10)
  with pytest.raises(ValueError, match="behind the end"):
    optim.schedule(dict(kind="cosine", warmup_steps=20), total_steps=10)


def test_equals_optax_adamw_with_clip():
  cfg = dict(
    lr=0.1, wd=0.01, wd_mask=".*", clip=0.5, b2=0.99, schedule=[[".*", dict(kind="constant")]]
  )
  opt = optim.build(cfg, NAMES, total_steps=10)
  ref = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(0.1, b2=0.99, weight_decay=0.01))
  p, q, s, r = PARAMS, PARAMS, opt.init(PARAMS), ref.init(PARAMS)
  for i in range(3):
    g = jax.tree.map(lambda x, i=i: x * (i + 1.0), PARAMS)
    p, s, norms = opt.update(g, s, p, i, 1.0)
    u, r = ref.update(g, r, q)
    q = optax.apply_updates(q, u)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), p, q)
  assert norms["grad_norm"] == pytest.approx(3 * 3.0)


def test_groups_have_their_own_rate_and_clip():
  cfg = dict(
    name="sgd", lr=1.0, clip=1.0,
    schedule=[["enc/bias", None], ["dec/.*", dict(kind="constant", lr=0.5, clip=100.0)],
              [".*", {}]],
  )  # fmt: skip
  opt = optim.build(cfg, NAMES, total_steps=10)
  assert opt.groups == {"enc/kernel": "group2", "enc/bias": "", "dec/kernel": "dec"}
  live = {"enc": {"kernel": jnp.zeros((2, 2))}, "dec": {"kernel": jnp.zeros(3)}}
  g = {"enc": {"kernel": jnp.full((2, 2), 2.0)}, "dec": {"kernel": jnp.full(3, 2.0)}}
  p, _, _ = opt.update(g, opt.init(live), live, 0, 0.5)
  # enc: norm 4 clipped to 1 -> .5 each, rate 1, scale .5; dec: norm 3.46 < 100, rate .5, scale .5
  np.testing.assert_allclose(p["enc"]["kernel"], -0.25)
  np.testing.assert_allclose(p["dec"]["kernel"], -0.5)
  assert {k: float(v) for k, v in opt.lrs(0).items()} == {"group2": 1.0, "dec": 0.5}


def test_ema_warms_up_and_skips():
  cfg = dict(lr=1.0, ema=dict(decay=0.9, skip="dec/.*"))
  opt = optim.build(cfg, NAMES, total_steps=10)
  assert opt.ema_skip("dec/kernel") and not opt.ema_skip("enc/bias")
  assert float(opt.ema(jnp.zeros(()), jnp.ones(()), 0)) == pytest.approx(0.9)  # decay .1 at step 0
  assert float(opt.ema(jnp.zeros(()), jnp.ones(()), 10_000)) == pytest.approx(0.1)


@pytest.mark.parametrize(
  "cfg, words",
  [
    (dict(lr=1.0, schedle=[]), '"schedule"'),
    (dict(lr=1.0, name="adm"), '"adam"'),
    (dict(lr=1.0, schedule=[["enc/.*", {}]]), "dec/kernel"),
    (dict(lr=1.0, schedule=[["foo/.*", {}], [".*", {}]]), "foo"),
    (dict(lr=1.0, schedule=[[".*", None]]), "frozen"),
    (dict(name="adam"), "lr"),
    (dict(lr=1.0, ema=dict(decay=1.5)), "decay"),
  ],
)
def test_errors(cfg, words):
  with pytest.raises(ValueError, match=words):
    optim.build(cfg, NAMES, total_steps=10)
