r"""Converts weights of public models to ours and back: every key is used and none is missing.

  python -m big_audio.tools.convert_weights --family ast \
    MIT/ast-finetuned-audioset-10-10-0.4593 ast.safetensors
  python -m big_audio.tools.convert_weights --family ast audioset_10_10_0.4593.pth ast.safetensors
  python -m big_audio.tools.convert_weights --family ast ast.safetensors public.safetensors \
    --dialect a
  python -m big_audio.tools.convert_weights --family ast ast.safetensors short.safetensors \
    --frames 512 --positions cut

IN is a file (.safetensors, or .pt, .pth and .bin where PyTorch is installed), a folder of a public
checkpoint, or a model on the Hugging Face hub. OUT is a .safetensors file; beside it a .json says
where the weights come from: source, sha256, licence, arguments of the model.
"""

import argparse
import json
import os
import re
import sys

from big_audio import config as C
from big_audio import convert, trees
from big_audio.tools import hub

_SIZES = ("frames", "bins", "stride_time", "stride_freq")


def parser() -> argparse.ArgumentParser:
  """The command line."""
  p = argparse.ArgumentParser(
    prog="python -m big_audio.tools.convert_weights", description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )  # fmt: skip
  p.add_argument("source", metavar="IN", help="a file, a folder, or owner/name on the hub")
  p.add_argument("target", metavar="OUT", help="a .safetensors file")
  p.add_argument("--family", required=True, help="which table of keys, such as ast")
  p.add_argument("--dialect", default="native", help="how OUT spells its keys; default %(default)s")
  p.add_argument("--revision", help="branch, tag or commit on the hub; default the newest")
  p.add_argument("--heads", type=_size, help="of IN, where no config.json says so")
  p.add_argument(
    "--trained", type=_fact, action="append", default=[], metavar="NAME=N",
    help="what else nothing in IN says of its model, such as frames=512; repeat it",
  )  # fmt: skip
  for name in _SIZES:
    p.add_argument(f"--{name.replace('_', '-')}", type=_size, help="of the model that OUT is for")
  p.add_argument("--positions", choices=("cut", "interpolate"), help="how its positions are made")
  return p


def run(flags: argparse.Namespace) -> dict:
  """Converts, writes OUT and its .json, prints what was mapped, and returns what the .json says.

  Raises:
    ValueError: IN cannot be found, read or mapped, or OUT cannot hold it.
  """
  if not flags.target.endswith(".safetensors"):
    raise ValueError(f"{flags.target}: expected a name that ends in .safetensors.")
  path, source = _find(flags.source, flags.revision)
  facts = dict(flags.trained) | ({"heads": flags.heads} if flags.heads else {})
  found = convert.load(path, flags.family, dtype=None, config=facts)
  print(f'{source}: dialect "{found.dialect}"; tensors, numbers, theirs, ours, change:')
  print(found.table)
  params, config = found.params, found.config
  new = {k: getattr(flags, k) for k in _SIZES if getattr(flags, k)}
  if new:
    config = {**config, **new}
    net = C.resolve("models", flags.family).Model(**config)
    net_params = convert.fit(
      source, params["net"], flags.family, found.config, net, flags.positions
    )
    params = {**params, "net": net_params}
  card = {
    "source": source,
    "sha256": found.sha256,
    "licence": found.metadata["licence"],
    "family": flags.family,
    "dialect": flags.dialect,
    "config": config,
    "parameters": {name: trees.count(tree) for name, tree in params.items()},
  }
  header = {k: card[k] for k in ("source", "sha256", "licence", "family")}
  convert.save(flags.target, params, flags.family, flags.dialect, config=config, metadata=header)
  beside = flags.target.removesuffix(".safetensors") + ".json"
  with open(beside + ".tmp", "w", encoding="utf-8") as f:
    json.dump(card, f, indent=1)
  os.replace(beside + ".tmp", beside)
  counts = ", ".join(f"{name} {n:,}" for name, n in card["parameters"].items())
  print(f"{flags.target}: {counts}; sha256 of the source {found.sha256}; licence {card['licence']}")
  return card


def _find(source, revision) -> tuple[str, str]:
  """(local path, what to call it)."""
  if os.path.exists(source):
    if revision:
      raise ValueError(f"{source} is a local path, which has no --revision.")
    return source, os.path.basename(os.path.normpath(source))
  if not re.fullmatch(r"[\w.-]+/[\w.-]+", source) or source.startswith("."):
    raise ValueError(f"{source}: there is no such file or folder.")
  folder = hub.fetch_weights(source, revision)
  return folder, f"{source}@{os.path.basename(folder)}"  # the folder is named after the commit


def _size(text):
  if not text.isdigit() or int(text) < 1:
    raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
  return int(text)


def _fact(text):
  name, _, value = text.partition("=")
  return name, _size(value)


def main(argv=()) -> None:
  """The command line; what a user can mend ends it with one message."""
  try:
    run(parser().parse_args(list(argv)))
  except (ValueError, OSError, ImportError) as e:
    sys.exit(f"convert_weights: {e}")


if __name__ == "__main__":
  main(sys.argv[1:])
