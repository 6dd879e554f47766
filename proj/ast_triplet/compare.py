"""What was learnt, beside what nothing was learnt for: the tasks of configs/sweeps/ast_tasks.py.

  python -m big_audio.tools.sweep configs/sweeps/ast_tasks.py:data=DIR,seeds=3 --root runs/tasks
  python -m proj.ast_triplet.compare --root runs/tasks --out tasks.md

A block of rows for each task: the trained net (embedding, and features of its trunk), the same net
as it began, and the mean and deviation over time of 64 log-mels, standardised on the training
items, from the very recordings. Values are means over the folds of a task, then medians over seeds
with the least and the largest. Nothing is trained here.
"""

import argparse
import collections
import functools
import json
import os
import statistics
import sys

import numpy as np

from big_audio import config as C
from big_audio import metrics
from big_audio.datasets import data_sets
from big_audio.evaluators import retrieval
from big_audio.evaluators.ranking import Embedded
from big_audio.tools import manifests, runs

MEASURES = dict(
  triplet_accuracy="triplet accuracy", map_r="MAP@R", p1="P@1", knn1="1-NN", probe="linear probe"
)
ROWS = dict(embedding="", features="features/")


def mel_row(evaluator) -> dict[str, float]:
  """The measures of mel statistics on the items that an evaluator of a config judges.

  Recordings are whole where the config's chunks are cut from them: the row needs no fixed length.
  """
  waves = {}
  for name in ("data", "train_data"):
    spec = {k: v for k, v in C.to_dict(evaluator[name]).items() if k not in ("pp", "once", "chunk")}
    waves[name] = _waves(json.dumps(spec, sort_keys=True))
  (test, label, track), (train, train_label, train_track) = waves["data"], waves["train_data"]
  train, test = retrieval.standardised(train, test)
  names = [str(i) for i in range(int(max(label.max(), train_label.max())) + 1)]
  found = retrieval.report(
    Embedded(np.float32(train), train_label, train_track),
    Embedded(np.float32(test), label, track), names=names, measures=["ranking", "knn", "probe"],
  )  # fmt: skip
  return {m: found["values"][m] for m in MEASURES}


@functools.cache
def _waves(spec):
  """(mel statistics f32[N,128], labels, tracks) of all items of a data set."""
  (opened,) = data_sets.open_all({"data": json.loads(spec)})
  items = [opened.source[i] for i in range(len(opened.source))]
  read = lambda wav: wav.numpy() if hasattr(wav, "read") else wav
  x = retrieval.mel_statistics([read(e["wav"]) for e in items], items[0]["sr"])
  return x, np.array([e["label"] for e in items]), np.array([e["track"] for e in items])


def collect(roots) -> dict[str, dict[str, dict[int, list[dict[str, float]]]]]:
  """{task: {row: {seed: [measures of each fold]}}} of the finished runs below some folders.

  Raises:
    ValueError: no finished run there.
  """
  nested = collections.defaultdict
  out: dict = nested(lambda: nested(lambda: nested(list)))
  for workdir in (os.path.join(root, n) for root in roots for n in sorted(os.listdir(root))):
    if not os.path.isfile(os.path.join(workdir, "config.json")):
      continue
    config = C.load(os.path.join(workdir, "config.json"))
    rows = metrics.read_rows(os.path.join(workdir, metrics.FILE))
    last, total = rows[-1] if rows else {}, config.get("total_steps", None)
    if total is None or last.get("step") != total:
      print(f"compare: left out, not at its last step: {workdir}", file=sys.stderr)
      continue
    data = config.input.data.train
    known = runs.settings(workdir).get("recipe")  # runs outside of a sweep go by their folder
    place = os.path.dirname(data.get("list", "")) or data.get("dir", "")
    named = known or ("loops" if data.source == "worlds.loops" else os.path.basename(place))
    begun = "" if total else ", untrained"
    for evaluator in [name for name, e in config.evals.items() if "also" in e]:
      task = named if evaluator == "test" else f"{named}, {evaluator}"
      for row, prefix in ROWS.items():
        names = {m: f"val/{evaluator}/{prefix}{m}" for m in MEASURES}
        if absent := [n for n in names.values() if n not in last]:
          raise ValueError(f"{workdir}: its last row has no {', '.join(absent)}.")
        values = {m: last[n] for m, n in names.items()}
        out[task][f"{row}{begun}"][config.seed].append(values)
      if not total:
        out[task]["mel statistics"][config.seed].append(mel_row(config.evals[evaluator]))
  if not out:
    raise ValueError(f"{', '.join(roots)}: no finished run of the sweep.")
  return out


def cell(values: list[float]) -> str:
  """Median, and the range over seeds where there are several."""
  text = f"{statistics.median(values):.3f}"
  return text if len(values) < 2 else f"{text} [{min(values):.3f}, {max(values):.3f}]"


def table(found) -> str:
  """The rows of `collect` as markdown."""
  lines = ["| task | row | folds x seeds | " + " | ".join(MEASURES.values()) + " |"]
  lines.append("|" + "---|" * (3 + len(MEASURES)))
  for task, rows in found.items():
    for row, seeds in rows.items():
      folds = sorted({len(v) for v in seeds.values()})
      means = [
        {m: statistics.fmean(f[m] for f in fold) for m in MEASURES} for fold in seeds.values()
      ]
      cells = [cell([mean[m] for mean in means]) for m in MEASURES]
      size = f"{'/'.join(map(str, folds))} x {len(seeds)}"
      lines.append(f"| {task} | {row} | {size} | " + " | ".join(cells) + " |")
  return "\n".join(lines) + "\n"


def parser() -> argparse.ArgumentParser:
  """The command line."""
  p = argparse.ArgumentParser(
    prog="python -m proj.ast_triplet.compare", description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )  # fmt: skip
  p.add_argument("--root", required=True, nargs="+", help="folders of sweeps")
  p.add_argument("--out", metavar="FILE.md", help="else it is printed")
  return p


def main(argv=None) -> int:
  """The command line; returns the exit status."""
  flags = parser().parse_args(argv)
  try:
    text = table(collect(flags.root))
    if flags.out:
      manifests.replace(flags.out, text)
    else:
      print(text, end="")
  except (ValueError, OSError) as e:
    print(f"compare: {e}", file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main())
