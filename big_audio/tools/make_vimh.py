r"""Makes, looks through and converts VIMH data sets: spectrograms and a synthesiser's parameters.

  python -m big_audio.tools.make_vimh generate --help
  python -m big_audio.tools.make_vimh check data/vimh-32x32x1_8000Hz_1p0s_256dss_simple_2p
  python -m big_audio.tools.make_vimh convert data/saw data/saw_shards --to arrayrecord

`check` prints what a data set is and all that is wrong with it, and exits with 1 if anything is.
`convert` writes it as binary files ("vimh"), as pickles, or as ArrayRecord shards of the splits
train, validation and test for the source `arrayrecord`; nothing is overwritten.
"""

import argparse
import sys

from big_audio.datasets import vimh_check, vimh_convert
from big_audio.tools import vimh_generate


def check(flags: argparse.Namespace) -> int:
  """Prints a report of each folder; 1 if there is a problem."""
  bad = False
  for folder in flags.folders:
    report = vimh_check.check(folder, cap=flags.cap)
    print(folder)
    for line in report.facts:
      print(f"  {line}")
    for line in report.problems:
      print(f"  problem: {line}")
    print(f"  {len(report.problems) or 'no'} problem{'s' * (len(report.problems) != 1)}")
    bad = bad or bool(report.problems)
  return int(bad)


def convert(flags: argparse.Namespace) -> int:
  """Converts a data set and prints what was read and written."""
  form = vimh_convert.convert(
    flags.source,
    flags.target,
    flags.to,
    form=flags.form,
    shard_size=flags.shard_size,
    validation=flags.validation,
    seed=flags.seed,
  )
  print(f"{flags.source} ({form}) -> {flags.target} ({flags.to})")
  if flags.to == "arrayrecord":
    print(f'source="arrayrecord", files="{flags.target}/{{split}}-*.arrayrecord", split="train"')
  return 0


def _above(least, kind):
  def read(text):
    try:
      value = kind(text)
    except ValueError:
      value = None
    if value is None or not value >= least:
      raise argparse.ArgumentTypeError(f"expected a number of at least {least}, got {text!r}")
    return value

  return read


def parser() -> argparse.ArgumentParser:
  """The command line."""
  p = argparse.ArgumentParser(
    prog="python -m big_audio.tools.make_vimh", description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )  # fmt: skip
  sub = p.add_subparsers(dest="command", required=True, metavar="generate|check|convert")
  g = sub.add_parser("generate", help="synthesise a data set")
  vimh_generate.add_flags(g)
  g.set_defaults(run=vimh_generate.run)
  c = sub.add_parser("check", help="what data sets are, and what is wrong with them")
  c.add_argument("folders", metavar="DIR", nargs="+")
  c.add_argument("--cap", type=_above(1, int), default=5,
                 help="records told about for each kind of fault, default %(default)s")  # fmt: skip
  c.set_defaults(run=check)
  v = sub.add_parser("convert", help="write a data set in another form")
  v.add_argument("source", metavar="SOURCE")
  v.add_argument("target", metavar="TARGET")
  v.add_argument("--to", choices=vimh_convert.TARGETS, required=True)
  v.add_argument("--form", choices=vimh_convert.FORMS,
                 help="what to read if SOURCE has several; default: the first")  # fmt: skip
  v.add_argument("--shard-size", type=_above(1, int), default=4096,
                 help="items in a shard, default %(default)s")  # fmt: skip
  v.add_argument("--validation", type=_above(0, float), default=0.1,
                 help="share of train for shards of validation, default %(default)s")  # fmt: skip
  v.add_argument("--seed", type=_above(0, int), default=0, help="of that choice")
  v.set_defaults(run=convert)
  return p


def main(argv=()) -> int:
  """The command line; what a user can mend ends it with one message."""
  flags = parser().parse_args(list(argv))
  try:
    return flags.run(flags)
  except KeyboardInterrupt:
    sys.exit("make_vimh: interrupted.")
  except (ValueError, OSError) as e:
    sys.exit(f"make_vimh: {e}")


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
