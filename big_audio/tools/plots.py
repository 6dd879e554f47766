"""Plots of many runs: quality against the number of evaluations, the bitrate, or any setting.

  python -m big_audio.tools.plots tables/nfe.json --x nfe --y mel --lines method,tokens \\
    --where net=convnext1d --out nfe.png
  python -m big_audio.tools.plots tables/rates.json --x kbps --y pesq_nb --lines method,nfe \\
    --out rates.svg

Sources, keys and --where as in `big_audio.tools.tables`. --x may be a measure, such as kbps: each
number is then drawn over that measure of the same run. Points are medians over seeds, bars reach
from the least to the largest; --floor ROW draws a row as a dashed line: identity, or real, which
is the floor of --y fd_half and the like (fd is of paired sets and can lie below it).
"""

import argparse
import os
import sys

from big_audio.tools import results
from big_audio.tools.tables import keys


def series(records, x: str, y: str, lines, where=()) -> dict[str, list[tuple]]:
  """{label: [(x, median, least, largest)]}, sorted by x.

  Args:
    records: of `results.load`.
    x: a key, or a measure of the same run, step and evaluator.
    y: a measure.
    lines: keys; each combination of values is a line.
    where: conditions of `results.where`, on the drawn numbers only.

  Raises:
    ValueError: unknown measures or keys, no number for x, or numbers that fall together.
  """
  numbers = [r for r in records if r["measure"] is not None]
  measures = sorted({r["measure"] for r in numbers})
  if y not in measures:
    from big_audio import config as C

    raise ValueError(f"no measure {y!r}. {C.nearest(y, measures)}")
  drawn = [r for r in numbers if r["measure"] == y and not results.is_control(r)]
  drawn = results.where(drawn, where)
  if x in measures:
    drawn = [{**r, "settings": {**r["settings"], x: _beside(numbers, r, x)}} for r in drawn]
  drawn = [r for r in drawn if _is_number(results.get(r, x)) and _is_number(r["value"])]
  if not drawn:
    raise ValueError(f"no run has a number for x={x!r}; known measures: {', '.join(measures)}.")
  out = {}
  # Repetitions of one setting share their x, but a measured x differs a little between them.
  ordinal = [*lines] if x in measures else [*lines, x]
  for at, members in _grouped(drawn, ordinal, x, x in measures).items():
    cell = results.summary([m["value"] for m in members])
    xs = results.summary([float(results.get(m, x)) for m in members])
    label = ", ".join(str(v) for v in at[: len(lines)]) or y
    out.setdefault(label, []).append((xs["median"], cell["median"], cell["low"], cell["high"]))
  return {k: sorted(v) for k, v in sorted(out.items())}


def _grouped(records, keys_, x, measured):
  if not measured:
    return results.groups(records, keys_)
  # All that tells runs apart, but the seed and the measured x itself.
  known = [k for k in dict.fromkeys(k for r in records for k in r["settings"])]
  rest = [k for k in known if k not in (*results.SEEDS, *keys_, x)]
  plain = [{**r, "settings": {k: v for k, v in r["settings"].items() if k != x}} for r in records]
  found = results.groups(plain, [*keys_, *rest])
  values = {id(p): r for p, r in zip(plain, records, strict=True)}
  return {at: [values[id(m)] for m in members] for at, members in found.items()}


def _beside(numbers, record, measure):
  """A measure of the same run, step and evaluator: of the same row, else of the whole."""
  same = ("workdir", "step", "evaluator", "split", "ema", "dtype", "key")
  near = [
    r for r in numbers
    if r["measure"] == measure and all(r.get(k) == record.get(k) for k in same)
  ]  # fmt: skip
  for row in (record.get("row"), ""):
    for r in near:
      if (r.get("row") or "") == (row or ""):
        return r["value"]
  return None


def _is_number(v):
  return isinstance(v, (int, float)) and not isinstance(v, bool) and v == v


def draw(found, path, *, x, y, log_x=False, log_y=False, floor=None, title="") -> None:
  """Writes the picture of `series` (png, svg or pdf by the name's end)."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot as plt

  figure, axes = plt.subplots(figsize=(6, 4), constrained_layout=True)
  for label, points in found.items():
    xs, mid, low, high = zip(*points, strict=True)
    bars = [
      [m - a for m, a in zip(mid, low, strict=True)],
      [b - m for m, b in zip(mid, high, strict=True)],
    ]
    axes.errorbar(xs, mid, yerr=bars, marker="o", capsize=3, label=label)
  if floor is not None:
    axes.axhline(floor, linestyle="--", color="grey", label="floor")
  if log_x:
    ticks = sorted({p[0] for points in found.values() for p in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{t:g}" for t in ticks])
  if log_y:
    axes.set_yscale("log")
  axes.set(xlabel=x, ylabel=y, title=title)
  axes.grid(alpha=0.3)
  axes.legend()
  temporary = f"{os.path.splitext(path)[0]}.{os.getpid()}.tmp{os.path.splitext(path)[1]}"
  figure.savefig(temporary, dpi=150)
  os.replace(temporary, path)
  plt.close(figure)


def floor_of(records, row: str, y: str) -> float:
  """The median of a row's measure over all runs; raises a ValueError where no run has it."""
  values = [r["value"] for r in records if r.get("row") == row and r["measure"] == y]
  found = results.summary(values)
  if found["median"] is None:
    rows = sorted({str(r.get("row")) for r in records if r["measure"] == y})
    raise ValueError(f"--floor {row!r}: no such row of {y!r}; there are {', '.join(rows)}.")
  return found["median"]


def main(argv=None) -> int:
  """Writes a plot; returns the exit status."""
  p = argparse.ArgumentParser(
    prog="python -m big_audio.tools.plots", description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )  # fmt: skip
  p.add_argument("sources", nargs="+", metavar="SOURCES")
  p.add_argument("--x", default="nfe", help="a key or a measure (default nfe)")
  p.add_argument("--y", required=True, help="a measure")
  p.add_argument("--lines", type=keys, default=[], help="keys; a line for each combination")
  p.add_argument("--where", nargs="+", default=(), metavar="KEY=VALUE")
  p.add_argument("--floor", metavar="ROW", help="a row to draw as a dashed line")
  p.add_argument("--log-x", action="store_true")
  p.add_argument("--log-y", action="store_true")
  p.add_argument("--title", default="")
  p.add_argument("--out", required=True, help="a .png, .svg or .pdf")
  flags = p.parse_args(argv)
  try:
    if os.path.splitext(flags.out)[1] not in (".png", ".svg", ".pdf"):
      raise ValueError(f"--out {flags.out!r}: expected a name that ends in .png, .svg or .pdf.")
    records = results.load(flags.sources)
    found = series(records, flags.x, flags.y, flags.lines, flags.where)
    floor = floor_of(records, flags.floor, flags.y) if flags.floor else None
    if flags.log_x and any(p[0] <= 0 for points in found.values() for p in points):
      raise ValueError(f"--log-x: {flags.x} has values of 0 or less; choose with --where.")
    draw(found, flags.out, x=flags.x, y=flags.y, log_x=flags.log_x, log_y=flags.log_y, floor=floor,
         title=flags.title)  # fmt: skip
  except (ValueError, OSError) as e:
    print(f"plots: {e}", file=sys.stderr)
    return 2
  print(f"{flags.out}: {sum(map(len, found.values()))} points in {len(found)} lines")
  return 0


if __name__ == "__main__":
  sys.exit(main())
