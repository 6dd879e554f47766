"""Runs one benchmark: python -m big_audio.tools.bench NAME [--rounds=N] [--json=FILE].

A benchmark is a module of `big_audio/tools/benches/` with `run(rounds) -> rows`, where rows come
from `timing.interleaved` or are what `timing.table` takes (columns may be added). Without NAME it
lists them.
"""

import importlib
import json
import pkgutil
from collections.abc import Sequence

from absl import app, flags

from big_audio.dsp.namespace import check_choice
from big_audio.tools import benches, timing

_ROUNDS = flags.DEFINE_integer("rounds", 15, "Timed calls of each candidate.", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "Also write rows and machine to this file.")


def names() -> list[str]:
  """All benchmarks."""
  return sorted(m.name for m in pkgutil.iter_modules(benches.__path__))


def main(argv: Sequence[str]) -> None:
  """Runs the benchmark that `argv` names, or lists them all."""
  if len(argv) < 2:
    print("benchmarks:", *names())
    return
  if len(argv) > 2:
    raise app.UsageError(f"expected one benchmark, got {argv[1:]}.")
  name = check_choice("bench", argv[1], names())
  rows = importlib.import_module(f"{benches.__name__}.{name}").run(_ROUNDS.value)
  machine = timing.machine()
  print(timing.table(rows))
  print(" ".join(f"{k}={v}" for k, v in machine.items()))
  if _JSON.value:
    with open(_JSON.value, "w") as f:
      json.dump({"bench": name, "machine": machine, "rows": rows}, f, indent=1)


if __name__ == "__main__":
  app.run(main)
