"""Timing of alternatives side by side, robust against a machine whose speed drifts."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

Row = dict[str, Any]
# Dense bfloat16 FLOP/s of a device as its maker states them, by a part of `device_kind`; the first
# that fits. Steps in float32 can reach less.
PEAK_FLOPS = {
  "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L4": 121e12,
  "V100": 125e12, "TPU v6": 918e12, "TPU v5p": 459e12, "TPU v5": 197e12, "TPU v4": 275e12,
  "TPU v3": 123e12, "TPU v2": 45e12,
}  # fmt: skip


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
  """Rows as aligned text, one block a group; columns that a bench adds itself are shown as well.

  A row is timed (see `interleaved`), unavailable, or has a "value" and its "unit".
  """
  known = {"group", "name", "rounds", "unavailable", "wall_ms", "cpu_ms", "wall_ratio", "cpu_ratio",
           "value", "unit"}  # fmt: skip
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
      if "value" in row:
        lines.append(f"  {row['name']:<{width}}  {_short(row['value']):>8} {row['unit']}{extra}")
        continue
      lines.append(
        f"  {row['name']:<{width}}  wall {row['wall_ms']:9.3f} ms x{row['wall_ratio']:5.2f}"
        f"   cpu {row['cpu_ms']:9.3f} ms x{row['cpu_ratio']:5.2f}{extra}"
      )
  return "\n".join(lines)


def flop(compiled) -> float | None:
  """FLOP of one call of `jax.jit(...).lower(...).compile()` by XLA's count; None: it has none."""
  cost = compiled.cost_analysis() or {}
  cost = cost[0] if isinstance(cost, list) else cost
  return float(cost["flops"]) if cost.get("flops", 0) > 0 else None


def throughput(wall_ms: float, flop: float | None) -> Row:
  """Columns of a step: per second, FLOP, their share of the device's peak, and its memory.

  Args:
    wall_ms: of a step.
    flop: of a step on one device, see `flop`; None leaves out what follows from it.

  Returns:
    {"steps_per_sec", "gflop", "gflop_per_sec", "mfu" (or "peak unknown"), "mib" (of devices that
    count their memory; the largest since the program began)}.
  """
  device, per_sec = jax.devices()[0], 1e3 / wall_ms
  row: Row = {"steps_per_sec": per_sec}
  if flop:
    peak = next((v for k, v in PEAK_FLOPS.items() if k in device.device_kind), None)
    row |= {"gflop": flop / 1e9, "gflop_per_sec": flop * per_sec / 1e9}
    row["mfu"] = flop * per_sec / peak if peak else "peak unknown"
  used = (device.memory_stats() or {}).get("peak_bytes_in_use")
  return row if used is None else {**row, "mib": used / 2**20}


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
