"""Configs: arguments, loading, overrides, checks, names -> modules, durations -> steps.

A config file is a Python module with

  ARGS = dict(method=("imf", "ae"), sr=8000, smoke=False)     # tuple: the choices, default first
  def get_config(arg=""):
    a = args(arg, ARGS)
    ...
    return config                                             # an ml_collections.ConfigDict

and is named on the command line as `configs/x.py:method=ae,smoke`. A stored `config.json` may stand
in its place. The same checks run in either case, so that a typo never becomes a silent default.
"""

import ast
import difflib
import importlib
import importlib.util
import inspect
import json
import os
import sys
import tokenize
import types
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

TOP_LEVEL_KEYS = (
  "accum_steps", "ckpt", "evals", "init_from", "input", "log", "models", "optimizer", "plateau",
  "profile", "seed", "sharding", "stats_batches", "total_epochs", "total_examples", "total_steps",
  "trainer",
)  # fmt: skip
INPUT_KEYS = ("batch_size", "data", "sampler", "num_threads", "num_workers", "max_bad_share")
PLATEAU = dict(metric=None, mode="min", patience=0, factor=0.5, min_scale=0.01, stop_after=0)
UNITS = ("steps", "examples", "epochs", "percent")
# What may differ between a workdir's stored config and the one that resumes it: when things are
# written, never what is computed.
RESUME_MAY_DIFFER = (
  r"(log|ckpt|profile)(/.*)?",
  r"evals/[^/]+/log_[a-z]+",
  r"input/(num_threads|num_workers)",
)


# What a config need not say.
DEFAULTS = dict(
  seed=0,
  accum_steps=1,
  stats_batches=8,
  init_from=[],
  sharding=[[".*", "replicate"]],
  evals={},
  plateau=None,
  profile=None,
  log=dict(every_steps=50),
  ckpt=dict(every_steps=1000),
)


def nearest(name: str, names: Iterable[str]) -> str:
  """A sentence that names what the user may have meant, or what there is at all."""
  names = sorted(str(n) for n in names)
  close = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
  if close:
    return "Did you mean " + " or ".join(f'"{n}"' for n in close) + "?"
  return "Known: " + (", ".join(names[:40]) or "none") + "."


def _literal(text: str) -> Any:
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text


def _typed(where: str, text: str, default: Any) -> Any:
  """`text` as a value of the default's type; raises a ValueError that names both."""
  if isinstance(default, bool):
    if text.lower() in ("true", "1", "false", "0"):
      return text.lower() in ("true", "1")
    raise ValueError(f"{where}: expected true or false, got {text!r}.")
  if isinstance(default, str):
    return text
  value = _literal(text)
  if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
    value = float(value)
  if isinstance(default, list | tuple) and isinstance(value, list | tuple):
    value = list(value)
    default = list(default)
  if default is not None and value is not None and type(value) is not type(default):
    raise ValueError(f"{where}: expected {type(default).__name__}, got {text!r}.")
  return value


def args(arg: str, spec: Mapping[str, Any]) -> ConfigDict:
  """Config arguments: `"a=1,b=x,flag"` over the defaults in `spec`.

  Args:
    arg: comma-separated `name=value`; a bare name means `name=true`.
    spec: name -> default; a tuple lists the allowed values, its first is the default.

  Returns:
    A locked ConfigDict with every name of `spec`, each of its default's type.

  Raises:
    ValueError: unknown name or value (with the nearest known ones), or a value of another type.
  """
  out = {k: v[0] if isinstance(v, tuple) else v for k, v in spec.items()}
  for part in filter(None, (arg or "").split(",")):
    key, eq, text = part.partition("=")
    if key not in spec:
      raise ValueError(f"Config argument {key!r} is unknown. {nearest(key, spec)}")
    default = spec[key]
    if isinstance(default, tuple):
      value = _typed(f"Config argument {key!r}", text, default[0])
      if value not in default:
        raise ValueError(f"Config argument {key}={text!r} is unknown. {nearest(text, default)}")
    else:
      value = _typed(f"Config argument {key!r}", text if eq else "true", default)
    out[key] = value
  return ConfigDict(out).lock()


def run_file(path: str) -> types.ModuleType:
  """The module of a source file, from its text.

  Stored bytecode is not looked at: it counts as new when size and second of the file agree, and
  programs write configs faster than that.
  """
  with tokenize.open(path) as f:
    code = compile(f.read(), path, "exec")
  module = types.ModuleType(os.path.splitext(os.path.basename(path))[0])
  module.__file__ = path
  exec(code, module.__dict__)
  return module


def _module(path: str):
  if not os.path.isfile(path):
    folder = os.path.dirname(path) or "."
    there = [f for f in os.listdir(folder) if f.endswith(".py")] if os.path.isdir(folder) else []
    hint = nearest(os.path.basename(path), there)
    raise ValueError(f"Config file {path!r} does not exist. {hint}")
  module = run_file(path)
  if not hasattr(module, "get_config"):
    raise ValueError(f"Config file {path!r} has no get_config(arg).")
  return module


def arguments(path: str) -> dict[str, Any]:
  """The arguments that a config file takes: name -> default (a tuple: the choices)."""
  return dict(getattr(_module(path), "ARGS", {}))


def docstring(path: str) -> str:
  """The docstring of a config file."""
  return inspect.getdoc(_module(path)) or ""


def load(spec: str, overrides: Iterable[str] = ()) -> ConfigDict:
  """The config that a command line names: `file.py[:args]` or a stored `config.json`.

  Args:
    spec: `configs/x.py`, `configs/x.py:a=1,b=2` or `WORKDIR/config.json`.
    overrides: `a.b.c=value`, typed like the values that they replace.

  Raises:
    ValueError: unknown file, argument, key or value, with the nearest names.
  """
  if spec.endswith(".json"):
    try:
      with open(spec) as f:
        config = ConfigDict(json.load(f))
    except FileNotFoundError:
      raise ValueError(f"Stored config {spec!r} does not exist.") from None
    except json.JSONDecodeError as e:
      raise ValueError(f"Stored config {spec!r} is not JSON: {e}.") from None
  else:
    path, _, arg = spec.partition(":")
    config = _module(path).get_config(arg)
  config = with_defaults(config)
  for override in overrides:
    name, eq, text = override.partition("=")
    if not eq:
      raise ValueError(f"Override {override!r}: expected --config.{name}=VALUE.")
    *parents, last = name.split(".")
    node = config
    for key in (*parents, last):
      if not isinstance(node, ConfigDict) or key not in node:
        known = node.keys() if isinstance(node, ConfigDict) else ()
        raise ValueError(f"Override --config.{name}: no key {key!r}. {nearest(key, known)}")
      node = node[key]
    target = config
    for key in parents:
      target = target[key]
    with target.unlocked():
      # A value may change its type only where the config left it open (None).
      target[last] = _typed(f"Override --config.{name}", text, node)
  return canonical(config)


def overrides_from_argv(argv: Iterable[str], known: Iterable[str] = ()) -> list[str]:
  """`--config.a.b=1` -> `a.b=1`; anything else raises, naming the nearest flag."""
  out = []
  for a in argv:
    if a.startswith("--config."):
      out.append(a.removeprefix("--config."))
    else:
      hint = nearest(a.lstrip("-").partition("=")[0], [*known, "config.KEY=VALUE"])
      raise ValueError(f"Unknown argument {a!r}. {hint}")
  return out


def to_dict(config: Any) -> Any:
  """Plain dicts, lists and scalars; raises on anything that JSON cannot hold."""
  if isinstance(config, ConfigDict | Mapping):
    return {str(k): to_dict(config[k]) for k in config}
  if isinstance(config, list | tuple):
    return [to_dict(v) for v in config]
  if config is None or isinstance(config, bool | int | float | str):
    return config
  raise ValueError(f"A config holds {type(config).__name__} {config!r}; only JSON values can be.")


def canonical(config: Any) -> ConfigDict:
  """The config as a run stores it (tuples are lists), locked, with its top-level keys checked."""
  config = ConfigDict(to_dict(config))
  for key in config:
    if key not in TOP_LEVEL_KEYS:
      raise ValueError(f"config.{key}: unknown key. {nearest(key, TOP_LEVEL_KEYS)}")
  return config.lock()


def with_defaults(config: Any) -> ConfigDict:
  """The canonical config with every key of `DEFAULTS`, so that flags can override them.

  Raises:
    ValueError: an unknown key in `input`, `plateau` or an evaluator's cadence, or a plateau on a
      metric that no evaluator gives.
  """
  config = {**DEFAULTS, **to_dict(config)}
  config["log"] = {"tensorboard": False, "wandb": None, **config["log"]}
  _known("config.input", config.get("input", {}), INPUT_KEYS)
  for name, cfg in config["evals"].items():
    cadence = [k for k in cfg if k.startswith("log_")]
    _known(f"config.evals.{name}", cadence, [f"log_{u}" for u in UNITS])
  if config["plateau"] is not None:
    _known("config.plateau", config["plateau"], PLATEAU)
    config["plateau"] = {**PLATEAU, **config["plateau"]}
    metric = str(config["plateau"]["metric"])
    if not any(metric.startswith(f"val/{name}/") for name in config["evals"]):
      names = [f"val/{name}/..." for name in config["evals"]]
      raise ValueError(f"config.plateau.metric={metric!r}: {nearest(metric, names)}")
  return canonical(config)


def _known(where: str, given: Iterable[str], known: Iterable[str]) -> None:
  for key in given:
    if key not in known:
      raise ValueError(f"{where}.{key}: unknown key. {nearest(key, known)}")


def diff(a: Any, b: Any, prefix: str = "") -> dict[str, tuple[Any, Any]]:
  """Where two configs differ: '/'-joined key -> (value in a, value in b), "(absent)" if missing."""
  a, b = to_dict(a), to_dict(b)
  if not (isinstance(a, dict) and isinstance(b, dict)):
    return {} if a == b else {prefix.rstrip("/"): (a, b)}
  out = {}
  for key in sorted({*a, *b}):
    out.update(diff(a.get(key, "(absent)"), b.get(key, "(absent)"), f"{prefix}{key}/"))
  return out


def resolve(kind: str, name: str):
  """The module of `name`: `big_audio.<kind>.<name>`, or `proj.*` by its full dotted name.

  Raises:
    ValueError: no such module, with the nearest ones.
  """
  full = name if name.startswith(("proj.", "big_audio.")) else f"big_audio.{kind}.{name}"
  try:
    found = importlib.util.find_spec(full)
  except ModuleNotFoundError:
    found = None
  if found is None:
    root = importlib.import_module(f"big_audio.{kind}")
    there = [
      f[:-3]
      for f in os.listdir(os.path.dirname(root.__file__))
      if f.endswith(".py") and f[0] != "_"
    ]
    raise ValueError(f"config: {kind} {name!r} does not exist. {nearest(name, there)}")
  return importlib.import_module(full)


def call(where: str, fn, *positional, **kw):
  """`fn(*positional, **kw)` after checking `kw` against its signature.

  Raises:
    ValueError: an unknown or missing argument, named with its place in the config.
  """
  params = inspect.signature(fn).parameters
  if not any(p.kind is p.VAR_KEYWORD for p in params.values()):
    for key in kw:
      if key not in params:
        raise ValueError(f"{where}: unknown argument {key!r}. {nearest(key, params)}")
  try:
    inspect.signature(fn).bind(*positional, **kw)
  except TypeError as e:
    raise ValueError(f"{where}: {e}.") from None
  return fn(*positional, **kw)


def share(where: str, kw: Mapping[str, Any], *fns) -> list[dict[str, Any]]:
  """Keyword arguments shared out among functions: each to the first that has one of that name.

  Raises:
    ValueError: an argument that none of them has, with the nearest names of all.
  """
  named = lambda fn: {
    k for k, p in inspect.signature(fn).parameters.items() if p.kind is not p.POSITIONAL_ONLY
  }
  params = [named(fn) for fn in fns]
  known = [k for p in params for k in p]
  out: list[dict[str, Any]] = [{} for _ in fns]
  for key in kw:
    if key not in known:
      raise ValueError(f"{where}: unknown argument {key!r}. {nearest(key, known)}")
    out[next(i for i, p in enumerate(params) if key in p)][key] = kw[key]
  return out


def pick(where: str, choices: Mapping[str, Any], name: str) -> Any:
  """`choices[name]`, or a ValueError with the nearest names."""
  if name not in choices:
    raise ValueError(f"{where}: there is no {name!r}. {nearest(name, choices)}")
  return choices[name]


def build_models(config: ConfigDict) -> dict[str, Any]:
  """{name: module} of `config.models`: each entry is `dict(model=<module name>, **arguments)`."""
  models = {}
  for name, cfg in config.models.items():
    kw = to_dict(cfg)
    if "model" not in kw:
      raise ValueError(f"config.models.{name}: the key 'model' is missing.")
    module = resolve("models", kw.pop("model"))
    models[name] = call(f"config.models.{name}", module.Model, **kw)
  return models


def steps(
  name: str,
  cfg: Mapping[str, Any],
  *,
  batch_size: int = 0,
  data_size: int = 0,
  total_steps: int | None = None,
  default: int | None = None,
) -> int | None:
  """A duration in steps: `cfg` holds one of `<name>_{steps,examples,epochs,percent}`.

  Args:
    name: prefix of the key, such as "total", "warmup", "log".
    cfg: a config node.
    batch_size, data_size, total_steps: what examples, epochs and percent refer to.
    default: returned when none of the four keys is there (or holds None).

  Raises:
    ValueError: several of the keys, none without a default, a negative value, or a unit whose
      reference is not known.
  """
  prefix = f"{name}_" if name else ""
  given = {u: cfg[prefix + u] for u in UNITS if prefix + u in cfg and cfg[prefix + u] is not None}
  if len(given) > 1:
    raise ValueError(f"config: {', '.join(prefix + u for u in given)} are given; keep one of them.")
  if not given:
    if default is None:
      raise ValueError(f"config: one of {', '.join(prefix + u for u in UNITS)} is missing.")
    return default
  ((unit, value),) = given.items()
  if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
    raise ValueError(f"config: {prefix}{unit} must be a number >= 0, got {value!r}.")
  reference = {
    "steps": 1,
    "examples": 1 / batch_size if batch_size else 0,
    "epochs": data_size / batch_size if batch_size else 0,
    "percent": None if total_steps is None else total_steps / 100,
  }[unit]
  if value and (reference is None or (unit in ("examples", "epochs") and not reference)):
    raise ValueError(f"config: {prefix}{unit}={value} has nothing to refer to here; use steps.")
  return max(1, round(value * reference)) if value * reference else 0


def parse_spec(spec: str) -> tuple[str, int | str | None]:
  """ "workdir", "workdir:step" or "workdir:best" -> (workdir, step, "best" or None)."""
  head, _, tail = spec.rpartition(":")
  if head and tail == "best":
    return head, tail
  return (head, int(tail)) if head and tail.isdigit() else (spec, None)


def repo_root() -> str:
  """The folder that holds `configs` and `proj` (the checkout, or site-packages of a wheel)."""
  return os.path.dirname(os.path.dirname(os.path.abspath(sys.modules[__name__].__file__)))
