"""Steps inside the real loop beside the bare jitted step, the loader, saves, and the start-up.

The loop runs `configs/meanflow.py` with its own batch, logging, prefetch and asynchronous
checkpoints. An evaluator of this module interrupts it after every block and times as many bare
steps on the same state and on one batch that lies on the device; the loop's clock leaves
evaluators out. So both sides alternate and see the same moods of the machine.
"""

import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import jax
from absl import logging

from big_audio import config as C
from big_audio import inference, input_pipeline, metrics, sharding, train_loop, train_step
from big_audio.tools import timing

CONFIG = "configs/meanflow.py"
BLOCK = 20  # steps
SAVE_EVERY = 100  # steps; more often than the config, to see some


class Evaluator:
  """Times bare steps. Not for other configs: it is named in the config that `run` makes."""

  def __init__(self, predict, *, data, batch_size, mesh, workdir):
    self._workdir, self._mesh, self._update, self._cpu = workdir, mesh, None, None

  def _build(self):
    config = C.load(os.path.join(self._workdir, "config.json"))
    trainer = C.resolve("trainers", config.trainer.name).Trainer(config, C.build_models(config))
    with contextlib.closing(input_pipeline.train_batches(config.input, seed=0)) as batches:
      sample = inference.numeric(next(batches))
    stats = trainer.stats([sample]) if hasattr(trainer, "stats") else {}
    units = dict(
      batch_size=config.input.batch_size, data_size=input_pipeline.num_examples(config.input)
    )
    opt, _ = train_step.build_state(
      config, trainer, sample, stats, total=config.total_steps, units=units
    )
    step = train_step.make_update(
      trainer, opt, accum=config.accum_steps, total=config.total_steps, max_skipped=0
    )
    self._update = jax.jit(step, donate_argnums=0)
    self._batch = input_pipeline.put(sample, sharding.batch_sharding(self._mesh))
    self._key = jax.device_put(jax.random.key(0), sharding.replicated(self._mesh))

  def _steps(self, state, n):
    for _ in range(n):
      state, out = self._update(state, self._batch, self._key)
    jax.block_until_ready((state, out))
    return state

  def run(self, state) -> Iterator[tuple[str, float]]:
    """Yields the wall and CPU seconds of a block of bare steps, and the loop's CPU seconds."""
    entered = time.process_time()
    state = jax.tree.map(lambda x: x.copy(), state)
    if self._update is None:
      self._build()
      state = self._steps(state, 2)
    wall, cpu = time.perf_counter(), time.process_time()
    self._steps(state, BLOCK)
    yield "secs", time.perf_counter() - wall
    yield "cpu_secs", time.process_time() - cpu
    if self._cpu is not None:
      yield "loop_cpu_secs", entered - self._cpu
    self._cpu = time.process_time()


def run(rounds: int) -> list[timing.Row]:
  """Rows: bare step, step in the loop, loader, save (milliseconds a step) and start-up."""
  logging.set_verbosity(logging.WARNING)  # as train.py does: orbax tells every step of every save
  with tempfile.TemporaryDirectory() as folder:
    config = C.to_dict(C.load(CONFIG))
    save_every = config["ckpt"]["every_steps"]
    config["total_steps"] = (rounds + 2) * BLOCK
    config["log"]["every_steps"] = BLOCK
    config["ckpt"]["every_steps"] = SAVE_EVERY
    config["evals"] = dict(
      bare=dict(type="big_audio.tools.benches.loop", data={}, log_steps=BLOCK,
                batch_size=config["input"]["batch_size"])
    )  # fmt: skip
    train_loop.train(C.canonical(config), folder)
    # The first block holds the compilation, the second the loop's first CPU reading.
    rows = metrics.read_rows(os.path.join(folder, metrics.FILE))
    blocks = [r for r in rows if "val/bare/loop_cpu_secs" in r][1:]
    median = lambda fn: statistics.median(map(fn, blocks))
    bare = dict(
      wall_ms=median(lambda r: 1e3 * r["val/bare/secs"] / BLOCK),
      cpu_ms=median(lambda r: 1e3 * r["val/bare/cpu_secs"] / BLOCK),
    )
    loop = dict(
      wall_ms=median(lambda r: 1e3 / r["z/steps_per_sec"]),
      cpu_ms=median(lambda r: 1e3 * r["val/bare/loop_cpu_secs"] / BLOCK),
    )
    # Of each pair, so that a slow minute slows both sides.
    share = median(lambda r: r["val/bare/secs"] / BLOCK * r["z/steps_per_sec"])
    saves = blocks[-1]["step"] // SAVE_EVERY - blocks[0]["step"] // SAVE_EVERY
    lost = blocks[-1].get("z/secs_checkpoint", 0.0) - blocks[0].get("z/secs_checkpoint", 0.0)
    save_ms = 1e3 * lost / max(saves, 1)
    found = [
      dict(name="bare jitted step", **bare),
      dict(name="step in the loop", **loop, share=share),
      dict(name="loader alone", **_loader(config, BLOCK * 2)),
      dict(name=f"saving, every {save_every} steps", wall_ms=save_ms / save_every,
           cpu_ms=math.nan, ms_each=save_ms),
    ]  # fmt: skip
    for row in found:
      row |= dict(
        group=f"{CONFIG}, batch {config['input']['batch_size']}: ms a step", rounds=rounds
      )
      row |= {f"{k}_ratio": row[f"{k}_ms"] / bare[f"{k}_ms"] for k in ("wall", "cpu")}
    return found + _startup(folder, config)


def _loader(config, n):
  """Milliseconds for each batch, nothing else running."""
  data = C.canonical({"input": {**config["input"], "num_threads": 0, "num_workers": 0}}).input
  with contextlib.closing(input_pipeline.train_batches(data, seed=1)) as batches:
    next(batches)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(n):
      next(batches)
    return dict(
      wall_ms=1e3 * (time.perf_counter() - wall) / n, cpu_ms=1e3 * (time.process_time() - cpu) / n
    )


def _startup(folder, config):
  """From the command to the end of the first step, in a process of its own."""
  stored = os.path.join(folder, "startup.json")
  with open(stored, "w") as f:
    json.dump({**config, "evals": {}, "total_steps": BLOCK}, f)
  env = {**os.environ, "JAX_COMPILATION_CACHE_DIR": os.path.join(folder, "cache")}
  rows = []
  for name in ("cold compilation cache", "warm compilation cache"):
    workdir = os.path.join(folder, name.split()[0])
    argv = [sys.executable, "train.py", "--config", stored, "--workdir", workdir]
    done = subprocess.run(argv, cwd=C.repo_root(), env=env, capture_output=True, text=True)
    if done.returncode:
      raise RuntimeError(f"bench loop: {' '.join(argv)} failed:\n{done.stderr}")
    last = metrics.read_rows(os.path.join(workdir, metrics.FILE))[-1]
    row = dict(group="start-up: command to first step", name=name, rounds=1)
    rows.append(
      row | dict(wall_ms=1e3 * last["z/startup_secs"], cpu_ms=math.nan, cpu_ratio=math.nan)
    )
  for row in rows:
    row["wall_ratio"] = row["wall_ms"] / rows[0]["wall_ms"]
  return rows
