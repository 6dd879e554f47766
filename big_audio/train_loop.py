"""THE train loop: everything that is the same for all systems.

It owns rng, masked means, accumulation, clipping, EMA, sharding, checkpoints, signals, evaluators,
plateau and early stopping, the NaN stop, the profiler and progress. A system adds a trainer,
models, data and evaluators, and never a loop.

What a run computes is a function of its config alone: batch s of (seed, s), randomness of step s of
fold_in(seed, s). So a run that was killed and resumed writes the same rows and parameters.
"""

import contextlib
import functools
import math
import os
import signal
import time

import jax
import jax.numpy as jnp

from big_audio import (
  checkpoint,
  clock,
  host,
  inference,
  input_pipeline,
  metrics,
  sharding,
  train_step,
  trees,
)
from big_audio import config as C


def is_main() -> bool:
  """Whether this process writes what there is one of: rows, the report."""
  return jax.process_index() == 0


def start_distributed() -> None:
  """Joins a multi-process run when the launcher's environment says so; call it before any array."""
  if "JAX_COORDINATOR_ADDRESS" in os.environ:
    for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
      if name not in os.environ:
        raise ValueError(f"JAX_COORDINATOR_ADDRESS is set, {name} is not. Set all three.")
    jax.distributed.initialize(
      os.environ["JAX_COORDINATOR_ADDRESS"],
      int(os.environ["JAX_NUM_PROCESSES"]),
      int(os.environ["JAX_PROCESS_ID"]),
    )
  elif os.environ.get("BIG_AUDIO_DISTRIBUTED") == "auto":  # TPU pods, SLURM: jax finds the rest
    jax.distributed.initialize()


def load_or_init(config, workdir, saver, opt, make_state, inputs, shapes, shardings):
  """(first step, state): the latest checkpoint of the workdir, or a fresh state."""
  target = jax.tree.map(
    lambda s, h: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=h), shapes, shardings
  )
  frozen_target = target.pop("frozen")
  if saver.latest() is not None:
    step, state, _ = saver.restore(target)
    frozen = checkpoint.restore_frozen(workdir, frozen_target) if frozen_target else {}
    return step, {**state, "frozen": frozen}
  state = jax.jit(make_state, out_shardings=shardings)(*inputs)
  if config.init_from:
    whole = trees.merge(state["params"], state["frozen"])
    models = C.build_models(config)
    filled = inference.initialise({"params": whole, **state["vars"]}, config.init_from, models)
    place = lambda new, old: jax.device_put(jnp.asarray(new, old.dtype), old.sharding)
    params, frozen = trees.split(filled.pop("params"), lambda n: opt.groups[n] != "")
    state["vars"] = jax.tree.map(place, filled, state["vars"])
    state["params"] = jax.tree.map(place, params, state["params"])
    state["frozen"] = jax.tree.map(place, frozen, state["frozen"])
    if opt.ema:
      state["ema"] = jax.tree.map(jnp.copy, train_step.averaged(state["params"], opt))
  if state["frozen"]:
    checkpoint.save_frozen(workdir, state["frozen"])
  return 0, state


def make_evaluator(name: str, cfg, predict, *, mesh, workdir):
  """The evaluator of `config.evals.<name>`; the tools build theirs with it too."""
  where = f"config.evals.{name}"
  kw = {k: v for k, v in C.to_dict(cfg).items() if not k.startswith("log_")}
  for key in ("type", "data", "batch_size"):
    if key not in kw:
      raise ValueError(f"{where}: the key {key!r} is missing.")
  sharding.check_batch(kw["batch_size"], mesh, where=f"{where}.batch_size")
  if "aux" in kw:
    kw["aux"] = inference.open_aux(f"{where}.aux", kw["aux"])
  cls = C.resolve("evaluators", kw.pop("type")).Evaluator
  return C.call(where, cls, predict, mesh=mesh, workdir=workdir, **kw)


def make_evaluators(config, predict, mesh, workdir, *, total: int, units: dict):
  """{name: (every n steps, evaluator)} of `config.evals`."""
  every = lambda cfg: C.steps("log", cfg, total_steps=total, default=total, **units)
  make = lambda name, cfg: make_evaluator(name, cfg, predict, mesh=mesh, workdir=workdir)
  return {name: (every(cfg), make(name, cfg)) for name, cfg in config.evals.items()}


@contextlib.contextmanager
def stop_signals():
  """Yields a list that SIGTERM and the first Ctrl-C add their name to, so a step is never torn.

  With several processes the list stays empty: they have to stop at one step, which jax's own
  handler agrees on (`reached_preemption`).
  """
  caught: list[str] = []

  def handler(number, _):
    caught.append(signal.Signals(number).name)
    if number == signal.SIGINT:
      signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C stops at once

  old = {}
  wanted = (signal.SIGTERM, signal.SIGINT) if jax.process_count() == 1 else ()
  with contextlib.suppress(ValueError):  # not the main thread (a notebook's worker): no handlers
    old = {n: signal.signal(n, handler) for n in wanted}
  try:
    yield caught
  finally:
    for number, previous in old.items():
      signal.signal(number, previous)


def train(config, workdir: str, *, mesh=None) -> dict[str, float]:
  """Runs `config` in `workdir` to its last step, resuming what is there; returns the last row.

  Args:
    config: see the module's text and `configs/`.
    workdir: where everything is written.
    mesh: of `sharding.make_mesh`; None: all devices.

  Raises:
    ValueError: a config, data or workdir that does not fit, with where, expected, got and the fix.
    CheckpointError: a checkpoint could not be written or read.
    FloatingPointError: the loss is not finite; names the steps and the last good checkpoint.
  """
  host.use_compilation_cache()
  host.keep_freed_memory()
  config = C.with_defaults(config)
  checkpoint.claim_workdir(config, workdir)
  mesh = sharding.make_mesh() if mesh is None else mesh
  with jax.set_mesh(mesh):
    return _train(config, workdir, mesh)


def _train(config, workdir, mesh):
  main = is_main()
  batch_size = config.input.batch_size
  sharding.check_batch(batch_size, mesh, config.accum_steps)
  units = dict(batch_size=batch_size, data_size=input_pipeline.num_examples(config.input))
  total = C.steps("total", config, **units)
  every = lambda node: C.steps("every", node, total_steps=total, **units)
  log_every, ckpt_every = every(config.log), every(config.ckpt)

  trainer = C.resolve("trainers", config.trainer.name).Trainer(config, C.build_models(config))
  rest = lambda node: {k: v for k, v in node.items() if not k.startswith("every_")}
  saver = C.call("config.ckpt", checkpoint.Checkpointer, workdir, **rest(config.ckpt))
  first = saver.latest() or 0
  input_pipeline.claim_splits(config.input, workdir, begun=first > 0, write=main)
  here = C.canonical({"input": {**C.to_dict(config.input), "num_workers": 0}}).input
  with contextlib.closing(input_pipeline.train_batches(here, seed=config.seed)) as whole:
    sample = inference.numeric(next(whole))
    stats = {}
    if hasattr(trainer, "stats"):
      # Restored with the checkpoint: then one batch is enough to know their shapes.
      count = 1 if first else config.stats_batches
      stats = trainer.stats([sample] + [inference.numeric(next(whole)) for _ in range(count - 1)])
  base_key = jax.device_put(jax.random.key(config.seed), sharding.replicated(mesh))
  opt, make_state = train_step.build_state(config, trainer, sample, stats, total=total, units=units)
  inputs = (jax.random.fold_in(base_key, 2**31 - 1), sample, stats)
  shapes = jax.eval_shape(make_state, *inputs)
  shardings = sharding.infer(shapes, mesh, config.sharding)
  first, state = load_or_init(config, workdir, saver, opt, make_state, inputs, shapes, shardings)

  writer = C.call("config.log", metrics.MetricWriter, workdir, is_main=main, **rest(config.log))
  writer.truncate(first if total else -1)
  failed_log = metrics.FailedLog(workdir, first, is_main=main)
  progress = clock.Progress(total, enabled=main)
  chrono = clock.Chrono(total, batch_size, first_step=first)
  if first:
    progress.message(f"Restored step {first} of {workdir}.")
  else:
    whole = trees.merge(shapes["params"], shapes["frozen"])
    progress.message(f"{trees.count(whole):,} parameters\n{trees.table(whole)}")
  calls = {"name": "", "n": 0}

  def on_call():
    calls["n"] += 1
    progress.phase(f"eval {calls['name']}", calls["n"])

  predict = inference.bind(trainer, on_call=on_call)
  for name, cfg in config.evals.items():
    input_pipeline.check_cut(config.input.data, cfg.get("data", {}), where=f"config.evals.{name}")
  evaluators = make_evaluators(config, predict, mesh, workdir, total=total, units=units)

  @functools.cache
  def program(phase, active):
    step = train_step.make_update(
      trainer, opt, accum=config.accum_steps, total=total, phase=phase, active=active,
      max_skipped=config.optimizer.get("max_skipped", 0),
    )  # fmt: skip
    out = (shardings, sharding.replicated(mesh))
    return jax.jit(step, donate_argnums=0, out_shardings=out)

  def update(step):
    """The program of the step that begins after `step` steps."""
    return program(train_step.phase(trainer, step, max(total, 1)), opt.active(step))

  stopped = lambda ctl: bool(
    config.plateau and config.plateau.stop_after and ctl["bad_evals"] >= config.plateau.stop_after
  )
  faults = input_pipeline.BadShare(config.input.get("max_bad_share", 0.01))
  checked, last_row, began = first, {}, time.monotonic()

  def write_row(step, device_metrics, *, row=True, evals=()):
    """Fetches the metrics of `step`, checks them, writes its row with the evaluators' values."""
    nonlocal checked, last_row, state
    values = {k: float(v) for k, v in jax.device_get(device_metrics).items()}
    skipped, limit = values.get("skipped", 0), config.optimizer.get("max_skipped", 0)
    left_out = limit and not math.isfinite(values["grad_norm"])  # and counted
    bad = not (math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"]))
    if skipped > limit or (bad and not left_out):
      saver.wait()
      raise FloatingPointError(
        f"The loss or its gradient is not finite between steps {checked + 1} and {step} (loss "
        f"{values['loss']}, gradient norm {values['grad_norm']}, {skipped:.0f} updates left out). "
        f"The last good checkpoint is step {saver.latest()}. Lower the learning rate, clip, or "
        f"look at the data there."
      )
    checked = step
    if not row:
      return
    writer.step_start(step)
    for k, v in values.items():
      writer.measure(f"train/{k}", v)
    for k, v in {**chrono.tick(step), "z/bad_share": faults.share}.items():
      writer.measure(k, v)
    measured = {}

    def measure(names):
      with chrono.pause("eval"):
        for name in names:
          calls.update(name=name, n=0)
          for k, v in evaluators[name][1].run(state):
            measured[metrics.evaluator_row(name, k)] = v

    measure(evals)
    if config.plateau and config.plateau.metric in measured:
      state["ctl"] = train_step.steer(state["ctl"], measured[config.plateau.metric], config.plateau)
      if stopped(jax.device_get(state["ctl"])):  # what waits for the end of the run has to come now
        measure([name for name in evaluators if name not in evals])
    for k, v in measured.items():
      writer.measure(k, v)
    last_row = writer.step_end() or {"step": step, **values}
    for wanted in filter(None, (saver.best, config.plateau and config.plateau.metric)):
      if wanted not in last_row and any(wanted.startswith(f"val/{n}/") for n in evals):
        raise ValueError(f"config: no metric {wanted!r}. {C.nearest(wanted, last_row)}")
    progress.row(last_row)

  def save(step):
    with chrono.pause("checkpoint"):
      best = {k: v for k, v in last_row.items() if k == saver.best and last_row["step"] == step}
      saver.save(step, {k: v for k, v in state.items() if k != "frozen"}, {"step": step}, best)

  pending = None
  with contextlib.ExitStack() as stack:
    stack.callback(progress.close)
    stack.callback(writer.close)
    stop = stack.enter_context(stop_signals())
    profiler = clock.Profiler(config.profile, workdir)
    stack.callback(profiler.close)
    if total == 0:
      rows = batch_size // jax.process_count()
      mine = slice(jax.process_index() * rows, (jax.process_index() + 1) * rows)
      part = {k: v[mine] for k, v in sample.items()}
      batch = input_pipeline.put(part, sharding.batch_sharding(mesh))
      _, values = update(first)(jax.tree.map(jnp.copy, state), batch, base_key)
      write_row(0, values, evals=evaluators)
      saver.close()
      return last_row
    done = first >= total or stopped(jax.device_get(state["ctl"]))
    if done:
      progress.message(f"{workdir} is complete at step {first}; nothing to do.")
      saver.close()
      found = metrics.read_rows(writer.path) if main else []
      return found[-1] if found else {}
    batches = stack.enter_context(contextlib.closing(input_pipeline.train_batches(
      config.input, seed=config.seed, start_step=first,
      process_index=jax.process_index(), process_count=jax.process_count())))  # fmt: skip
    for step in range(first + 1, total + 1):
      profiler.step(step)
      host_batch = next(batches)
      failed_log.add(step, faults.update(host_batch))
      batch = input_pipeline.put(inference.numeric(host_batch), sharding.batch_sharding(mesh))
      with jax.transfer_guard("disallow"):
        state, device_metrics = update(step - 1)(state, batch, base_key)
      if step == first + 1:
        jax.block_until_ready(device_metrics)
        chrono.started(step)
      # The values of a log step are fetched when the next step is already under way.
      if pending:
        write_row(*pending)
        pending = None
      is_last = step == total
      evals = [n for n, (e, _) in evaluators.items() if clock.itstime(step, e, total, first=False)]
      is_log = bool(evals) or clock.itstime(step, log_every, total)
      is_ckpt = clock.itstime(step, ckpt_every, total, first=False)
      # The best is saved only if it is saved where it is measured.
      is_ckpt |= bool(saver.best) and any(saver.best.startswith(f"val/{n}/") for n in evals)
      if jax.process_count() > 1 and saver.manager.reached_preemption(step):
        stop.append("preemption")
      if evals or is_ckpt or is_last or stop:
        write_row(step, device_metrics, row=is_log, evals=evals)
      elif is_log:
        pending = (step, device_metrics)
      early = bool(evals) and stopped(jax.device_get(state["ctl"]))
      if is_ckpt or is_last or stop or early:
        save(step)
      progress.update(step)
      if stop or early:
        progress.message(
          f"Stopped by {stop[0]} at step {step}; the same command resumes from here."
          if stop
          else f"Stopped at step {step}: {config.plateau.metric} has not improved; the run is over."
        )
        break
    with chrono.pause("checkpoint"):
      saver.close()
    progress.message(summary(chrono, began))
  return last_row


def summary(chrono, began: float) -> str:
  """Where the time of the run went."""
  secs = time.monotonic() - began
  startup = chrono.startup_secs or 0.0
  paused = ", ".join(f"{k} {v:.1f} s" for k, v in chrono.paused.items()) or "nothing"
  return f"Start-up (command to first step) {startup:.1f} s; loop {secs:.1f} s, of it {paused}."
