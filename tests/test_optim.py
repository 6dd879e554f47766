import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from big_audio import config as C
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


def test_a_boost_falls_linearly_to_one():
  """lr_head = lr mult w c: the multiplier 7 falls to 1 over three epochs, on top of the others."""
  kw = dict(kind="cosine", warmup_steps=10, boost=7, boost_epochs=3)
  units = dict(batch_size=5, data_size=50)  # an epoch is ten steps
  boosted = optim.schedule(kw, total_steps=100, **units)
  plain = optim.schedule(dict(kind="cosine", warmup_steps=10), total_steps=100)
  for step, factor in ((0, 7.0), (15, 4.0), (30, 1.0), (70, 1.0)):
    assert float(boosted(step)) == pytest.approx(factor * float(plain(step)))
  for bad in (dict(boost=7), dict(boost_steps=3), dict(boost=0, boost_steps=3)):
    with pytest.raises(ValueError, match="boost_epochs=3"):
      optim.schedule(dict(kind="constant", **bad), total_steps=10)


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
  params = {"enc": {"kernel": jnp.ones(()), "bias": jnp.ones(())}, "dec": {"kernel": jnp.ones(())}}
  zeros = {"enc": {"kernel": jnp.zeros(()), "bias": jnp.zeros(())}}
  ema, same = opt.ema(zeros, params, 0)  # decay .1 at step 0
  assert float(ema["enc"]["kernel"]) == pytest.approx(0.9) and same == params
  assert float(opt.ema(zeros, params, 10_000)[0]["enc"]["bias"]) == pytest.approx(0.1)


def test_averages_of_groups_that_begin_late_or_end_early():
  schedule = [
    ["enc/.*", dict(kind="cosine", end_percent=50)],
    ["dec/.*", dict(kind="cosine", begin_percent=50)],
  ]
  cfg = dict(lr=1.0, schedule=schedule, ema=dict(decay=0.999))
  opt = optim.build(cfg, NAMES, total_steps=2000)
  tree = lambda enc, dec: {
    "enc": {"kernel": jnp.array(enc), "bias": jnp.array(enc)}, "dec": {"kernel": jnp.array(dec)}
  }  # fmt: skip
  value = lambda tree: (float(tree["enc"]["kernel"]), float(tree["dec"]["kernel"]))
  before, ended = opt.ema(tree(0.5, 0.0), tree(1.0, 0.0), 998, opt.active(998))
  assert value(ended) == (1.0, 0.0) and 0.5 < value(before)[0] < 1
  ema, ended = opt.ema(before, ended, 999, opt.active(999))  # its last step
  assert value(ended) == value(ema) and 0.5 < value(ended)[0] < 1
  # The late group's average begins anew: nine tenths of its first step, not a thousandth.
  after, params = opt.ema(ema, tree(value(ema)[0], 1.0), 1000, opt.active(1000))
  assert value(after) == pytest.approx((value(ema)[0], 0.9)) and value(params)[1] == 1.0


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


def test_groups_that_do_not_move_cost_nothing_and_keep_their_state():
  schedule = [
    ["enc/.*", dict(kind="cosine", end_percent=50)],
    ["dec/.*", dict(kind="cosine", begin_percent=50)],
  ]
  opt = optim.build(dict(lr=0.1, clip=1.0, schedule=schedule), NAMES, total_steps=100)
  assert [opt.active(s) for s in (0, 49, 50, 99)] == [{"enc"}, {"enc"}, {"dec"}, {"dec"}]
  state = opt.init(PARAMS)
  grads = jax.tree.map(jnp.ones_like, PARAMS)
  new, after, norms = opt.update(grads, state, PARAMS, 60, 1.0, opt.active(60))
  np.testing.assert_array_equal(new["enc"]["kernel"], PARAMS["enc"]["kernel"])
  assert np.abs(new["dec"]["kernel"] - PARAMS["dec"]["kernel"]).min() > 0
  assert float(norms["grad_norm"]) == pytest.approx(math.sqrt(3))  # of what moves
  inner = lambda s, k: jax.tree.leaves(s[1].inner_states[k])
  assert all(
    np.array_equal(a, b) for a, b in zip(inner(state, "enc"), inner(after, "enc"), strict=True)
  )
  assert any(np.any(a != b) for a, b in zip(inner(state, "dec"), inner(after, "dec"), strict=True))
  # A group that moves is moved as it would be without the others.
  alone = optim.build(dict(lr=0.1, clip=1.0, schedule=schedule[1:]), NAMES[2:], total_steps=100)
  dec = {"dec": PARAMS["dec"]}
  want, _, _ = alone.update({"dec": grads["dec"]}, alone.init(dec), dec, 60, 1.0)
  np.testing.assert_allclose(new["dec"]["kernel"], want["dec"]["kernel"], rtol=1e-6)


@pytest.mark.parametrize(
  "kw, last",
  [
    (dict(kind="constant"), True),
    (dict(kind="cosine", final=0.1, end_percent=50), True),
    (dict(kind="linear", final=0.1, end_percent=50), True),
    (dict(kind="cosine", end_percent=50), False),
    (dict(kind="linear", end_percent=50), False),
  ],
)
def test_a_rate_that_does_not_end_at_zero_goes_on(kw, last):
  opt = optim.build(dict(lr=0.1, schedule=[[".*", kw]]), NAMES, total_steps=10)
  assert opt.active(4) and bool(opt.active(5)) == bool(opt.active(10)) == last
  assert (float(next(iter(opt.lrs(10).values()))) > 0) == last  # it stops where its rate is 0


def test_a_run_of_two_stages_has_two_programs():
  config = C.with_defaults(C.load("configs/meanflow.py:steps=1777,begin=61.3"))
  trainer = C.resolve("trainers", "autoencode").Trainer(config, C.build_models(config))
  names = ["codec/x", "refiner/x", "prior/x"]
  opt = optim.build(config.optimizer, names, total_steps=1777, batch_size=6, data_size=100)
  programs = [(trainer.phase(s, 1777), opt.active(s)) for s in range(1777)]
  assert len(set(programs)) == 2
