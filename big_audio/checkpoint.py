"""Checkpoints: asynchronous, atomic, restorable on another device count. The only user of orbax.

workdir/checkpoints/<step>/   state (all that advances) + meta (JSON)
workdir/frozen/               frozen parameters, written once, with the sha256 of what they are
"""

import json
import logging
import os
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

from big_audio import config as C
from big_audio import metrics, trees


class CheckpointError(OSError):
  """A checkpoint could not be written or read; the message names the last good one."""


def _worth_telling(record: logging.LogRecord) -> bool:
  """False for what tells a user nothing.

  Tracebacks of orbax's threads: the same failure is raised as CheckpointError. And that a folder
  inside of a checkpoint has no metadata of its own: it never has.
  """
  if "_CHECKPOINT_METADATA" in record.getMessage() and record.levelno < logging.ERROR:
    return False
  of_orbax = f"{os.sep}orbax{os.sep}" in record.pathname and record.levelno >= logging.ERROR
  return not of_orbax and "_GatheringFuture exception was never retrieved" not in str(record.msg)


for _name in ("absl", "asyncio"):
  logging.getLogger(_name).addFilter(_worth_telling)


def _folder(workdir: str) -> str:
  return os.path.join(os.path.abspath(workdir), "checkpoints")


def claim_workdir(config, workdir: str) -> None:
  """Stores the config in a new workdir; one that holds a run must hold it with the same config.

  A start that failed before its first row, on a mistyped folder for instance, leaves no run.

  Raises:
    ValueError: the workdir belongs to another config, with the differences.
  """
  os.makedirs(workdir, exist_ok=True)
  path = os.path.join(workdir, "config.json")
  rows, saved = os.path.join(workdir, metrics.FILE), os.path.join(workdir, "checkpoints")
  begun = os.path.isfile(rows) and os.path.getsize(rows) > 0
  begun |= os.path.isdir(saved) and any(name.isdigit() for name in os.listdir(saved))
  if begun and os.path.exists(path):
    differences = {
      k: v
      for k, v in C.diff(C.load(path), config).items()
      if trees.first_match(k, C.RESUME_MAY_DIFFER) is None
    }
    if differences:
      lines = "\n".join(f"  {k}: stored {a!r}, now {b!r}" for k, (a, b) in differences.items())
      raise ValueError(
        f"{workdir} belongs to another config:\n{lines}\n"
        f"Use another --workdir, or --config {path} to go on with the stored one."
      )
  if jax.process_index() == 0:
    with open(path + ".tmp", "w") as f:
      json.dump(C.to_dict(config), f, indent=2)
    os.replace(path + ".tmp", path)


class Checkpointer:
  """Writes and restores the state of a run.

  Three policies keep checkpoints independently: the latest N, every K-th step, and the best by a
  metric. Resume always takes the latest.

  Args:
    workdir: of the run.
    keep_latest: how many of the latest to keep.
    keep_every_steps: keep multiples of this step too (None: no).
    best: name of a metric such as "val/val/loss"; the best checkpoint by it is kept (None: no).
    best_mode: "min" or "max".
  """

  def __init__(
    self,
    workdir: str,
    *,
    keep_latest: int = 2,
    keep_every_steps: int | None = None,
    best: str | None = None,
    best_mode: str = "min",
  ):
    if keep_latest < 1:
      raise ValueError(f"config.ckpt.keep_latest must be >= 1, got {keep_latest}.")
    if best_mode not in ("min", "max"):
      raise ValueError(f'config.ckpt.best_mode must be "min" or "max", got {best_mode!r}.')
    policies: list[Any] = [keep.LatestN(keep_latest)]
    if keep_every_steps:
      policies.append(keep.EveryNSteps(keep_every_steps))
    if best:
      worst = float("inf") if best_mode == "min" else float("-inf")
      policies.append(
        keep.BestN(
          n=1,
          get_metric_fn=lambda m: m.get(best, worst),
          reverse=best_mode == "min",
          keep_checkpoints_without_metrics=False,
        )
      )
    self.best = best
    self.manager = ocp.CheckpointManager(
      _folder(workdir),
      options=ocp.CheckpointManagerOptions(
        preservation_policy=keep.AnyPreservationPolicy(policies),
        cleanup_tmp_directories=True,
        enable_async_checkpointing=True,
        step_prefix=None,
      ),
    )

  def latest(self) -> int | None:
    """The last complete step, or None."""
    return self.manager.latest_step()

  def save(self, step: int, state: Mapping[str, Any], meta: Mapping, metrics: Mapping) -> None:
    """Starts an asynchronous save (a step that is saved already is left alone).

    Raises:
      CheckpointError: this save, or the one before it, failed (a full disk, for example).
    """
    if self.latest() == step:
      return
    try:
      self.manager.check_for_errors()
      # Orbax answers False where it would not save: then nothing was written.
      done = self.manager.save(
        step,
        args=ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)),
        metrics=dict(metrics),
        force=True,
      )
    except Exception as e:
      raise self._failed(step, e) from e
    if not done:
      raise CheckpointError(f"Checkpoint {step} was refused; {self._last_good()}")

  def wait(self) -> None:
    """Blocks until the save in flight is complete; raises CheckpointError if it failed."""
    try:
      self.manager.wait_until_finished()
      self.manager.check_for_errors()
    except Exception as e:
      raise self._failed(None, e) from e

  def restore(self, target: Mapping[str, Any]) -> tuple[int, dict, dict]:
    """(step, state, meta) of the latest checkpoint that can be read.

    Later ones that cannot are moved to workdir/unreadable/, out of the way of the saves to come.

    Args:
      target: ShapeDtypeStructs with the shardings that the restored arrays shall have.

    Raises:
      CheckpointError: there are checkpoints, but none fits or can be read.
    """
    errors = []
    # A kill while an old step is being deleted leaves it listed but incomplete.
    for step in sorted(self.manager.all_steps(), reverse=True):
      try:
        out = self.manager.restore(
          step,
          args=ocp.args.Composite(
            state=ocp.args.StandardRestore(target), meta=ocp.args.JsonRestore()
          ),
        )
        self._set_aside(step)
        return step, out["state"], out["meta"]
      except Exception as e:
        errors.append(f"step {step}: {str(e).strip().splitlines()[0][:300]}")
        print(f"Checkpoint {step} cannot be restored, trying the one before it. {errors[-1]}")
    raise CheckpointError("No checkpoint could be restored. " + "; ".join(errors))

  def _set_aside(self, step: int) -> None:
    """Moves the checkpoints behind `step` away: orbax would refuse to save their steps again."""
    later = [s for s in self.manager.all_steps() if s > step]
    if not later:
      return
    if jax.process_index() == 0:
      folder = os.path.join(os.path.dirname(str(self.manager.directory)), "unreadable")
      os.makedirs(folder, exist_ok=True)
      for s in later:
        source = os.path.join(str(self.manager.directory), str(s))
        os.rename(source, os.path.join(folder, f"{s}_{time.time_ns()}"))
    if jax.process_count() > 1:
      multihost_utils.sync_global_devices("unreadable checkpoints are set aside")
    self.manager.reload()

  def close(self) -> None:
    """Waits for the save in flight and releases the threads."""
    self.wait()
    self.manager.close()

  def _last_good(self) -> str:
    steps = sorted(int(s) for s in os.listdir(self.manager.directory) if s.isdigit())
    return f"the last good checkpoint is step {steps[-1]}." if steps else "there is none yet."

  def _failed(self, step: int | None, e: Exception) -> CheckpointError:
    name = "The checkpoint in flight" if step is None else f"Checkpoint {step} or the one before it"
    text = str(e)
    full = "No space left" in text or "ENOSPC" in text or getattr(e, "errno", None) == 28
    why = (
      "the disk is full. Free some space" if full else f"{type(e).__name__}: {text[:500]}. Mend it"
    )
    return CheckpointError(
      f"{name} in {self.manager.directory} could not be written: {why}, then run the same command "
      f"again; {self._last_good()}"
    )


def save_frozen(workdir: str, frozen: Mapping[str, Any]) -> str:
  """Writes frozen parameters once and returns their sha256; later calls only compare.

  Raises:
    CheckpointError: the workdir holds other frozen parameters.
  """
  digest = trees.sha256(frozen)
  path = os.path.join(os.path.abspath(workdir), "frozen")
  note = os.path.join(path, "sha256.json")
  if os.path.exists(note):
    with open(note) as f:
      stored = json.load(f)["sha256"]
    if stored != digest:
      raise CheckpointError(
        f"{path} holds other frozen parameters ({stored[:12]} != {digest[:12]})."
      )
    return digest
  with ocp.StandardCheckpointer() as ckptr:
    ckptr.save(os.path.join(path, "params"), frozen, force=True)
  if jax.process_index() == 0:
    with open(note, "w") as f:
      json.dump({"sha256": digest}, f)
  return digest


def restore_frozen(workdir: str, target: Mapping[str, Any]) -> dict:
  """Frozen parameters of a workdir, verified against their sha256.

  Raises:
    CheckpointError: they are missing or were changed.
  """
  path = os.path.join(os.path.abspath(workdir), "frozen")
  try:
    with open(os.path.join(path, "sha256.json")) as f:
      stored = json.load(f)["sha256"]
    with ocp.StandardCheckpointer() as ckptr:
      out = ckptr.restore(os.path.join(path, "params"), target)
  except (OSError, ValueError) as e:
    raise CheckpointError(f"Frozen parameters cannot be read from {path}: {e}") from e
  if (digest := trees.sha256(out)) != stored:
    raise CheckpointError(f"{path} was changed: sha256 {digest[:12]} instead of {stored[:12]}.")
  return out


def load_arrays(workdir: str, step: int | str | None = None) -> tuple[int, dict]:
  """A checkpoint as a nested dict of numpy arrays, whatever devices wrote it.

  Only params, ema, vars and step are read, not the optimizer; frozen parameters are merged into
  both parameter trees.

  Args:
    workdir: of the run.
    step: of the checkpoint; None the latest; "best" that of the best `config.ckpt.best`.

  Raises:
    ValueError: no such workdir or step, with the steps that there are; or nothing tells the best.
  """
  folder = _folder(workdir)
  names = os.listdir(folder) if os.path.isdir(folder) else []
  steps = sorted(int(s) for s in names if s.isdigit())
  if not steps:
    raise ValueError(f"{workdir!r} holds no checkpoints/<step>; is it the workdir of a run?")
  if step == "best":
    step = _best(workdir, steps)
  if step is not None and step not in steps:
    raise ValueError(f"{workdir!r} has no checkpoint {step}. {C.nearest(str(step), steps)}")
  step = steps[-1] if step is None else step
  path = os.path.join(folder, str(step), "state")
  reader = ocp.PyTreeCheckpointer()
  shapes = reader.metadata(path).item_metadata.tree
  item = {k: v for k, v in shapes.items() if k in ("params", "ema", "vars", "step")}
  args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
  out = reader.restore(
    path, args=ocp.args.PyTreeRestore(item=item, restore_args=args, partial_restore=True)
  )
  state = {k: out.get(k) or {} for k in ("params", "ema", "vars")}
  frozen_path = os.path.join(os.path.abspath(workdir), "frozen", "params")
  if os.path.isdir(frozen_path):
    shapes = reader.metadata(frozen_path).item_metadata.tree
    args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
    frozen = reader.restore(frozen_path, args=ocp.args.PyTreeRestore(restore_args=args))
    state["params"] = trees.merge(state["params"], frozen)
  return step, state


def _best(workdir, steps):
  """The step of `steps` whose row has the best `config.ckpt.best`."""
  ckpt = C.load(os.path.join(workdir, "config.json")).ckpt
  name = ckpt.get("best", None)
  if not name:
    raise ValueError(f"{workdir!r}: no checkpoint is the best, since config.ckpt.best is not set.")
  path = os.path.join(workdir, metrics.FILE)
  rows = metrics.read_rows(path) if os.path.isfile(path) else []
  found = {r["step"]: r[name] for r in rows if r["step"] in steps and name in r}
  if not found:
    raise ValueError(f"{workdir!r}: no checkpoint was saved where {name!r} was measured.")
  return (max if ckpt.get("best_mode", "min") == "max" else min)(found, key=found.get)
