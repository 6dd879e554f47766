"""The loop on small digits: resume, devices, accumulation, freezing, and what stops a run."""

import json
import math
import os
import shutil
import signal

import jax
import numpy as np
import pytest

from big_audio import checkpoint, inference, input_pipeline, sharding, train_loop, train_step, trees
from big_audio import config as C
from big_audio.datasets import digits

CONFIG = "configs/meanflow.py:data=digits,smoke"


def config(arg="", **changes):
  c = C.load(CONFIG + arg)
  with c.unlocked():
    c.total_steps, c.input.batch_size = 12, 16
    c.input.num_threads = 0
    c.log, c.ckpt = dict(every_steps=2), dict(every_steps=4)
    c.evals = dict(
      val=dict(c.evals.val.to_dict(), log_steps=6, log_percent=None, limit=32, batch_size=16)
    )
    for key, value in changes.items():
      c[key] = value
  return c


def one_device():
  return sharding.make_mesh(jax.devices()[:1])


def run(c, workdir, devices=1):
  mesh = sharding.make_mesh(jax.devices()[:devices])
  return train_loop.train(c, str(workdir), mesh=mesh)


def rows(workdir, with_z=False):
  with open(os.path.join(workdir, "metrics.jsonl")) as f:
    found = [json.loads(line) for line in f]
  return [{k: v for k, v in r.items() if with_z or not k.startswith("z/")} for r in found]


def state_of(workdir, step=None):
  return trees.flatten(checkpoint.load_arrays(str(workdir), step)[1])


def assert_same_state(a, b, **kw):
  a, b = state_of(a, **kw), state_of(b, **kw)
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def stop_at(monkeypatch, step):
  """SIGTERM arrives while batch `step` (counted from the start of this process) is fetched."""
  original, count = input_pipeline.BadShare.update, [0]

  def update(self, batch):
    count[0] += 1
    if count[0] == step:
      os.kill(os.getpid(), signal.SIGTERM)
    return original(self, batch)

  monkeypatch.setattr(input_pipeline.BadShare, "update", update)


TRACES = []  # an entry for each time that Python ran through the step of `whole`


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A run that nothing interrupts."""
  workdir = tmp_path_factory.mktemp("whole")
  make_update = train_step.make_update

  def counted(*args, **kw):
    step = make_update(*args, **kw)
    return lambda *x: TRACES.append(0) or step(*x)

  with pytest.MonkeyPatch.context() as m:
    m.setattr(train_step, "make_update", counted)
    run(config(), workdir)
  return workdir


def test_the_step_is_compiled(whole):
  """Python runs through it once or twice, and not in each of the 12 steps."""
  assert 1 <= len(TRACES) <= 2


def test_a_run_with_other_splits_is_not_resumed(whole, tmp_path, monkeypatch):
  workdir = shutil.copytree(whole, tmp_path / "run")
  (workdir / "splits.json").write_text(json.dumps({"train": {"train": ["a", "b"], "test": ["c"]}}))
  now = {"train": ["a", "b"], "test": ["c"]}
  monkeypatch.setattr(digits.Source, "split_record", lambda self: now, raising=False)
  run(config(), workdir)
  now["train"], now["test"] = ["a", "c"], ["b"]
  with pytest.raises(ValueError, match='2 tracks have left .* "b" was in train and is in test'):
    run(config(), workdir)


def test_rows(whole):
  found = rows(whole, with_z=True)
  assert [r["step"] for r in found] == [1, 2, 4, 6, 8, 10, 12]
  assert all(math.isfinite(r["train/loss"]) and r["train/lr"] > 0 for r in found)
  assert "val/val/loss" in found[3] and "val/val/loss" in found[-1]
  assert "val/val/loss" not in found[2] and found[-1]["z/steps_per_sec"] > 0
  assert {"train/mse_equal", "train/mse_below"} <= found[0].keys()
  assert sorted(os.listdir(whole / "checkpoints")) == ["12", "8"]
  assert C.diff(C.load(str(whole / "config.json")), C.with_defaults(config())) == {}


@pytest.mark.parametrize("step", [3, pytest.param(5, marks=pytest.mark.slow)])
def test_sigterm_saves_and_resume_is_exact(tmp_path, monkeypatch, capsys, whole, step):
  with monkeypatch.context() as m:
    stop_at(m, step)
    run(config(), tmp_path)
  assert f"Stopped by SIGTERM at step {step}" in capsys.readouterr().err
  assert checkpoint.load_arrays(str(tmp_path))[0] == step
  run(config(), tmp_path)
  assert f"Restored step {step}" in capsys.readouterr().err
  assert rows(tmp_path) == rows(whole)
  assert_same_state(tmp_path, whole)


def test_rows_past_the_restored_step_are_dropped(tmp_path, monkeypatch, whole):
  with monkeypatch.context() as m:
    stop_at(m, 5)
    run(config(), tmp_path)
  with open(tmp_path / "metrics.jsonl", "a") as f:
    f.write('{"step": 6, "train/loss": 0.5}\n{"step": 7, "tra')  # as a kill leaves it
  run(config(), tmp_path)
  assert rows(tmp_path) == rows(whole)


def test_finished_run_is_left_alone(whole, capsys):
  before = rows(whole, with_z=True)
  assert run(config(), whole)["step"] == 12
  assert "complete at step 12" in capsys.readouterr().err
  assert rows(whole, with_z=True) == before


def test_workdir_of_another_config(whole):
  with pytest.raises(ValueError, match=r"optimizer/lr: stored 0.001, now 0.5"):
    run(config(optimizer=dict(config().optimizer.to_dict(), lr=0.5)), whole)
  run(config(log=dict(every_steps=3), ckpt=dict(every_steps=5)), whole)  # cadence may differ


def store_config(workdir, c):
  """As if the workdir had been started with `c`: sharding is no part of what a run computes."""
  with open(workdir / "config.json", "w") as f:
    json.dump(C.to_dict(C.with_defaults(c)), f)


def full_state(workdir, step, devices, rules):
  """A checkpoint, optimizer and all, restored onto some devices as a resumed run restores it."""
  c = C.with_defaults(config())
  mesh = sharding.make_mesh(jax.devices()[:devices])
  trainer = C.resolve("trainers", c.trainer.name).Trainer(c, C.build_models(c))
  batch = {"image": np.zeros((16, 8, 8, 1), np.float32)}
  stats = trainer.stats([batch])
  _, make_state = train_step.build_state(c, trainer, batch, stats, total=12, units={})
  shapes = jax.eval_shape(make_state, jax.random.key(0), batch, stats)
  shardings = sharding.infer(shapes, mesh, rules)
  target = jax.tree.map(
    lambda s, h: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=h), shapes, shardings
  )
  target.pop("frozen")
  saver = checkpoint.Checkpointer(str(workdir), keep_latest=5)
  found, state, _ = saver.restore(target)
  saver.close()
  assert found == step
  assert any(len(x.sharding.device_set) == devices for x in jax.tree.leaves(state))
  return {k: np.asarray(v) for k, v in trees.names_and_leaves(state)}


@pytest.mark.slow
def test_eight_devices_and_back(tmp_path, monkeypatch):
  """One device to step 4, eight (FSDP) for five steps, one again; beside one device throughout."""
  kw = dict(log=dict(every_steps=1), evals={}, ckpt=dict(every_steps=100, keep_latest=5))
  one, many = tmp_path / "one", tmp_path / "many"
  run(config(**kw), one)
  with monkeypatch.context() as m:
    stop_at(m, 4)
    run(config(**kw), many)
  fsdp = [[".*", "fsdp"]]
  before, after = full_state(many, 4, 1, [[".*", "replicate"]]), full_state(many, 4, 8, fsdp)
  assert any(name.startswith("opt/") for name in before)
  for name, leaf in before.items():
    np.testing.assert_array_equal(after[name], leaf, err_msg=name)
  sharded = config(**kw, sharding=fsdp)
  store_config(many, sharded)
  with monkeypatch.context() as m:
    stop_at(m, 5)
    run(sharded, many, devices=8)  # steps 5 to 9
  assert checkpoint.load_arrays(str(many))[0] == 9
  store_config(many, config(**kw))
  run(config(**kw), many)
  assert [r["step"] for r in rows(many)] == list(range(1, 13))
  for mine, theirs in zip(rows(many), rows(one), strict=True):
    assert mine["train/loss"] == pytest.approx(theirs["train/loss"], rel=1e-5), mine["step"]


def test_batch_not_divisible_by_devices(tmp_path):
  c = config()
  with c.unlocked():
    c.input.batch_size = 12
  with pytest.raises(
    ValueError, match=r"batch_size=12 must be a multiple of 8 devices.*Use 8 or 16"
  ):
    run(c, tmp_path, devices=8)


def test_accumulation_equals_the_whole_batch(tmp_path):
  a, b = tmp_path / "a", tmp_path / "b"
  run(config(",method=ae", evals={}), a)
  run(config(",method=ae", evals={}, accum_steps=4), b)
  for mine, theirs in zip(rows(a), rows(b), strict=True):
    assert mine["train/loss"] == pytest.approx(theirs["train/loss"], rel=1e-4)
    assert mine["train/grad_norm"] == pytest.approx(theirs["train/grad_norm"], rel=1e-3)


def test_accumulation_refuses_coupled_losses():
  class Trainer:
    def loss(self, variables, batch, rng, **_):
      from big_audio.trainers.loss import Loss

      return Loss(batch["x"], scalars={"proxy": batch["x"].mean()})

  class Opt:
    ema = None

  update = train_step.make_update(Trainer(), Opt(), accum=2, total=1, max_skipped=0)
  state = dict(params={"w": np.ones(1)}, frozen={}, vars={}, step=0, ctl={}, opt={}, ema={})
  with pytest.raises(ValueError, match="accum_steps=2.*proxy.*accum_steps=1"):
    update(state, {"x": np.ones(4, np.float32)}, jax.random.key(0))


def test_nan_stop_names_the_steps_and_the_checkpoint(tmp_path, monkeypatch):
  c = config(evals={})
  original = input_pipeline.put

  def poison(batch, where):
    poison.calls += 1
    if poison.calls >= 7:
      batch = {**batch, "image": np.full_like(batch["image"], np.nan)}
    return original(batch, where)

  poison.calls = 0
  monkeypatch.setattr(input_pipeline, "put", poison)
  with pytest.raises(
    FloatingPointError, match=r"between steps 7 and 8 .*last good checkpoint is step 4"
  ):
    run(c, tmp_path)


def test_skipped_updates_change_nothing(tmp_path, monkeypatch):
  c = config(evals={}, optimizer=dict(config().optimizer.to_dict(), max_skipped=1))
  original = input_pipeline.put

  def poison(batch, where):
    poison.calls += 1
    if poison.calls == 5:
      batch = {**batch, "image": np.full_like(batch["image"], np.nan)}
    return original(batch, where)

  poison.calls = 0
  monkeypatch.setattr(input_pipeline, "put", poison)
  run(c, tmp_path)
  assert all(math.isfinite(float(v.sum())) for v in state_of(tmp_path).values())
  assert [r["train/skipped"] for r in rows(tmp_path)] == [0, 0, 0, 1, 1, 1, 1]


def test_frozen_parameters_and_init_from(tmp_path, whole, capsys):
  schedule = [["net/enc_.*", None], [".*", dict(kind="constant")]]
  optimizer = dict(config().optimizer.to_dict(), schedule=schedule)
  item = dict(spec=str(whole), into="net", collections="stats/.*")
  c = config(optimizer=optimizer, init_from=[item], evals={})
  run(c, tmp_path)
  start, end = state_of(whole), state_of(tmp_path)
  name = "params/net/enc_in/kernel"
  # `init_from` takes the averaged parameters
  np.testing.assert_array_equal(end[name], start["ema/net/enc_in/kernel"])
  assert "ema/net/enc_in/kernel" not in end
  assert not np.array_equal(end["params/net/head/kernel"], start["ema/net/head/kernel"])
  with open(tmp_path / "frozen" / "sha256.json", "w") as f:
    json.dump({"sha256": "0" * 64}, f)
  with c.unlocked():
    c.total_steps = 14
  with open(tmp_path / "config.json", "w") as f:
    json.dump(C.to_dict(C.with_defaults(c)), f)
  with pytest.raises(checkpoint.CheckpointError, match="was changed"):
    run(c, tmp_path)


def test_init_from_needs_every_name(tmp_path, whole):
  c = config(",method=ae", init_from=[dict(spec=str(whole), into="nett")])
  with pytest.raises(ValueError, match='nett.*"net"'):
    run(c, tmp_path)


def test_init_from_must_say_what_it_takes_beside_parameters(whole):
  state = inference.variables(checkpoint.load_arrays(str(whole), None)[1])
  other = jax.tree.map(lambda x: x + 1, state)
  fill = lambda **kw: inference.initialise(other, [dict(spec=str(whole), into="net", **kw)])
  with pytest.raises(ValueError, match="holds stats/tokens/mean, stats/tokens/std"):
    fill()
  with pytest.raises(ValueError, match="'stat/.*' fits none of stats/tokens/mean"):
    fill(collections="stat/.*")
  kept, taken = fill(collections=""), fill(collections="stats/.*")
  same = lambda a, b: jax.tree.all(jax.tree.map(np.array_equal, a, b))
  assert same(kept["params"], state["params"]) and same(taken, state)
  assert same(kept["stats"], other["stats"]) and not same(kept["stats"], state["stats"])


def test_only_evaluates_with_zero_steps(tmp_path, whole):
  # Statistics of other data would make it another model.
  item = dict(spec=str(whole), into="net", collections="stats/.*")
  c = config(total_steps=0, stats_batches=1, init_from=[item])
  row = run(c, tmp_path)
  assert row["step"] == 0
  assert row["val/val/ae_mse"] == pytest.approx(rows(whole)[-1]["val/val/ae_mse"], rel=1e-6)


def test_plateau_and_early_stop(tmp_path):
  cfg = C.canonical(
    dict(plateau=dict(mode="min", patience=2, factor=0.5, min_scale=0.3, stop_after=5))
  ).plateau
  ctl = dict(train_step.CTL)
  for value in (3.0, 2.0, 2.5, 2.5):
    ctl = train_step.next_ctl(ctl, value, cfg)
  assert ctl == dict(lr_scale=0.5, best=2.0, bad_evals=2, skipped=0)
  for value in (2.5, 2.5):
    ctl = train_step.next_ctl(ctl, value, cfg)
  assert ctl["lr_scale"] == 0.3
  plateau = dict(metric="val/val/loss", mode="max", patience=1, stop_after=2)  # the loss falls: bad
  val = config().evals.val.to_dict()
  at_the_end = {k: v for k, v in val.items() if not k.startswith("log_")} | dict(log_percent=100)
  c = config(plateau=plateau, evals=dict(end=at_the_end, val=dict(val, log_steps=2)))
  last = run(c, tmp_path)
  assert last["step"] == 6 and last["train/lr"] < config().optimizer.lr
  assert last["val/end/loss"] == last["val/val/loss"]  # there will be no other end
  assert not any("val/end/loss" in row for row in rows(tmp_path)[:-1])
  run(c, tmp_path)  # a stopped run stays stopped
  assert rows(tmp_path)[-1]["step"] == 6


def test_runner_gives_what_the_evaluator_saw(whole):
  runner = inference.open_workdir(str(whole))
  assert runner.step == 12
  batches = input_pipeline.eval_batches(dict(config().evals.val.data.to_dict()), batch_size=8)
  batch = next(batches)
  out = runner.predict("reconstruct", inference.numeric(batch), nfe=2)
  assert out["image"].shape == batch["image"].shape
  with pytest.raises(ValueError, match='reconstrct.*"reconstruct"'):
    runner.predict("reconstrct", {})
  with pytest.raises(ValueError, match="unknown argument 'nfes'"):
    runner.predict("reconstruct", inference.numeric(batch), nfes=2)
  with pytest.raises(ValueError, match="no checkpoint 5"):
    inference.open_workdir(f"{whole}:5")
  with pytest.raises(ValueError, match=r"config\.json"):
    inference.open_workdir(str(whole / "checkpoints"))
