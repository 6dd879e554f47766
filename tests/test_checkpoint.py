"""Checkpoints: which are kept, which is taken, and what happens to broken ones and full disks."""

import contextlib
import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from big_audio import checkpoint, sharding
from tests import commands


def state(step):
  """A small state whose values tell the step."""
  value = jnp.full((8, 2), step, jnp.float32)
  return {
    "params": {"net": {"w": value, "b": value[0] / 3}},
    "ema": {"net": {"w": value + 0.5}},
    "vars": {"stats": {"std": value[1]}},
    "opt": {"mu": value * 2},
    "step": jnp.asarray(step, jnp.int32),
  }


def target(devices=1, spec=None):
  mesh = sharding.make_mesh(jax.devices()[:devices])
  where = NamedSharding(mesh, PartitionSpec(*([spec] if spec else [])))
  everywhere = NamedSharding(mesh, PartitionSpec())
  place = lambda x: where if x.ndim == 2 else everywhere
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place(x)), state(0))


def write(workdir, steps, metric=None, **kw):
  saver = checkpoint.Checkpointer(str(workdir), **kw)
  for step in steps:
    saver.save(step, state(step), {"step": step}, {"val/x": metric(step)} if metric else {})
  saver.close()
  return commands.steps(workdir)


def restore(workdir, *args, **kw):
  saver = checkpoint.Checkpointer(str(workdir))
  with contextlib.closing(saver):
    step, found, meta = saver.restore(target(*args, **kw))
  assert meta == {"step": step}
  for name, leaf in checkpoint.trees.flatten(state(step)).items():
    np.testing.assert_array_equal(checkpoint.trees.flatten(found)[name], leaf, err_msg=name)
  return step, found


def test_policies_are_independent(tmp_path):
  assert write(tmp_path / "latest", [2, 4, 6, 8], keep_latest=2) == [6, 8]
  assert write(tmp_path / "every", [2, 4, 6, 8, 10], keep_latest=1, keep_every_steps=4) == [
    4,
    8,
    10,
  ]
  low_at_4 = lambda step: abs(step - 4) + 1.0
  best = dict(keep_latest=1, best="val/x")
  assert write(tmp_path / "min", [2, 4, 6, 8], low_at_4, **best) == [4, 8]
  assert write(tmp_path / "max", [2, 4, 6, 8], lambda s: -low_at_4(s), best_mode="max", **best) == [
    4,
    8,
  ]
  # Resume takes the latest, not the best.
  assert restore(tmp_path / "min")[0] == 8


def test_best_is_kept_among_checkpoints_without_a_value(tmp_path):
  saver = checkpoint.Checkpointer(str(tmp_path), keep_latest=1, best="val/x")
  for step in (1, 2, 3, 4):
    saver.save(step, state(step), {"step": step}, {"val/x": 0.5} if step == 2 else {})
  saver.close()
  assert commands.steps(tmp_path) == [2, 4]


@pytest.mark.parametrize(
  "kw", [dict(keep_latest=0), dict(best="val/x", best_mode="least")], ids=["latest", "mode"]
)
def test_settings_are_checked(tmp_path, kw):
  with pytest.raises(ValueError, match=r"config\.ckpt\."):
    checkpoint.Checkpointer(str(tmp_path), **kw)


def test_saving_a_step_again_changes_nothing(tmp_path):
  assert write(tmp_path, [3]) == [3]
  before = os.stat(tmp_path / "checkpoints" / "3").st_mtime_ns
  assert write(tmp_path, [3]) == [3]
  assert os.stat(tmp_path / "checkpoints" / "3").st_mtime_ns == before


def damage_arrays(folder):
  for path in (folder / "state").rglob("*"):
    if path.is_file():
      path.write_bytes(b"\0" * path.stat().st_size)


def partly_delete(folder):
  shutil.rmtree(folder / "state")


@pytest.mark.parametrize("harm", [damage_arrays, partly_delete])
def test_a_broken_latest_falls_back_and_says_so(tmp_path, capsys, harm):
  write(tmp_path, [2, 4], keep_latest=2)
  harm(tmp_path / "checkpoints" / "4")
  assert restore(tmp_path)[0] == 2
  assert "Checkpoint 4 cannot be restored, trying the one before it." in capsys.readouterr().out
  # it is out of the way, and not lost: the same step can be saved again
  assert len(list((tmp_path / "unreadable").iterdir())) == 1
  assert write(tmp_path, [4], keep_latest=2) == [2, 4]
  assert restore(tmp_path)[0] == 4
  for step in (2, 4):
    harm(tmp_path / "checkpoints" / str(step))
  with pytest.raises(checkpoint.CheckpointError, match=r"step 4: .*step 2: "):
    restore(tmp_path)


def test_a_partly_deleted_old_step_is_no_obstacle(tmp_path):
  """As a kill leaves it that comes while an old checkpoint is removed."""
  write(tmp_path, [2, 4], keep_latest=2)
  partly_delete(tmp_path / "checkpoints" / "2")
  assert restore(tmp_path)[0] == 4
  assert write(tmp_path, [6, 8], keep_latest=2) == [6, 8]
  assert checkpoint.load_arrays(str(tmp_path))[0] == 8


def test_an_unfinished_save_is_cleared_away(tmp_path):
  write(tmp_path, [2, 4], keep_latest=2)
  left = tmp_path / "checkpoints" / "6.orbax-checkpoint-tmp"
  shutil.copytree(tmp_path / "checkpoints" / "4", left)
  assert checkpoint.load_arrays(str(tmp_path))[0] == 4
  assert restore(tmp_path)[0] == 4
  assert write(tmp_path, [6]) == [4, 6]  # clearing runs beside the start; a save waits for it
  assert not left.exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # orbax's readers
def test_a_state_of_another_shape_is_refused(tmp_path):
  write(tmp_path, [2])
  other = target()
  other["params"]["net"]["w"] = jax.ShapeDtypeStruct((9, 2), jnp.float32)
  saver = checkpoint.Checkpointer(str(tmp_path))
  with contextlib.closing(saver), pytest.raises(checkpoint.CheckpointError, match="step 2"):
    saver.restore(other)


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 simulated devices")
def test_other_device_counts(tmp_path):
  write(tmp_path / "one", [2])
  _, eight = restore(tmp_path / "one", 8, sharding.AXIS)
  assert len(eight["params"]["net"]["w"].sharding.device_set) == 8
  saver = checkpoint.Checkpointer(str(tmp_path / "eight"))
  saver.save(2, eight, {"step": 2}, {})
  saver.close()
  restore(tmp_path / "eight")
  step, arrays = checkpoint.load_arrays(str(tmp_path / "eight"))
  assert step == 2 and set(arrays) == {"params", "ema", "vars"}
  np.testing.assert_array_equal(arrays["params"]["net"]["w"], state(2)["params"]["net"]["w"])
  assert isinstance(arrays["ema"]["net"]["w"], np.ndarray)


def test_load_arrays_names_what_there_is(tmp_path):
  with pytest.raises(ValueError, match="is it the workdir of a run"):
    checkpoint.load_arrays(str(tmp_path))
  write(tmp_path, [20, 40], keep_latest=2)
  with pytest.raises(ValueError, match=r"no checkpoint 41\. .*40"):
    checkpoint.load_arrays(str(tmp_path), 41)
  assert checkpoint.load_arrays(str(tmp_path), 20)[0] == 20


@pytest.mark.parametrize("mode, want", [("min", 40), ("max", 20)])
def test_the_best_is_found_by_its_row(tmp_path, mode, want):
  with pytest.raises(ValueError, match="is it the workdir"):
    checkpoint.load_arrays(str(tmp_path), "best")
  write(tmp_path, [20, 40, 60], keep_latest=3)
  config = {"ckpt": dict(every_steps=20, best="val/x", best_mode=mode)}
  (tmp_path / "config.json").write_text(json.dumps(config))
  with pytest.raises(ValueError, match="no checkpoint was saved"):
    checkpoint.load_arrays(str(tmp_path), "best")
  # Step 10 is better, but there is no checkpoint of it.
  rows = [{"step": 10, "val/x": 0.0 if mode == "min" else 99.0}, {"step": 20, "val/x": 3.0},
          {"step": 40, "val/x": 1.0}, {"step": 60, "val/x": 2.0}]  # fmt: skip
  (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
  assert checkpoint.load_arrays(str(tmp_path), "best")[0] == want
  (tmp_path / "config.json").write_text(json.dumps({"ckpt": dict(every_steps=20)}))
  with pytest.raises(ValueError, match=r"config\.ckpt\.best is not set"):
    checkpoint.load_arrays(str(tmp_path), "best")


def test_frozen_parameters(tmp_path):
  frozen = {"clip": {"w": jnp.arange(6.0).reshape(2, 3)}}
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), frozen
  )
  digest = checkpoint.save_frozen(str(tmp_path), frozen)
  assert checkpoint.save_frozen(str(tmp_path), frozen) == digest
  found = checkpoint.restore_frozen(str(tmp_path), shapes)
  np.testing.assert_array_equal(found["clip"]["w"], frozen["clip"]["w"])
  with pytest.raises(checkpoint.CheckpointError, match="holds other frozen parameters"):
    checkpoint.save_frozen(str(tmp_path), {"clip": {"w": frozen["clip"]["w"] + 1}})
  write(tmp_path, [2])
  assert set(checkpoint.load_arrays(str(tmp_path))[1]["params"]) == {"net", "clip"}
  note = tmp_path / "frozen" / "sha256.json"
  note.write_text(json.dumps({"sha256": "0" * 64}))
  with pytest.raises(checkpoint.CheckpointError, match="was changed: sha256"):
    checkpoint.restore_frozen(str(tmp_path), shapes)
  note.unlink()
  with pytest.raises(checkpoint.CheckpointError, match="cannot be read"):
    checkpoint.restore_frozen(str(tmp_path), shapes)


def test_unwritable_folder_is_told(tmp_path, monkeypatch):
  """Failures of the threads that write come out as one error that names the last good step."""
  saver = checkpoint.Checkpointer(str(tmp_path))
  saver.save(2, state(2), {"step": 2}, {})
  saver.wait()

  def full(*_, **__):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(saver.manager, "check_for_errors", full)
  with pytest.raises(
    checkpoint.CheckpointError,
    match=r"Checkpoint 4 .*the disk is full\. Free some space.*last good checkpoint is step 2",
  ):
    saver.save(4, state(4), {"step": 4}, {})
  monkeypatch.undo()
  saver.close()


@pytest.fixture
def small_disk(tmp_path):
  """A folder on a file system of 16 MB of its own."""
  folder = tmp_path / "disk"
  folder.mkdir()
  made = sys.platform == "linux" and subprocess.run(
    ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)], capture_output=True
  )
  if not made or made.returncode:
    pytest.skip("cannot mount a tmpfs: needs Linux and root")
  yield folder
  subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_full_disk(tmp_path, small_disk):
  """The run ends with one line; with space again, the same command goes on as if nothing was."""
  flags = ("total_steps=100", "log.every_steps=1", "ckpt.every_steps=5", "evals.val.log_percent=20")
  config = "configs/meanflow.py:data=digits,smoke,method=imf"
  cache, log, workdir = tmp_path / "cache", tmp_path / "log", small_disk / "run"
  whole = commands.command(config, tmp_path / "whole", *flags)
  code, text = commands.finish(whole, log, cache=cache)
  assert code == 0, text
  before = len(commands.printed(log))
  process = commands.start(commands.command(config, workdir, *flags), log, cache=cache)
  saved = lambda: (workdir / "checkpoints").is_dir() and len(commands.steps(workdir)) >= 1
  assert commands.wait_until(saved, process), commands.printed(log)
  ballast = small_disk / "ballast"
  with open(ballast, "wb") as f:  # rows still fit, a checkpoint of 3 MB does not
    while (free := shutil.disk_usage(small_disk).free) > 400_000:
      f.write(bytes(min(free - 300_000, 1 << 20)))
      f.flush()
  assert process.wait(120) == 1
  text = commands.printed(log)[before:]
  good = commands.steps(workdir)[-1]
  last = text.splitlines()[-1]
  assert "Traceback" not in text
  assert last.startswith("CheckpointError: ") and "the disk is full. Free some space" in last
  assert last.endswith(f"the last good checkpoint is step {good}.")
  ballast.unlink()
  code, text = commands.finish(commands.command(config, workdir, *flags), log, cache=cache)
  assert code == 0 and f"Restored step {good} of" in text, text
  commands.assert_same_run(workdir, tmp_path / "whole")
