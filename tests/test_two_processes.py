"""Two real processes joined by jax.distributed train like one."""

import json
import shutil
import socket

import numpy as np
import pytest

from big_audio import checkpoint, input_pipeline
from big_audio import config as C
from tests import commands

CONFIG = "configs/meanflow.py:data=digits,smoke,method=imf"
FLAGS = ("total_steps=20", "log.every_steps=1", "ckpt.every_steps=10")


def free_port():
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    return s.getsockname()[1]


def two(argv, folder, **kw):
  """Runs a command in two processes: what each printed."""
  port, logs = free_port(), [folder / f"process{i}" for i in range(2)]
  started = [
    commands.start(
      argv, logs[i], JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{port}", JAX_NUM_PROCESSES="2",
      JAX_PROCESS_ID=str(i), JAX_CPU_COLLECTIVES_IMPLEMENTATION="gloo", **kw
    )
    for i in range(2)
  ]  # fmt: skip
  try:
    codes = [p.wait(300) for p in started]
  finally:
    for p in started:
      p.kill()
  texts = [commands.printed(log) for log in logs]
  assert codes == [0, 0], "\n".join(texts)
  return texts


def test_batches_are_the_rows_of_one_process():
  cfg = C.load(CONFIG).input
  whole = input_pipeline.train_batches(cfg, seed=0, start_step=3)
  parts = [
    input_pipeline.train_batches(cfg, seed=0, start_step=3, process_index=i, process_count=2)
    for i in range(2)
  ]
  for _ in range(40):  # over the end of an epoch
    batch, (a, b) = next(whole), (next(p) for p in parts)
    assert batch["image"].dtype == a["image"].dtype
    assert batch["image"].tobytes() == np.concatenate([a["image"], b["image"]]).tobytes()
  for it in (whole, *parts):
    it.close()


@pytest.mark.slow
def test_two_processes_train_like_one(tmp_path):
  cache = tmp_path / "cache"
  argv = commands.command(CONFIG, tmp_path / "one", *FLAGS)
  code, text = commands.finish(argv, tmp_path / "log", cache=cache)
  assert code == 0, text
  first, second = two(commands.command(CONFIG, tmp_path / "two", *FLAGS), tmp_path, cache=cache)
  assert "step 20/20" in first and "step 20/20" not in second and "Traceback" not in second
  one, both = commands.rows(tmp_path / "one"), commands.rows(tmp_path / "two")
  assert [r["step"] for r in both] == list(range(1, 21))  # written once
  for a, b in zip(one, both, strict=True):
    assert a.keys() == b.keys()
    assert b["train/loss"] == pytest.approx(a["train/loss"], rel=1e-5)
    assert b["train/lr"] == a["train/lr"]
    if "val/val/loss" in a:
      assert b["val/val/loss"] == pytest.approx(a["val/val/loss"], rel=1e-4)
      assert b["val/val/ae_mse"] == pytest.approx(a["val/val/ae_mse"], rel=1e-4)
  assert sum("val/val/loss" in r for r in both) == 4
  assert commands.steps(tmp_path / "two") == [10, 20]
  a, b = commands.whole_state(tmp_path / "one"), commands.whole_state(tmp_path / "two")
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_allclose(b[name], a[name], rtol=1e-3, atol=1e-5, err_msg=name)

  # Ten of the steps in two processes, the rest in one, and the other way round.
  for names in (("two", "one"), ("one", "two")):
    workdir = tmp_path / "_".join(names)
    stop_after_ten(tmp_path / names[0], workdir)
    argv = commands.command(CONFIG, workdir, *FLAGS)
    if names[1] == "two":
      text, _ = two(argv, tmp_path, cache=cache)
    else:
      code, text = commands.finish(argv, tmp_path / "log", cache=cache)
      assert code == 0, text
    assert f"Restored step 10 of {workdir}" in text
    assert commands.steps(workdir) == [10, 20]
    for a, b in zip(one, commands.rows(workdir), strict=True):
      assert b["train/loss"] == pytest.approx(a["train/loss"], rel=1e-5)
  assert checkpoint.load_arrays(str(tmp_path / "two"), 10)[0] == 10


def stop_after_ten(source, workdir):
  """A copy of a workdir as it was at step 10; its rows past that are for the resume to drop."""
  shutil.copytree(source, workdir)
  shutil.rmtree(workdir / "checkpoints" / "20")
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  assert json.loads(lines[12])["step"] == 13
  (workdir / "metrics.jsonl").write_text("\n".join(lines[:13]) + "\n")
