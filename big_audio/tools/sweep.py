"""Trains the runs of a sweep file: a grid, or a random or TPE search. Resumable.

  python -m big_audio.tools.sweep configs/sweeps/meanflow_matrix.py:smoke --root runs/matrix
  python -m big_audio.tools.sweep configs/sweeps/meanflow_matrix.py --root runs/matrix --print
  python -m big_audio.tools.sweep configs/sweeps/meanflow_search.py --root runs/search \\
    --search tpe --trials 30

With --status it prints what became of the runs, with --print the commands, and trains nothing.
Every run has a workdir below ROOT, named by its settings; ROOT/sweep.jsonl keeps their states. The
same command goes on: finished runs are skipped, stopped ones resume as train.py does. A run that
fails does not end the sweep; the exit status is 1 then, and 130 after Ctrl-C. What failed of a grid
is tried again; a failed trial of a search stays one, since later trials were chosen knowing it. A
ROOT belongs to one search: another space, seed or kind needs another.

Runs share this process, so jax is imported once. --jobs N uses N processes; --fresh gives each run
a process of its own (each run's output then goes to its workdir, sweep.log).
"""

import argparse
import contextlib
import json
import math
import os
import re
import sys
from collections import Counter

from big_audio import config as C
from big_audio.tools import manifests, sweep_plan, sweep_run
from big_audio.tools import runs as runs_of

FILE = runs_of.SWEEP


class Sweep:
  """The state of a sweep in a folder.

  Args:
    sweep: of `sweep_plan.read`.
    root: the folder.
    runs: those of a grid; None for a search.
    search: "random", "tpe" or None; trials, seed: of it.
    only: a regex; only runs in whose name it is found.
  """

  def __init__(
    self, sweep, root, *, runs=None, search=None, trials=0, seed=0, only="", stream=None
  ):
    self.sweep, self.root, self._search, self._trials, self._seed = (
      sweep, root, search, trials, seed
    )  # fmt: skip
    self.rows = {r["name"]: r for r in manifests.read(self.path, missing_ok=True)}
    self._stream = stream or sys.stderr
    self._only = re.compile(only)
    self._grid, self._given = runs, 0
    self._queue = None if runs is None else [r for r in runs if self._wanted(r)]
    self._file = None

  @property
  def path(self) -> str:
    """The file with what became of each run."""
    return os.path.join(self.root, FILE)

  def _wanted(self, run):
    row = self.rows.get(run.name)
    done = row and row["state"] == sweep_run.DONE and row["settings"] == _plain(run.settings)
    return not done and bool(self._only.search(run.name))

  @property
  def left(self) -> int:
    """How many runs are to be made."""
    if self._queue is not None:
      return len(self._queue)
    done = [r for r in self.rows.values() if r["state"] in (sweep_run.DONE, sweep_run.FAILED)]
    return max(0, self._trials - len(done))

  def _plan(self):
    """What trials of one search share, as JSON gives it back."""
    config = os.path.relpath(os.path.abspath(self.sweep["config"]), C.repo_root())
    plan = {k: self.sweep.get(k) for k in ("fixed", "search", "metric", "mode")}
    plan |= dict(config=config, kind=self._search, seed=self._seed)
    return json.loads(json.dumps(plan, default=str))

  def check(self) -> None:
    """Raises a ValueError if a search finds runs in its folder that are none of its trials."""
    for row in self.rows.values() if self._search else ():
      if "trial" not in row:
        raise ValueError(f"{self.root} holds {row['name']}, a run of a grid. Take another --root.")
      differ = C.diff(row.get("plan") or {}, self._plan())
      if differ:
        lines = "\n".join(f"  {k}: there {a!r}, now {b!r}" for k, (a, b) in differ.items())
        raise ValueError(
          f"{self.root} holds trials of another search:\n{lines}\n"
          "Take another --root, or the same file and flags."
        )

  def next_run(self):
    """The next run, or None."""
    if self._queue is not None:
      return self._queue.pop(0) if self._queue else None
    while self._given < self._trials:
      n, self._given = self._given, self._given + 1
      old = next((r for r in self.rows.values() if r.get("trial") == n), None)
      if old and old["state"] in (sweep_run.DONE, sweep_run.FAILED):
        continue
      shown = set(self.sweep["search"])
      settings = {k: old["settings"][k] for k in shown} if old else self._ask(n)
      settings = {k: settings[k] for k in self.sweep["search"]}
      return sweep_plan.make_run(self.sweep, settings, shown=shown, prefix=f"trial{n:03},")
    return None

  def _ask(self, n):
    if self._search == "random":
      return sweep_plan.random_settings(self.sweep, self._seed, n)
    tpe = sweep_plan.Tpe(self.sweep, self._seed)
    finished = [r for r in self.rows.values() if r["state"] in (sweep_run.DONE, sweep_run.FAILED)]
    for row in sorted(finished, key=lambda r: r["trial"]):
      tpe.add(row["settings"], self.value(row))
    return tpe.ask()

  def value(self, row) -> float | None:
    """The searched metric of a finished run; None of a failed one."""
    if row["state"] != sweep_run.DONE:
      return None
    found = row["row"].get(self.sweep["metric"])  # absent where --status looks at another search
    return float(found) if found is not None and math.isfinite(float(found)) else None

  def report(self, run, result) -> None:
    """Notes that a run begins (result None) or what became of it."""
    row = dict(name=run.name, state="running", error=None, settings=_plain(run.settings),
               workdir=run.name, spec=run.spec, overrides=list(run.overrides))  # fmt: skip
    if self._search:
      row.update(trial=int(run.name[5:].split(",")[0]), plan=self._plan())
    if result is not None:
      row.update(result)
      metric = self.sweep.get("metric")
      if self._search and row["state"] == sweep_run.DONE and metric not in row["row"]:
        hint = C.nearest(metric, row["row"])
        row.update(state=sweep_run.FAILED, error=f"ValueError: no metric {metric!r}. {hint}")
    self.rows[run.name] = row
    self._file.add(row)
    if result is None:
      self._say(f"== {run.name}")
    else:
      error = f": {row['error']}" if row["error"] else ""
      self._say(f"== {run.name}: {row['state']} in {row['secs']} s{error}; {self.left} left")

  def _say(self, text):
    print(text, file=self._stream, flush=True)

  def run(self, *, jobs=1, fresh=False) -> bool:
    """Trains what is left; whether it came to its end (no signal).

    Raises:
      ValueError: no run's config loads.
    """
    os.makedirs(self.root, exist_ok=True)
    bad = sweep_run.check(self._queue or [])
    if bad and len(bad) == len(self._queue) and not self.rows:
      name, why = next(iter(bad.items()))
      raise ValueError(f"none of the {len(bad)} runs has a config that loads. {name}: {why}")
    with manifests.Appender(self.path, key="name") as self._file:
      for run in [r for r in self._queue or [] if r.name in bad]:
        self._queue.remove(run)
        failed = dict(state=sweep_run.FAILED, error=bad[run.name], secs=0.0, step=None, row={})
        self.report(run, failed)
      if jobs == 1 and not fresh:
        return sweep_run.run_here(self.next_run, self.report, self.root)
      return sweep_run.run_workers(self.next_run, self.report, self.root, jobs, fresh)

  def table(self) -> str:
    """What became of each run, as text."""
    names = list(self.rows) if self._grid is None else [r.name for r in self._grid]
    names = [n for n in names if self._only.search(n)]
    if not names:
      return "no runs yet"
    width, lines = max(map(len, names)), []
    for name in names:
      row = self.rows.get(name, dict(state="-"))
      facts = f"{row.get('secs') or 0:8.1f} s  step {row.get('step') or '-'}"
      metric = self.sweep.get("metric")
      if metric and metric in row.get("row", {}):
        facts += f"  {metric} {row['row'][metric]:.4g}"
      error = (row.get("error") or "").splitlines()
      lines.append(f"{name:<{width}}  {row['state']:<8}{facts}  {error[0][:100] if error else ''}")
    counts = Counter(self.rows[n]["state"] if n in self.rows else "not begun" for n in names)
    lines = [line.rstrip() for line in lines]
    if self._search and (best := self.best()):
      lines.append(f"best: {best['name']}, {self.sweep['metric']} {self.value(best):.6g}")
    return "\n".join([*lines, ", ".join(f"{n} {state}" for state, n in counts.items())])

  def best(self) -> dict | None:
    """The row of the best trial."""
    found = [r for r in self.rows.values() if self.value(r) is not None]
    sign = -1 if self.sweep.get("mode") == "max" else 1
    return min(found, key=lambda r: sign * self.value(r)) if found else None

  def failed(self) -> list[str]:
    """Names of the runs that failed."""
    names = self.rows if self._grid is None else {r.name for r in self._grid}
    return [n for n, r in self.rows.items() if n in names and r["state"] == sweep_run.FAILED]


def _plain(settings):
  """Settings as JSON gives them back."""
  return C.to_dict(settings)


def parser() -> argparse.ArgumentParser:
  """The command line."""
  p = argparse.ArgumentParser(
    prog="python -m big_audio.tools.sweep", description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )  # fmt: skip
  p.add_argument("sweep", metavar="FILE.py[:ARGUMENTS]", help="see big_audio/tools/sweep_plan.py")
  p.add_argument("--root", required=True, help="folder of the workdirs")
  p.add_argument("--print", action="store_true", help="print the commands, run nothing")
  p.add_argument("--status", action="store_true", help="print what became of the runs")
  p.add_argument("--only", default="", metavar="REGEX", help="only runs whose name has it")
  p.add_argument("--jobs", type=int, default=1, help="processes (default: runs share this one)")
  p.add_argument("--fresh", action="store_true", help="a process for each run")
  p.add_argument("--search", choices=("random", "tpe"), help="for files with `search`")
  p.add_argument("--trials", type=int, default=20, help="of a search (default 20)")
  p.add_argument("--seed", type=int, default=0, help="of a search")
  return p


def build(flags) -> Sweep:
  """The sweep that a command line describes."""
  sweep = sweep_plan.read(flags.sweep)
  try:
    re.compile(flags.only)
  except re.error as e:
    raise ValueError(f"--only {flags.only!r} is not a regular expression: {e}.") from None
  if flags.jobs < 1 or flags.trials < 1:
    raise ValueError("--jobs and --trials must be at least 1.")
  kw = dict(only=flags.only)
  if "grid" in sweep:
    if flags.search:
      raise ValueError(f"{flags.sweep} is a grid; --search needs a file with `search`.")
    return Sweep(sweep, flags.root, runs=sweep_plan.grid_runs(sweep), **kw)
  search = flags.search or "random"
  if search == "tpe":
    if flags.jobs > 1:
      raise ValueError("--search tpe learns from finished trials: use --jobs 1, or random.")
    sweep_plan.Tpe(sweep, 0)  # raises now if optuna is missing
  s = Sweep(sweep, flags.root, search=search, trials=flags.trials, seed=flags.seed, **kw)
  if not flags.status:
    s.check()
  return s


def print_commands(s: Sweep) -> int:
  """Prints a command a run; returns how many configs do not load."""
  runs = []
  while (run := s.next_run()) is not None:
    runs.append(run)
  bad = sweep_run.check(runs)
  for run in runs:
    print(f"# {run.name}: {bad[run.name]}" if run.name in bad else run.command(s.root))
  return len(bad)


def main(argv=None) -> int:
  """The command line; returns the exit status."""
  flags = parser().parse_args(argv)
  try:
    s = build(flags)
    if flags.print:
      if flags.search == "tpe":
        raise ValueError("--search tpe decides after each run; there are no commands to print.")
      return 1 if print_commands(s) else 0
    if flags.status:
      print(s.table())
      return 0
    print(f"{s.left} runs to make, in {flags.root}", file=sys.stderr)
    whole = False
    with contextlib.suppress(KeyboardInterrupt):  # between two runs; within one it is handled
      whole = s.run(jobs=flags.jobs, fresh=flags.fresh)
  except (ValueError, ImportError, OSError) as e:
    print(f"sweep: {e}", file=sys.stderr)
    return 2
  print(s.table())
  if not whole:
    print("sweep: stopped; the same command goes on from here.", file=sys.stderr)
    return 130
  return 1 if s.failed() else 0


if __name__ == "__main__":
  from absl import logging

  logging.set_verbosity(logging.WARNING)
  sys.exit(main())
