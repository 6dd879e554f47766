"""Whole training steps of the codec's kinds: what moves, what is restored, in which precision."""

import os
import shutil

import jax
import numpy as np
import pytest

from big_audio import checkpoint, train_step, trees
from big_audio import config as C
from tests.test_train_loop import assert_same_state, rows, run

BATCH = {"wav": (0.1 * np.random.default_rng(0).standard_normal((2, 1600, 1))).astype(np.float32)}
TOTAL = 10


def steps(arg, *flags, first=0, count=2, **trainer):
  """(state before, state after, metrics) of a few steps of a run that comes to step `first`."""
  config = C.load(f"configs/meanflow.py:smoke{arg}", ["models.codec.width=8", *flags])
  with config.unlocked():
    config.trainer.update(trainer)
  config = C.with_defaults(config)
  made = C.resolve("trainers", "autoencode").Trainer(config, C.build_models(config))
  stats = made.stats([BATCH])
  opt, make_state = train_step.build_state(config, made, BATCH, stats, total=TOTAL, units={})
  phase = train_step.phase(made, first, TOTAL)
  update = jax.jit(
    train_step.make_update(made, opt, accum=1, total=TOTAL, max_skipped=0, phase=phase)
  )
  before = after = {**jax.jit(make_state)(jax.random.key(0), BATCH, stats), "step": np.int32(first)}
  for _ in range(count):
    after, metrics = update(after, BATCH, jax.random.key(1))
  assert all(np.isfinite(v) for v in metrics.values())
  return before, after, metrics


def moved(before, after):
  """Names of leaves that differ."""
  a, b = trees.flatten(before), trees.flatten(after)
  assert a.keys() == b.keys()
  return {n for n in a if not np.array_equal(a[n], b[n])}


@pytest.mark.slow
@pytest.mark.parametrize(  # of bits that begin at 30
  "wanted, sign", [(20, 1), (40, -1)]
)
def test_both_players_the_prior_and_the_weight_of_bits_move(wanted, sign):
  before, after, metrics = steps(
    ",method=ae,gan=codec,coded_kbps=1", first=4, coded_bits=wanted, rate_weight=0.01
  )
  models = {n.split("/")[0] for n in moved(before["params"], after["params"])}
  assert models == {"codec", "discriminator", "prior"}
  rate = [float(s["vars"]["rate"]["log_weight"]) for s in (before, after)]
  assert rate[0] == pytest.approx(np.log(0.01))
  # The first of two steps moves it by 27 / 10 (30 / wanted - 1), if nothing bounds it.
  assert np.sign(rate[1] - rate[0]) == sign
  assert rate[1] <= np.log(0.05) + 1e-6
  assert not any(n.startswith("discriminator/") for n in trees.flatten(after["ema"]))
  assert metrics["gan_discriminator"] > 0


@pytest.mark.slow
def test_codebooks_follow_what_is_assigned_to_them():
  before, after, _ = steps(",method=ae,quantizer=rvq,kbps=1", first=4)
  names = moved(before["vars"], after["vars"])
  books = {f"codebook/quant/books_{g}/{k}" for g in range(2) for k in ("total", "count")}
  assert names == books
  moving = moved(before["params"], after["params"])
  for part in ("codec/quant/down_1", "codec/quant/up_0", "codec/enc_out"):
    assert any(n.startswith(part) for n in moving)
  assert not any("books" in n for n in trees.flatten(after["ema"]))


HALF = "models.codec.dtype=bfloat16"
COMPUTE = [  # one block is never scanned
  f"models.refiner.{x}" for x in ("dtype=bfloat16", "remat=True", "scan=True", "depth=2")
]


@pytest.mark.slow
@pytest.mark.parametrize("net", ["convnext1d", "mlp_flow", "mixer_flow", "dit"])
def test_half_precision_remat_and_scan(net):
  """A step of the refiner: finite, parameters and their averages stay float32."""
  secs = ",secs=0.2" if net == "mixer_flow" else ""
  before, after, metrics = steps(f",net={net}{secs}", HALF, *COMPUTE, first=8, count=1)
  assert {n.split("/")[0] for n in moved(before["params"], after["params"])} >= {"refiner"}
  for tree in ("params", "ema", "vars"):
    assert {str(x.dtype) for x in jax.tree.leaves(after[tree])} == {"float32"}
  assert metrics["sample_loss"] > 0


@pytest.mark.slow
def test_half_precision_of_the_codec_is_near_single():
  full = steps(",method=ae", count=1)[2]
  _, half, metrics = steps(",method=ae", HALF, count=1)
  assert {str(x.dtype) for x in jax.tree.leaves(half["params"])} == {"float32"}
  assert metrics["ae_loss"] == pytest.approx(float(full["ae_loss"]), rel=0.05)
  assert metrics["ae_loss"] != full["ae_loss"]  # the type is used


@pytest.mark.parametrize(
  "arg, collection",
  [
    pytest.param(",method=ae,quantizer=rvq,kbps=1", "codebook", marks=pytest.mark.slow),
    pytest.param(",method=ae,coded_kbps=1,rate_weight=1e-9", "rate", marks=pytest.mark.slow),
    pytest.param(",gan=codec,coded_kbps=1,rate_weight=1e-9", "rate", marks=pytest.mark.slow),
  ],
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path, arg, collection):
  """With quantiser dropout; what a kill after a checkpoint leaves is that and rows beyond it."""
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  c = C.load(f"configs/meanflow.py:smoke{arg},secs=0.2", ["models.codec.width=8"])
  with c.unlocked():
    c.total_steps, c.input.num_threads, c.evals = 6, 0, {}
    c.log, c.ckpt = dict(every_steps=1), dict(every_steps=3, keep_latest=2)
    c.trainer.quantizer_dropout = 0.5
  run(c, whole)
  shutil.copytree(whole, killed)
  shutil.rmtree(killed / "checkpoints" / "6")
  assert os.listdir(killed / "checkpoints") == ["3"]
  run(c, killed)
  assert rows(killed) == rows(whole) and len(rows(whole)) == 6
  assert_same_state(killed, whole)
  early, late = (checkpoint.load_arrays(str(whole), s)[1]["vars"][collection] for s in (3, 6))
  assert moved(early, late)
