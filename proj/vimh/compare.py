"""Trains several networks on one data set and puts them into one table.

  python -m proj.vimh.compare --root runs/vimh_nets --out compare.md
  python -m proj.vimh.compare --nets cnn_10k,vit_23k --epochs 3 --seeds 3 --root runs/two \\
    synth=moog_basic size=4096 --by filter_cutoff_mae

What follows the flags are arguments of configs/vimh.py. The runs are those of
configs/sweeps/vimh_nets.py: the same command goes on where it was stopped, and trains only what is
missing; --table trains nothing. A row is a network: its parameters, counted (with heads and
auxiliary inputs), training steps a second on this machine, and for each head of the test items
accuracy, accuracy within one class, and the mean absolute error in physical units: medians over
seeds, with the least and the largest. Below stand the best constant answer of the training items
and what a guess of any class would do. FILE.csv has whole precision.
"""

import argparse
import json
import os
import statistics
import sys

import numpy as np

from big_audio import config as C
from big_audio import metrics
from big_audio.tools import manifests, results, summary, sweep, sweep_plan, tables
from proj.vimh import browse

SWEEP = "configs/sweeps/vimh_nets.py"
MEASURES = ("accuracy", "within1", "mae")
BASELINES = ("constant", "chance")


def plan(nets: str, epochs: int, seeds: int, extra, smoke: bool = False) -> dict:
  """The sweep, as `sweep_plan.read` gives it.

  Args:
    nets: "all", "small" or names, separated by commas.
    epochs, seeds: how many.
    extra: "ARGUMENT=VALUE" of configs/vimh.py.
    smoke: of the config.

  Raises:
    ValueError: an unknown net or argument.
  """
  known = C.arguments(os.path.join(C.repo_root(), "configs/vimh.py"))
  fixed = {}
  for text in extra:
    key, eq, value = text.partition("=")
    if not eq or key in ("net", "epochs", "smoke"):
      raise ValueError(f"{text!r}: expected ARGUMENT=VALUE; nets, epochs and smoke are flags.")
    C.pick("configs/vimh.py", known, key)
    fixed[key] = value
  arg = f"nets={nets.replace(',', '/')},epochs={epochs},seeds={seeds},smoke={str(smoke).lower()}"
  found = sweep_plan.read(f"{os.path.join(C.repo_root(), SWEEP)}:{arg}")
  found["fixed"] = {**found["fixed"], **fixed}
  return found


def baselines(data: browse.DataSet) -> dict[str, dict[str, float]]:
  """{"constant"|"chance": {"<head>_<measure>": value}} of the test items.

  The constant is, for each measure by itself, the answer that is best on the training items.
  """
  out: dict[str, dict[str, float]] = {b: {} for b in BASELINES}
  for p in data.metadata.parameters:
    k = p.count(data.classes)
    train, test = (p.to_class(data.bytes(s)[p.name], data.classes) for s in ("train", "test"))
    values, true = data.values("train")[p.name], data.values("test")[p.name]
    counts = np.bincount(train, minlength=k)
    near = np.convolve(counts, np.ones(3))[1:-1]
    constant, chance = out["constant"], out["chance"]
    constant[f"{p.name}_accuracy"] = float(np.mean(test == counts.argmax()))
    constant[f"{p.name}_within1"] = float(np.mean(np.abs(test - near.argmax()) <= 1))
    constant[f"{p.name}_mae"] = float(np.mean(np.abs(true - np.median(values))))
    every = np.arange(k)
    chance[f"{p.name}_accuracy"] = 1 / k
    chance[f"{p.name}_within1"] = float(np.mean(np.abs(test[:, None] - every) <= 1))
    chance[f"{p.name}_mae"] = float(np.mean(np.abs(true[:, None] - p.values(data.classes))))
  for found in out.values():
    for m in ("accuracy", "within1"):
      found[m] = statistics.mean(v for n, v in found.items() if n.endswith(f"_{m}"))
  return out


def records(root: str, nets=()) -> tuple[list[dict], browse.DataSet]:
  """(records of `results`, of the runs below `root` and the two baselines; the runs' data set).

  Args:
    root: a sweep's folder.
    nets: only these; all without any.

  Raises:
    ValueError: no run there, runs on different data.
  """
  found = results.load([root])
  found = [r for r in found if not nets or results.get(r, "net") in nets]
  # Runs that failed have no number and no evaluator.
  found = [r for r in found if r["measure"] is None or r["evaluator"] == "test"]
  if not any(r["measure"] for r in found):
    raise ValueError(f"{root}: no run has numbers of its test items yet.")
  configs, data, counts = {}, {}, {}
  for r in [r for r in found if r["measure"]]:
    configs.setdefault(r["workdir"], r)
  for workdir, r in configs.items():
    config = C.load(os.path.join(workdir, "config.json"))
    test = {k: v for k, v in C.to_dict(config.evals.test.data).items() if k not in ("pp", "split")}
    data[json.dumps(test, sort_keys=True)] = test
    net = results.get(r, "net")
    if net not in counts:
      counts[net] = summary.describe(config, net).count()
    rows = metrics.read_rows(os.path.join(workdir, metrics.FILE))
    speed = [x["z/steps_per_sec"] for x in rows if "z/steps_per_sec" in x]
    found.append({**r, "measure": "parameters", "value": str(counts[net])})
    if speed:
      found.append({**r, "measure": "steps/s", "value": statistics.median(speed)})
  if len(data) > 1:
    raise ValueError(f"{root}: its runs are on different data: {'; '.join(data)}.")
  data = browse.DataSet(next(iter(data.values())))
  for name, values in baselines(data).items():
    common = dict(run=name, workdir=name, step=None, evaluator="test", split="test", row=name,
                  nfe=None, settings=dict(net=name))  # fmt: skip
    found += [{**common, "measure": k, "value": v} for k, v in values.items()]
  return found, data


def table(found, heads, by: str = "") -> tables.Table:
  """The table, best first.

  Args:
    found: of `records`.
    heads: names of the heads.
    by: the measure that orders; "" the mean accuracy, or that of the only head.

  Raises:
    ValueError: no such measure.
  """
  columns = ["parameters", "steps/s", *(["accuracy", "within1"] if len(heads) > 1 else [])]
  columns += [f"{h}_{m}" for h in heads for m in MEASURES]
  by = by or ("accuracy" if len(heads) > 1 else f"{heads[0]}_accuracy")
  C.pick("--by", dict.fromkeys(columns), by)
  found = [r for r in found if r["measure"] is None or r["measure"] in columns]
  out = tables.Table(found, ["net"], ["measure"], digits=4)
  there = {c for (c,) in out.columns}
  out.columns = [(c,) for c in columns if c in there]
  sign = 1 if results.better(by) == "min" or by == "parameters" else -1

  def place(row):
    cell = out.cells.get((*row, by)) or dict(median=None, text="")
    # Parameters are texts, so that no digit of them is rounded.
    value = float(cell["text"]) if cell["text"].isdecimal() else cell["median"]
    return row[0] in BASELINES, value is None, sign * (value or 0), row

  out.rows.sort(key=place)
  return out


def parser() -> argparse.ArgumentParser:
  """The command line."""
  p = argparse.ArgumentParser(
    prog="python -m proj.vimh.compare", description=__doc__, allow_abbrev=False,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )  # fmt: skip
  p.add_argument("arguments", nargs="*", metavar="ARGUMENT=VALUE", help="of configs/vimh.py")
  p.add_argument("--nets", default="all", help='names separated by commas, "small" or "all"')
  p.add_argument("--epochs", type=int, default=3)
  p.add_argument("--seeds", type=int, default=1)
  p.add_argument("--root", required=True, help="folder of the workdirs")
  p.add_argument("--out", metavar="FILE.md", help="write it, and FILE.csv; else it is printed")
  p.add_argument("--by", default="", metavar="MEASURE", help="best first by this column")
  p.add_argument("--jobs", type=int, default=1, help="processes")
  p.add_argument("--smoke", action="store_true", help="tiny runs, to see that all parts work")
  p.add_argument("--table", action="store_true", help="train nothing")
  return p


def main(argv=None) -> int:
  """Trains what is missing and writes the table; returns the exit status."""
  flags = parser().parse_intermixed_args(argv)
  try:
    if flags.out and not flags.out.endswith(".md"):
      raise ValueError(f"--out {flags.out!r}: expected a name that ends in .md.")
    if min(flags.epochs, flags.seeds, flags.jobs) < 1:
      raise ValueError("--epochs, --seeds and --jobs must be at least 1.")
    described = plan(flags.nets, flags.epochs, flags.seeds, flags.arguments, flags.smoke)
    runs = sweep_plan.grid_runs(described)
    s = sweep.Sweep(described, flags.root, runs=runs)
    if not flags.table:
      print(f"{s.left} runs to make, in {flags.root}", file=sys.stderr)
      if s.left and not s.run(jobs=flags.jobs):
        print("compare: stopped; the same command goes on from here.", file=sys.stderr)
        return 130
    found, data = records(flags.root, {r.settings["net"] for r in runs})
    out = table(found, data.metadata.names, flags.by)
    if flags.out:
      os.makedirs(os.path.dirname(flags.out) or ".", exist_ok=True)
      manifests.replace(flags.out, out.markdown())
      manifests.replace(flags.out.removesuffix(".md") + ".csv", out.csv())
      print(flags.out)
    else:
      print(out.markdown(), end="")
  except (ValueError, OSError, ImportError) as e:
    print(f"compare: {e}", file=sys.stderr)
    return 2
  return 1 if not flags.table and s.failed() else 0


if __name__ == "__main__":
  from absl import logging

  logging.set_verbosity(logging.WARNING)
  sys.exit(main())
