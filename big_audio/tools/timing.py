"""Timing of alternatives side by side, robust against a machine whose speed drifts."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

Row = dict[str, Any]


def interleaved(
  candidates: Mapping[str, Callable[[], Any] | str],
  rounds: int,
  *,
  group: str,
  ours: str | None = None,
) -> list[Row]:
  """Times candidates in turn (A B C A B C ...), so that all see the same moods of the machine.

  Args:
    candidates: {name: function of no arguments}; jax results are waited for. A string in place of
      a function says why that candidate is unavailable. One untimed call each comes first.
    rounds: timed calls each, 1 or more.
    group: what is measured, for the table.
    ours: the candidate of ratio 1; default the first.

  Returns:
    One row a candidate: {"group", "name", "wall_ms", "cpu_ms" (of all threads), "wall_ratio",
    "cpu_ratio" (medians over those of `ours`), "rounds"}, or {"group", "name", "unavailable"}.

  Raises:
    ValueError: no rounds, or `ours` is not an available candidate.
  """
  if rounds < 1:
    raise ValueError(f"interleaved: expected rounds of 1 or more, got {rounds}.")
  runnable = {name: fn for name, fn in candidates.items() if callable(fn)}
  ours = ours or next(iter(candidates))
  if ours not in runnable:
    raise ValueError(f"interleaved: expected ours to be one of {sorted(runnable)}, got {ours!r}.")
  for fn in runnable.values():
    jax.block_until_ready(fn())
  wall = {name: [] for name in runnable}
  cpu = {name: [] for name in runnable}
  for _ in range(rounds):
    for name, fn in runnable.items():
      wall_start, cpu_start = time.perf_counter(), time.process_time()
      jax.block_until_ready(fn())
      wall[name].append(1e3 * (time.perf_counter() - wall_start))
      cpu[name].append(1e3 * (time.process_time() - cpu_start))
  rows = []
  for name, fn in candidates.items():
    if name not in runnable:
      rows.append({"group": group, "name": name, "unavailable": fn})
      continue
    row = {"group": group, "name": name, "rounds": rounds}
    for key, times in (("wall", wall), ("cpu", cpu)):
      mine = statistics.median(times[ours])
      row[f"{key}_ms"] = statistics.median(times[name])
      row[f"{key}_ratio"] = row[f"{key}_ms"] / mine if mine > 0 else float("nan")
    rows.append(row)
  return rows


def table(rows: list[Row]) -> str:
  """Rows as aligned text, one block a group; columns that a bench adds itself are shown as well."""
  known = {"group", "name", "rounds", "unavailable", "wall_ms", "cpu_ms", "wall_ratio", "cpu_ratio"}
  lines = []
  for group in dict.fromkeys(row["group"] for row in rows):
    lines.append(group)
    members = [row for row in rows if row["group"] == group]
    width = max(len(row["name"]) for row in members)
    for row in members:
      if "unavailable" in row:
        lines.append(f"  {row['name']:<{width}}  unavailable: {row['unavailable']}")
        continue
      extra = "".join(f"  {k}={_short(v)}" for k, v in row.items() if k not in known)
      lines.append(
        f"  {row['name']:<{width}}  wall {row['wall_ms']:9.3f} ms x{row['wall_ratio']:5.2f}"
        f"   cpu {row['cpu_ms']:9.3f} ms x{row['cpu_ratio']:5.2f}{extra}"
      )
  return "\n".join(lines)


def machine() -> Row:
  """What the numbers depend on: processor count and kind, versions, device."""
  usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
  device = jax.devices()[0]
  return {
    "cpus": usable,
    "machine": platform.machine(),
    "python": platform.python_version(),
    "jax": jax.__version__,
    "device": f"{len(jax.devices())} x {device.device_kind} ({device.platform})",
  }


def _short(value: Any) -> str:
  return f"{value:.4g}" if isinstance(value, float) else str(value)
