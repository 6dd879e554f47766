"""Runs the evaluators of trained runs: JSON and CSV, a row for each row of each evaluator.

  python -m big_audio.tools.evaluate runs/a runs/b:12000 --out tables/test --split test
  python -m big_audio.tools.evaluate runs/matrix --out tables/nfe --nfe 1 2 4 8 --only distance

RUNS are workdirs (their latest checkpoint), workdir:step, workdir:best, or folders of workdirs such
as that of a sweep. The evaluators are those of each run's own config; those that write samples run
only if named by --only, and a run that has none of the named ones is left out. Settings of the
config are changed by --config.evals.distance.limit=64 and the like.

OUT.json and OUT.csv grow with every evaluator, and what they hold is not computed again, unless the
checkpoint (or that of a run that judges it) holds other numbers than it did. Which splits of the
data were seen is a column; data that the run was trained on are told loudly.
"""

import argparse
import csv
import hashlib
import inspect
import io
import json
import os
import re
import sys
import traceback
from collections.abc import Iterable, Mapping

from big_audio import clock
from big_audio import config as C
from big_audio.datasets import build, splits
from big_audio.tools import manifests, runs

FIRST = ("workdir", "step", "evaluator", "type", "split", "row", "nfe", "ema", "dtype")
UNAVAILABLE = "unavailable"  # the row of evaluators for measures whose package is missing


def data_sets(data: Mapping) -> list[Mapping]:
  """The data sets of an evaluator or of a run's input: `data` itself, or all of {name: data}."""
  nested = [v for v in data.values() if isinstance(v, Mapping)]
  if "source" in data or not nested:
    return [data]
  return [s for v in nested for s in data_sets(v)]


def split_of(data: Mapping) -> str:
  """The splits of an evaluator's data, "test" or "test+validation"; "(none)" for a source without.

  Args:
    data: see `data_sets`.
  """
  return "+".join(dict.fromkeys(str(s.get("split") or "(none)") for s in data_sets(data)))


def _split(data):
  """The split of one data set; None for a source without."""
  if data.get("split") is not None or "source" not in data:
    return data.get("split")
  return build.default_split(data["source"])


def _place(data):
  """What tells the recordings of one data set from those of others, whatever is made of them."""
  how = ("pp", "weight", "split", "splits", "group", "sr", "channels", "min_secs", "max_secs",
         "pattern", "label", "rename")  # fmt: skip
  return {k: v for k, v in data.items() if k not in how}


def _with_split(data, split):
  if data_sets(data) == [data]:
    return {**data, "split": split}
  out = {}  # sets that differed in the split alone are one now
  for name, inner in data.items():
    if (inner := _with_split(inner, split)) not in out.values():
      out[name] = inner
  return out


def changed(name: str, cfg: Mapping, *, nfe=(), split: str | None = None) -> dict:
  """An evaluator's config with other numbers of evaluations and another split.

  Raises:
    ValueError: a data set has no split to change.
  """
  cfg = C.to_dict(cfg)
  if split is not None:
    if any("split" not in s for s in data_sets(cfg.get("data", {}))):
      raise ValueError(
        f"config.evals.{name}.data has no split; name its files with "
        f"--config.evals.{name}.data.KEY=VALUE instead of --split."
      )
    cfg["data"] = _with_split(cfg["data"], split)
  if nfe:
    if "nfe" in cfg:
      cfg["nfe"] = list(nfe) if isinstance(cfg["nfe"], list) else nfe[0]
    if any("nfe" in v for v in (cfg.get("variants") or {}).values()):
      cfg["variants"] = {f"nfe{n}": dict(nfe=n) for n in nfe}
  return cfg


def rows_of(values: Iterable[tuple[str, float]]) -> dict[str, dict[str, float]]:
  """{row: {measure: value}} of what an evaluator yields: "nfe1/mel" is mel of the row nfe1.

  Values of the machine, such as "z/nfe1/rtf", stand beside the others. A measure whose package is
  missing ("unavailable/pesq_nb") has the value "unavailable" in every row.
  """
  out = {}
  for name, value in values:
    row, _, measure = name.removeprefix("z/").rpartition("/")
    out.setdefault(row, {})[measure] = value if isinstance(value, str) else float(value)
  for measure in out.pop(UNAVAILABLE, {}):
    for row in [r for r in out if r] or [""]:
      out.setdefault(row, {}).setdefault(measure, UNAVAILABLE)
  return out


def nfe_of(row: str) -> int | None:
  """Evaluations of a row by its name: 4 of "nfe4", 0 of "ae", None of others."""
  found = re.search(r"(?:^|[/_])nfe(\d+)(?:$|[/_])", row)
  return int(found.group(1)) if found else 0 if row in ("ae", "nfe0") else None


def with_dtype(config, dtype: str):
  """The config with a compute type in every model that takes one.

  Raises:
    ValueError: no model does.
  """
  config = C.to_dict(config)
  takers = []
  for name, cfg in config["models"].items():
    model = C.resolve("models", cfg["model"]).Model
    if "dtype" in inspect.signature(model).parameters:
      cfg["dtype"] = dtype
      takers.append(name)
  if not takers:
    raise ValueError(f"--dtype {dtype}: none of the models {', '.join(config['models'])} takes it.")
  return C.canonical(config)


class Evaluation:
  """The evaluators of one run at one step.

  Args:
    workdir, step: of the run; None: the latest checkpoint.
    overrides: `a.b=value` on the stored config.
    ema: use the averaged parameters; dtype: of the models, None: as trained.
    nfe, split: see `changed`.
    only: names of evaluators; empty: all but those of type "samples".
    scratch: folder in which evaluators write files.
  """

  def __init__(
    self, workdir, step=None, *, overrides=(), ema=True, dtype=None, nfe=(), split=None, only=(),
    scratch=".",
  ):  # fmt: skip
    from big_audio import inference, input_pipeline, trees

    config = C.load(os.path.join(workdir, "config.json"), overrides)
    if dtype:
      config = with_dtype(config, dtype)
    spec = workdir if step is None else f"{workdir}:{step}"
    self.runner = inference.open_workdir(spec, ema=ema, config=config)
    if os.path.isfile(os.path.join(workdir, "splits.json")):  # else the judged may be trained on
      input_pipeline.claim_splits(config.input, workdir, begun=True, write=False)
    self._content = trees.sha256(self.runner.variables)
    self._facts = dict(ema=ema, dtype=dtype or "as trained")
    for name in only:
      C.pick("--only", config.evals, name)
    wanted = only or [n for n, c in config.evals.items() if c.type != "samples"]
    self.configs = {n: changed(n, config.evals[n], nfe=nfe, split=split) for n in wanted}
    folder, base = os.path.split(os.path.abspath(workdir))
    digest = hashlib.sha256(folder.encode()).hexdigest()[:6]  # runs share names in other folders
    self._scratch = os.path.join(scratch, f"{base}-{digest}")
    self.workdir = workdir

  def key(self, name: str) -> str:
    """What identifies the rows of an evaluator: equal keys and contents, equal rows."""
    parts = [os.path.abspath(self.workdir), self.runner.step, name, self.configs[name], self._facts]
    parts.append(C.to_dict(self.runner.config.models))
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

  def content(self, name: str) -> str:
    """A digest of all parameters that an evaluator's rows depend on: the run's and its judges'.

    A workdir that was trained anew to the same step has another one.
    """
    from big_audio import checkpoint, trees

    found = [self._content]
    for _, spec in sorted((self.configs[name].get("aux") or {}).items()):
      workdir, step = C.parse_spec(spec.rpartition(":")[0])
      found.append(trees.sha256(checkpoint.load_arrays(workdir, step)[1]))
    return hashlib.sha256("".join(found).encode()).hexdigest()[:16]

  def trained_on(self, name: str) -> bool:
    """Whether an evaluator's data holds data that the run was trained on, as far as names tell."""
    seen = data_sets(C.to_dict(self.runner.config.input.data))
    return any(
      split.partition("[")[0] == "train"
      or any(_place(s) == _place(m) and splits.overlap(split, _split(s)) for s in seen)
      for m in data_sets(self.configs[name]["data"])
      for split in [_split(m) or splits.ALL]
    )

  def facts(self, name: str) -> dict:
    """The columns that all rows of an evaluator share."""
    cfg = self.configs[name]
    return dict(
      workdir=self.workdir, step=self.runner.step, evaluator=name, type=cfg["type"],
      split=split_of(cfg["data"]), **self._facts, key=self.key(name),
      checkpoint=self.content(name), settings=runs.settings(self.workdir),
    )  # fmt: skip

  def run(self, name: str) -> list[dict]:
    """The rows of an evaluator: its facts, "row", "nfe" and "values" {measure: number}."""
    import jax

    from big_audio import inference, sharding, train_loop

    r = self.runner
    mesh = sharding.make_mesh(jax.devices()[:1])
    predict = inference.bind(r.trainer, ema=False)  # the average is in r.variables already
    params = r.variables["params"]
    vars_ = {k: v for k, v in r.variables.items() if k != "params"}
    state = dict(params=params, vars=vars_, frozen={}, ema={}, step=r.step)
    with jax.set_mesh(mesh):
      evaluator = train_loop.make_evaluator(
        name, self.configs[name], predict, mesh=mesh, workdir=self._scratch
      )
      found = rows_of(evaluator.run(jax.device_put(state, sharding.replicated(mesh))))
    return [{**self.facts(name), "row": k, "nfe": nfe_of(k), "values": v} for k, v in found.items()]


def write(out: str, rows: list[dict]) -> None:
  """OUT.json with all of it, OUT.csv with a column for each setting and measure."""
  clean = [{**r, "values": {k: _json(v) for k, v in r.get("values", {}).items()}} for r in rows]
  manifests.replace(f"{out}.json", json.dumps(clean, indent=1, default=str) + "\n")
  settings = dict.fromkeys(k for r in rows for k in r["settings"])
  measures = dict.fromkeys(k for r in rows for k in r.get("values", {}))
  text = io.StringIO()
  table = csv.writer(text, lineterminator="\n")
  table.writerow([*FIRST, *settings, *measures, "error"])
  for r in rows:
    values = r.get("values", {})
    table.writerow(
      [r.get(k, "") if r.get(k) is not None else "" for k in FIRST]
      + [r["settings"].get(k, "") for k in settings]
      + [values.get(k, "") for k in measures]
      + [r.get("error") or ""]
    )
  manifests.replace(f"{out}.csv", text.getvalue())


def _json(v):
  finite = isinstance(v, str) or (v == v and abs(v) != float("inf"))
  return v if finite else str(v)  # JSON has no NaN


def read(path: str) -> list[dict]:
  """The rows of an OUT.json; [] where there is none."""
  try:
    with open(path) as f:
      return json.load(f)
  except FileNotFoundError:
    return []
  except ValueError as e:
    raise ValueError(f"{path} is not the JSON of an evaluation: {e}.") from None


def parser() -> argparse.ArgumentParser:
  """The command line."""
  p = argparse.ArgumentParser(
    prog="python -m big_audio.tools.evaluate", description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )  # fmt: skip
  p.add_argument("runs", metavar="RUNS", nargs="+", help="workdir[:step|:best], or a folder")
  p.add_argument("--out", required=True, help="OUT.json and OUT.csv are written")
  p.add_argument("--only", nargs="+", default=(), metavar="NAME", help="of config.evals")
  p.add_argument("--nfe", nargs="+", type=int, default=(), help="numbers of evaluations")
  p.add_argument("--split", help="of the data, in place of the config's own, e.g. test")
  p.add_argument("--all-steps", action="store_true", help="every checkpoint that is kept")
  p.add_argument("--no-ema", action="store_true", help="the parameters themselves")
  p.add_argument("--dtype", choices=("bfloat16", "float32"), help="compute type of the models")
  p.add_argument("--again", action="store_true", help="also what OUT.json holds already")
  return p


def _steps(workdir, step, every):
  folder = os.path.join(workdir, "checkpoints")
  if not every or step is not None or not os.path.isdir(folder):
    return [step]
  return sorted(int(n) for n in os.listdir(folder) if n.isdigit()) or [None]


def _only(only, workdirs):
  """{workdir: those of the names `only` that its config has}; all of them if that cannot be read.

  Raises:
    ValueError: a name that no run has.
  """
  there = {w: runs.value(w, "config.evals") for w in workdirs}
  found = {w: tuple(n for n in only if e is None or n in e) for w, e in there.items()}
  for name in only:
    if not any(name in mine for mine in found.values()):
      C.pick("--only", dict.fromkeys(n for e in there.values() for n in e or ()), name)
  return found


def evaluate(specs, out, *, all_steps=False, again=False, only=(), **kw) -> int:
  """Evaluates runs into OUT.json and OUT.csv; returns how many runs or evaluators failed.

  Args:
    specs: see `runs.expand`.
    out: path without suffix.
    all_steps: every checkpoint; again: also what is there already.
    only: names of evaluators; a run that has none of them is left out.
    **kw: of `Evaluation`.

  Raises:
    ValueError: specs that are no runs, or a name in `only` that no run has.
  """
  os.makedirs(os.path.dirname(out) or ".", exist_ok=True)
  rows = read(f"{out}.json")
  todo = [(w, s) for w, at in runs.expand(specs) for s in _steps(w, at, all_steps)]
  progress, failed, told = clock.Progress(len(todo)), 0, set()
  progress.phase("evaluate", 0, len(todo))

  def note(workdir, step, name, e):
    nonlocal rows, failed
    failed += 1
    error = f"{type(e).__name__}: {e}"
    progress.message(f"{workdir} {name}: {error}")
    if not isinstance(e, (ValueError, OSError, ImportError)):
      progress.message("".join(traceback.format_exception(e)))
    row = dict(workdir=workdir, step=step, evaluator=name, settings=runs.settings(workdir))
    rows.append({**row, "error": error, "values": {}})

  mine = _only(only, dict.fromkeys(w for w, _ in todo))
  for workdir, names in mine.items():
    if len(names) < len(only):
      lacks = ", ".join(n for n in only if n not in names)
      progress.message(f"{workdir}: has no evaluator {lacks}")
  todo = [(w, s) for w, s in todo if mine[w] or not only]
  tried = {w for w, _ in todo}  # what failed there is tried again
  rows = [r for r in rows if not (r.get("error") and r["workdir"] in tried)]
  for i, (workdir, step) in enumerate(todo, 1):
    try:
      run = Evaluation(workdir, step, scratch=f"{out}_files", only=mine[workdir], **kw)
    except Exception as e:  # one run must not end the others; it is in the table
      note(workdir, step, "", e)
      write(out, rows)
      continue
    for name in run.configs:
      try:
        if run.trained_on(name) and (workdir, name) not in told:
          told.add((workdir, name))
          progress.message(f"{workdir} {name}: evaluated on data that it was TRAINED on")
        facts = run.facts(name)
        old = [r for r in rows if r.get("key") == facts["key"]]
        if not again and any(r.get("checkpoint") == facts["checkpoint"] for r in old):
          continue
        rows = [r for r in rows if r not in old]
        rows += run.run(name)
      except Exception as e:
        note(workdir, run.runner.step, name, e)
      write(out, rows)
    progress.phase("evaluate", i, len(todo))
  write(out, rows)
  progress.close()
  return failed


def main(argv=None) -> int:
  """The command line; returns the exit status."""
  flags, rest = parser().parse_known_args(argv)
  try:
    overrides = C.overrides_from_argv(rest, ["out", "only", "nfe", "split", "no-ema", "dtype"])
    failed = evaluate(
      flags.runs, flags.out, all_steps=flags.all_steps, again=flags.again, overrides=overrides,
      ema=not flags.no_ema, dtype=flags.dtype, nfe=tuple(flags.nfe), split=flags.split,
      only=tuple(flags.only),
    )  # fmt: skip
  except (ValueError, OSError) as e:
    print(f"evaluate: {e}", file=sys.stderr)
    return 2
  print(f"{flags.out}.json, {flags.out}.csv" + (f"; {failed} failed" if failed else ""))
  return 1 if failed else 0


if __name__ == "__main__":
  from absl import logging

  logging.set_verbosity(logging.ERROR)  # orbax warns of metadata that no one needs
  sys.exit(main())
