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
import threading
import time
from collections.abc import Iterator

import jax

from big_audio import config as C
from big_audio import inference, input_pipeline, metrics, sharding, train_step
from big_audio.tools import timing

CONFIG = "configs/meanflow.py"
BLOCK = 20  # steps
SAVE_EVERY = 100  # steps; more often than the config, to see some


class Evaluator:
  """Times bare steps. Not for other configs: it is named in the config that `run` makes."""

  def __init__(self, predict, *, data, batch_size, mesh, workdir, loader_core=None):
    self._workdir, self._mesh, self._update, self._cpu = workdir, mesh, None, None
    self._loader_core = loader_core

  def _build(self):
    if self._loader_core is not None:
      for thread in threading.enumerate():
        if thread.name.startswith("grain"):
          os.sched_setaffinity(thread.native_id, [self._loader_core])
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
      trainer, opt, accum=config.accum_steps, total=config.total_steps, max_skipped=0,
      phase=train_step.phase(trainer, 0, config.total_steps),
    )  # fmt: skip
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
  """Rows: bare step, step in the loop, loader, save (milliseconds a step) and start-up.

  Where the system allows it, the loop is measured a second time with the loader on a core of its
  own (the bare step then has one core less, too).
  """
  config = C.to_dict(C.load(CONFIG))
  cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
  found = _loop(config, rounds, "loader and step share the cores")
  if len(cores) > 1:
    os.sched_setaffinity(0, cores[:-1])  # what is started from here inherits it
    try:
      found += _loop(config, rounds, "loader on a core of its own", loader_core=cores[-1])
    finally:
      os.sched_setaffinity(0, cores)
  return found + _startup(config)


def _loop(config, rounds, name, **kw):
  save_every, batch_size = config["ckpt"]["every_steps"], config["input"]["batch_size"]
  bare = dict(type=__spec__.name, data={}, log_steps=BLOCK, batch_size=batch_size, **kw)
  config = config | dict(
    total_steps=(rounds + 2) * BLOCK,
    log=dict(every_steps=BLOCK),
    ckpt={**config["ckpt"], "every_steps": SAVE_EVERY},
    evals=dict(bare=bare),
  )
  # The first block holds the compilation, the second the loop's first CPU reading.
  blocks = [r for r in _train(config) if "val/bare/loop_cpu_secs" in r][1:]
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
  save_ms = 1e3 * lost / saves if saves else math.nan
  found = [
    dict(name="bare jitted step", **bare),
    dict(name="step in the loop", **loop, share=share),
    dict(name="loader alone", **_loader(config, BLOCK * 2)),
    dict(name=f"saving, every {save_every} steps", wall_ms=save_ms / save_every,
         cpu_ms=math.nan, ms_each=save_ms),
  ]  # fmt: skip
  for row in found:
    row |= dict(group=f"{CONFIG}, batch {batch_size}, {name}: ms a step", rounds=rounds)
    row |= {f"{k}_ratio": row[f"{k}_ms"] / bare[f"{k}_ms"] for k in ("wall", "cpu")}
  return found


def _train(config, **env):
  """The rows of a run of the real program."""
  with tempfile.TemporaryDirectory() as folder:
    stored = os.path.join(folder, "bench.json")
    with open(stored, "w") as f:
      json.dump(config, f)
    workdir = os.path.join(folder, "run")
    argv = [sys.executable, "train.py", "--config", stored, "--workdir", workdir]
    env = {**os.environ, **env}
    done = subprocess.run(argv, cwd=C.repo_root(), env=env, capture_output=True, text=True)
    if done.returncode:
      raise RuntimeError(f"bench loop: {' '.join(argv)} failed:\n{done.stderr}")
    return metrics.read_rows(os.path.join(workdir, metrics.FILE))


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


def _startup(config):
  """From the command to the end of the first step, in a process of its own."""
  config = config | dict(evals={}, total_steps=BLOCK)
  rows = []
  with tempfile.TemporaryDirectory() as cache:
    for name in ("cold compilation cache", "warm compilation cache"):
      secs = _train(config, JAX_COMPILATION_CACHE_DIR=cache)[-1]["z/startup_secs"]
      row = dict(group="start-up: command to first step", name=name, rounds=1)
      rows.append(row | dict(wall_ms=1e3 * secs, cpu_ms=math.nan, cpu_ratio=math.nan))
  for row in rows:
    row["wall_ratio"] = row["wall_ms"] / rows[0]["wall_ms"]
  return rows
