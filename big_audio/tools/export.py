"""The weights of a run as one .safetensors file, in the spelling of the public model.

  python -m big_audio.tools.export runs/music:best music.safetensors
  python -m big_audio.tools.export runs/music music.safetensors --history history.csv

Averaged parameters, LoRA adapters merged and running statistics folded in: what an embedding is
computed from, and nothing else. For a similarity model the file has the keys of transformers under
"ast." and its projector as "projector.0" and "projector.3" (dialect c of `convert.ast`);
`--dialect native` keeps our names. The header tells the run, its step and the model's arguments.
`--history` writes every row of metrics.jsonl as CSV.
"""

import argparse
import csv
import io
import json
import os
import sys

from big_audio import config as C
from big_audio import convert, inference, metrics
from big_audio.pp import ops_fbank
from big_audio.tools import embed, manifests


def export(spec: str, out: str, *, dialect: str = "c") -> tuple[str, int]:
  """Writes the weights of a run.

  Args:
    spec: WORKDIR[:STEP|:best].
    out: name of the file, which ends in .safetensors.
    dialect: of the net's family, see `convert`.

  Returns:
    (the family, the step of the checkpoint).

  Raises:
    ValueError: no such run or dialect, a run whose models no public file can hold, or one that
      does not say how recordings are cut and preprocessed.
  """
  runner = inference.open_workdir(spec)
  trainer = runner.trainer
  if not hasattr(trainer, "weights"):
    raise ValueError(
      f"{spec}: runs of the trainer {runner.config.trainer.name!r} cannot be exported."
    )
  family, weights = runner.config.models.net.model, trainer.weights(runner.variables)
  if getattr(trainer.net, "layer", None) or set(weights["head"]) != {"dense0", "dense1"}:
    raise ValueError(
      f"{spec}: a net that is read out at a middle layer, or a head of other than two layers, has "
      "no public spelling."
    )
  described = getattr(C.resolve("convert", family), "described", None)
  if described is None:
    raise ValueError(f"{spec}: there is no table of keys for the net {family!r}.")
  metadata = {"source": os.path.basename(runner.workdir), "step": str(runner.step)}
  metadata |= {"pool": trainer.net.pool, "activation": trainer.head.activation}
  pp, sr, chunk = embed.front_end(runner.config, spec)
  if sr != ops_fbank.SR:
    raise ValueError(f"{spec}: {sr} Hz: readers of the file expect {ops_fbank.SR} Hz.")
  metadata |= {"pp": pp} | ({"chunk": json.dumps(chunk)} if chunk else {})
  convert.save(
    out, weights, family, dialect,
    config=described(trainer.net), metadata=metadata,
  )  # fmt: skip
  return family, runner.step


def history(workdir: str) -> str:
  """All rows of a run as CSV: a column for each name, in the order of their first appearance."""
  rows = metrics.read_rows(os.path.join(workdir, metrics.FILE))
  names = list(dict.fromkeys(k for row in rows for k in row))
  out = io.StringIO()
  writer = csv.DictWriter(out, names, lineterminator="\n")
  writer.writeheader()
  writer.writerows(rows)
  return out.getvalue()


def parser() -> argparse.ArgumentParser:
  """The command line."""
  p = argparse.ArgumentParser(
    prog="python -m big_audio.tools.export", description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )  # fmt: skip
  p.add_argument("run", metavar="WORKDIR[:STEP|:best]")
  p.add_argument("out", metavar="OUT.safetensors")
  p.add_argument("--dialect", default="c", help="default %(default)s")
  p.add_argument("--history", metavar="FILE.csv")
  return p


def main(argv=None) -> int:
  """The command line; returns the exit status."""
  flags = parser().parse_args(argv)
  try:
    family, step = export(flags.run, flags.out, dialect=flags.dialect)
    if flags.history:
      manifests.replace(flags.history, history(C.parse_spec(flags.run)[0]))
  except (ValueError, OSError) as e:
    print(f"export: {e}", file=sys.stderr)
    return 2
  print(f"{flags.out}: {family}, step {step}")
  return 0


if __name__ == "__main__":
  sys.exit(main())
