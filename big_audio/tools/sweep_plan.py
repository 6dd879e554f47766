"""What a sweep consists of: the runs of a sweep file, their names, commands and trials.

A sweep file has `ARGS` and `get_sweep(arg)` (as configs have get_config), which returns a dict of

  config   the config file
  fixed    {setting: value} of all runs
  grid     {setting: [values]}, all combinations; or a list of such dicts, one after the other
  search   {setting: range}, in place of grid: [choices], dict(log=[a, b]), dict(uniform=[a, b]) or
           dict(int=[a, b]), ends included; with metric (a name in the rows) and mode (min or max)

A setting is an argument of the config, or `config.a.b` for an override.
"""

import hashlib
import itertools
import json
import math
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from big_audio import config as C

KEYS = ("config", "fixed", "grid", "search", "metric", "mode")
_RANGES = ("log", "uniform", "int")
_NAME = 120


@dataclass(frozen=True)
class Run:
  """One run: its name (of the workdir), the config's spec and the overrides."""

  name: str
  spec: str
  overrides: tuple[str, ...]
  settings: Mapping[str, Any]

  def load(self):
    """The config; raises a ValueError for settings that do not fit."""
    return C.load(self.spec, self.overrides)

  def command(self, root: str) -> str:
    """The shell command that trains it."""
    words = ["python", "train.py", "--config", self.spec]
    words += ["--workdir", os.path.join(root, self.name)]
    return shlex.join([*words, *(f"--config.{o}" for o in self.overrides)])


def read(spec: str) -> dict:
  """The sweep of `file.py[:arguments]`, checked.

  Raises:
    ValueError: no such file, unknown keys or ranges, or neither or both of grid and search.
  """
  path, _, arg = spec.partition(":")
  where = f"sweep {path}"
  if not os.path.isfile(path):
    folder = os.path.dirname(path) or "."
    there = os.listdir(folder) if os.path.isdir(folder) else []
    hint = C.nearest(os.path.basename(path), [f for f in there if f.endswith(".py")])
    raise ValueError(f"{where}: no such file. {hint}")
  module = C.run_file(path)
  if not hasattr(module, "get_sweep"):
    raise ValueError(f"{where}: expected a function get_sweep(arg).")
  sweep = dict(module.get_sweep(arg))
  for key in sweep:
    if key not in KEYS:
      raise ValueError(f"{where}: unknown key {key!r}. {C.nearest(key, KEYS)}")
  if "config" not in sweep:
    raise ValueError(f"{where}: the key 'config' is missing.")
  if ("grid" in sweep) == ("search" in sweep):
    raise ValueError(f"{where}: expected one of grid and search.")
  if not os.path.isfile(sweep["config"]):
    beside = os.path.join(C.repo_root(), sweep["config"])
    sweep["config"] = beside if os.path.isfile(beside) else sweep["config"]
  sweep.setdefault("fixed", {})
  for key, values in sweep.get("search", {}).items():
    _check_range(where, key, values)
  if "search" in sweep and (
    "metric" not in sweep or sweep.get("mode", "min") not in ("min", "max")
  ):
    raise ValueError(f'{where}: a search needs metric="val/..." and mode="min" or "max".')
  return sweep


def _check_range(where, key, values):
  if isinstance(values, (list, tuple)) and values:
    return
  if isinstance(values, Mapping) and len(values) == 1:
    ((kind, ends),) = values.items()
    if kind in _RANGES and len(ends) == 2 and ends[0] < ends[1] and (kind != "log" or ends[0] > 0):
      return
  raise ValueError(
    f"{where}: search[{key!r}] = {values!r}: expected a list of choices, or one of "
    "dict(log=[a, b]), dict(uniform=[a, b]), dict(int=[a, b]) with a < b."
  )


def text(value: Any) -> str:
  """A value as a command line writes it."""
  return str(value).lower() if isinstance(value, bool) else str(value)


def make_run(sweep: Mapping, settings: Mapping[str, Any], *, shown, prefix: str = "") -> Run:
  """The run of some settings, named by those in `shown`.

  Raises:
    ValueError: an argument whose value has a comma.
  """
  whole = {**sweep["fixed"], **settings}
  arguments, overrides = [], []
  for key, value in whole.items():
    if key.startswith("config."):
      overrides.append(f"{key.removeprefix('config.')}={text(value)}")
      continue
    if "," in text(value):
      raise ValueError(f"sweep: {key}={value!r}: an argument of a config cannot hold a comma.")
    arguments.append(f"{key}={text(value)}")
  spec = sweep["config"] + (":" + ",".join(arguments) if arguments else "")
  return Run(prefix + _name(settings, shown), spec, tuple(overrides), dict(whole))


def _name(settings, shown):
  short = lambda k: k.removeprefix("config.")
  parts = [f"{short(k)}={_value(v)}" for k, v in settings.items() if k in shown]
  raw = ",".join(parts) or "run"
  safe = re.sub(r"[^A-Za-z0-9._=,+-]+", "_", raw)
  if safe != raw or len(safe) > _NAME:  # two settings must not share a name
    digest = hashlib.sha256(json.dumps(settings, default=str).encode()).hexdigest()[:8]
    safe = f"{safe[:_NAME]}-{digest}"
  return safe


def _value(v):
  return f"{v:.4g}" if isinstance(v, float) and float(f"{v:.4g}") == v else text(v)


def grid_runs(sweep: Mapping) -> list[Run]:
  """All runs of a grid; equal ones once."""
  grids = sweep["grid"] if isinstance(sweep["grid"], (list, tuple)) else [sweep["grid"]]
  found = []
  for grid in grids:
    for key, values in grid.items():
      if not isinstance(values, (list, tuple)) or not values:
        raise ValueError(f"sweep: grid[{key!r}] = {values!r}: expected a list of values.")
    found += [dict(zip(grid, vs, strict=True)) for vs in itertools.product(*grid.values())]
  unique = {}
  for settings in found:
    unique.setdefault(json.dumps(settings, sort_keys=True, default=str), settings)
  found = list(unique.values())
  # What is the same in all runs says nothing in a name.
  keys = list(dict.fromkeys(k for s in found for k in s))
  value_of = lambda s, k: json.dumps(s.get(k, "(absent)"), default=str)
  shown = {k for k in keys if len({value_of(s, k) for s in found}) > 1} or set(keys)
  return [make_run(sweep, s, shown=shown) for s in found]


def random_settings(sweep: Mapping, seed: int, trial: int) -> dict:
  """The settings of a trial: a function of (seed, trial), whatever was run before."""
  out = {}
  for n, (key, values) in enumerate(sorted(sweep["search"].items())):
    rng = np.random.default_rng([seed, trial, n])
    if not isinstance(values, Mapping):
      out[key] = values[int(rng.integers(len(values)))]
      continue
    ((kind, (a, b)),) = values.items()
    if kind == "int":
      out[key] = int(rng.integers(a, b + 1))
    elif kind == "uniform":
      out[key] = float(f"{rng.uniform(a, b):.4g}")
    else:
      out[key] = float(f"{math.exp(rng.uniform(math.log(a), math.log(b))):.4g}")
  return out


class Tpe:
  """Optuna's tree-structured Parzen estimator, fed with the trials that a status file holds."""

  def __init__(self, sweep: Mapping, seed: int):
    try:
      import optuna
    except ImportError as e:
      raise ImportError(
        "--search tpe needs the package optuna: `uv sync --extra sweep` or "
        "`pip install -e '.[sweep]'`. --search random does without."
      ) from e
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    self._optuna, d = optuna, optuna.distributions
    self._choices, self.space = {}, {}
    for key, values in sorted(sweep["search"].items()):
      if not isinstance(values, Mapping):
        self._choices[key] = list(values)  # by position: optuna stores plain values only
        self.space[key] = d.CategoricalDistribution(list(range(len(values))))
        continue
      ((kind, (a, b)),) = values.items()
      whole = kind == "int"
      self.space[key] = (
        d.IntDistribution(a, b) if whole else d.FloatDistribution(a, b, log=kind == "log")
      )
    mode = "maximize" if sweep.get("mode", "min") == "max" else "minimize"
    self._mode, self._seed, self._seen = mode, seed, []

  def add(self, settings: Mapping, value: float | None) -> None:
    """Tells a finished trial; None for a failed one, which only takes a number."""
    self._seen.append((settings, value))

  def ask(self) -> dict:
    """The next settings: a function of the seed and what was added."""
    # A study made anew for each trial: so a resumed search asks what an unbroken one would.
    sampler = self._optuna.samplers.TPESampler(seed=self._seed + len(self._seen))
    study = self._optuna.create_study(direction=self._mode, sampler=sampler)
    for settings, value in self._seen:
      if value is not None and math.isfinite(value):
        params = {
          k: self._choices[k].index(settings[k]) if k in self._choices else settings[k]
          for k in self.space
        }
        study.add_trial(
          self._optuna.trial.create_trial(params=params, distributions=self.space, value=value)
        )
    asked = study.ask(self.space).params
    rounded = lambda v: float(f"{v:.4g}") if isinstance(v, float) else v
    return {k: self._choices[k][v] if k in self._choices else rounded(v) for k, v in asked.items()}
