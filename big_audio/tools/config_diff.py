"""Where two configs differ, one line a key.

  python -m big_audio.tools.config_diff configs/meanflow.py configs/meanflow.py:method=mf
  python -m big_audio.tools.config_diff runs/a runs/b/config.json
  python -m big_audio.tools.config_diff runs/a configs/meanflow.py --only 'models/|optimizer/'

A and B are config files with arguments, workdirs, or stored configs. The exit status is that of
diff: 0 without a difference, 1 with one, 2 for something that cannot be read.
"""

import argparse
import os
import re
import sys

from big_audio import config as C


def load(spec: str):
  """The config of a file with arguments, of a workdir, or of a stored config.json.

  Raises:
    ValueError: none of these.
  """
  if os.path.isdir(spec):
    path = os.path.join(spec, "config.json")
    if not os.path.isfile(path):
      raise ValueError(f"{spec!r} is not the workdir of a run: it has no config.json.")
    spec = path
  return C.load(spec)


def lines(a: str, b: str, only: str = "") -> list[str]:
  """`key: value in a -> value in b` for each key that differs and in which `only` is found."""
  try:
    regex = re.compile(only)
  except re.error as e:
    raise ValueError(f"--only {only!r} is not a regular expression: {e}.") from None
  differ = C.diff(load(a), load(b))
  return [f"{k}: {x!r} -> {y!r}" for k, (x, y) in differ.items() if regex.search(k)]


def main(argv=None) -> int:
  """Prints the differences; returns the exit status."""
  p = argparse.ArgumentParser(
    prog="python -m big_audio.tools.config_diff", description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )  # fmt: skip
  p.add_argument("a", metavar="A")
  p.add_argument("b", metavar="B")
  p.add_argument("--only", default="", metavar="REGEX", help="only keys in which it is found")
  flags = p.parse_args(argv)
  try:
    found = lines(flags.a, flags.b, flags.only)
  except (ValueError, OSError) as e:
    print(f"config_diff: {e}", file=sys.stderr)
    return 2
  print("\n".join(found) if found else "no difference")
  return 1 if found else 0


if __name__ == "__main__":
  sys.exit(main())
