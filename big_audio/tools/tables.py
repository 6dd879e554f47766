"""Tables of many runs: csv, latex, markdown or html.

  python -m big_audio.tools.tables runs/matrix --rows method --columns net,tokens \\
    --where evaluator=val measure=ae_mse
  python -m big_audio.tools.tables tables/nfe.json --rows run,row --columns measure --format latex

SOURCES are JSON files of `big_audio.tools.evaluate`, workdirs, or folders of workdirs. Rows and
columns are arguments of a sweep (method), keys of the stored config (config.trainer.method), or
run, step, evaluator, split, row, nfe, ema, dtype, measure, key (an evaluation with its settings).

Runs that differ in the seed alone share a cell: median [min, max]. Anything else that would fall
together is an error, never an average. The best of each column is bold (controls never are); an
empty cell shows -, a run that failed shows that. --best min|max where the name does not tell.
Of distances between distributions measure=fd_half (kid_half, ...) compares with the floor, the row
"real"; fd is of paired sets and can lie below it.
"""

import argparse
import csv
import html
import io
import re
import sys

from big_audio.tools import manifests, results

FORMATS = ("markdown", "csv", "latex", "html")
MISSING = "-"


class Table:
  """A pivot of records.

  Args:
    records: of `results.load`.
    rows, columns: keys, see `results.get`.
    best: "auto" (by the measure's name), "min", "max" or "none".
    digits: significant ones.

  Raises:
    ValueError: unknown keys, or numbers that fall together.
  """

  def __init__(self, records, rows, columns, *, best="auto", digits=3):
    keys = [*rows, *columns]
    if len(set(keys)) < len(keys):
      raise ValueError(f"--rows and --columns share a key: {', '.join(keys)}.")
    lost = [r for r in records if r["measure"] is None]
    found = [r for r in records if r["measure"] is not None]
    if not found:
      raise ValueError("no run has left a number.")
    results.check_keys(found, keys)
    self.keys_of_rows, self.keys_of_columns, self.digits = list(rows), list(columns), digits
    self.cells, self._measures, self._controls = {}, {}, set()
    for at, members in results.groups(found, keys).items():
      self.cells[at] = results.summary([m["value"] for m in members])
      self._measures[at] = members[0]["measure"]
      if results.is_control(members[0]):
        self._controls.add(at)
    n = len(rows)
    # A run without numbers takes every cell of its place that is empty.
    columns_there = list(dict.fromkeys(at[n:] for at in self.cells))
    for r in lost:
      row = tuple(results.get(r, k) for k in rows)
      mine = [results.get(r, k) for k in columns]
      for column in columns_there:
        if all(m is None or m == c for m, c in zip(mine, column, strict=True)):
          state = "failed" if r["value"] == "failed" else "unfinished"
          self.cells.setdefault((*row, *column), results.summary([state]))
      if None not in mine:
        self.cells.setdefault((*row, *mine), results.summary([str(r["value"])]))
    self.rows = sorted(dict.fromkeys(at[:n] for at in self.cells), key=_order)
    self.columns = sorted(dict.fromkeys(at[n:] for at in self.cells), key=_order)
    self.count = sum(c["of"] for at, c in self.cells.items() if at in self._measures)
    self._best = {c: self._best_of(c, best) for c in self.columns}

  def _best_of(self, column, best):
    """Shown medians of the best cells of a column."""
    found = []
    for row in self.rows:
      cell = self.cells.get((*row, *column))
      if cell and cell["median"] is not None and (*row, *column) not in self._controls:
        found.append((cell["median"], self._measures[(*row, *column)]))
    measures = {m for _, m in found}
    way = results.better(next(iter(measures))) if best == "auto" and len(measures) == 1 else best
    if way not in ("min", "max") or len(found) < 2:
      return None
    return self.show((min if way == "min" else max)(v for v, _ in found))

  def show(self, value: float) -> str:
    """A number with `digits` significant digits, without an exponent where it is short."""
    text = f"{value:.{self.digits}g}"
    return f"{float(text):g}" if "e" in text and 1e-4 <= abs(value) < 1e6 else text

  def cell(self, row, column) -> tuple[str, bool]:
    """(text, whether it is the best of its column)."""
    c = self.cells.get((*row, *column))
    if c is None:
      return MISSING, False
    if c["median"] is None:
      return c["text"], False
    text = self.show(c["median"])
    bold = text == self._best[column] and (*row, *column) not in self._controls
    if c["of"] > 1:
      text += f" [{self.show(c['low'])}, {self.show(c['high'])}]"
      if c["n"] < c["of"]:
        text += f" ({c['of'] - c['n']} of {c['of']} not finite)"
    return text, bold

  def _heads(self):
    return [_label(c) for c in self.columns] if self.keys_of_columns else ["value"]

  def markdown(self) -> str:
    """With ** around the best."""
    mark = lambda t, b: f"**{t}**" if b else t
    lines = [
      [*self.keys_of_rows, *self._heads()],
      ["---"] * (len(self.keys_of_rows) + len(self.columns)),
    ]
    lines += [[*map(_text, r), *(mark(*self.cell(r, c)) for c in self.columns)] for r in self.rows]
    return "".join(
      "| " + " | ".join(x.replace("|", "\\|") for x in line) + " |\n" for line in lines
    )

  def latex(self) -> str:
    r"""A tabular with \textbf around the best."""
    mark = lambda t, b: rf"\textbf{{{_tex(t)}}}" if b else _tex(t)
    head = " & ".join(map(_tex, [*self.keys_of_rows, *self._heads()]))
    body = [
      " & ".join([*(_tex(_text(v)) for v in r), *(mark(*self.cell(r, c)) for c in self.columns)])
      for r in self.rows
    ]
    spec = "l" * len(self.keys_of_rows) + "r" * len(self.columns)
    lines = [rf"\begin{{tabular}}{{{spec}}}", r"\hline", head + r" \\", r"\hline"]
    return "\n".join([*lines, *(b + r" \\" for b in body), r"\hline", r"\end{tabular}"]) + "\n"

  def html(self) -> str:
    """A table element with <b> around the best."""
    mark = lambda t, b: f"<b>{html.escape(t)}</b>" if b else html.escape(t)
    row = lambda tag, xs: "<tr>" + "".join(f"<{tag}>{x}</{tag}>" for x in xs) + "</tr>"
    lines = [row("th", map(html.escape, [*self.keys_of_rows, *self._heads()]))]
    for r in self.rows:
      names = (html.escape(_text(v)) for v in r)
      lines.append(row("td", [*names, *(mark(*self.cell(r, c)) for c in self.columns)]))
    return "<table>\n" + "\n".join(lines) + "\n</table>\n"

  def csv(self) -> str:
    """Whole precision; with repetitions also min, max and n of each column."""
    many = any(c["of"] > 1 for c in self.cells.values())
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    extra = (" min", " max", " n") if many else ()
    table.writerow([*self.keys_of_rows, *(h + e for h in self._heads() for e in ("", *extra))])
    for r in self.rows:
      line = [_text(v) for v in r]
      for c in self.columns:
        cell = self.cells.get((*r, *c))
        if cell is None or cell["median"] is None:
          line += [cell["text"] if cell else MISSING, *([""] * len(extra))]
        else:
          line += [cell["median"], *((cell["low"], cell["high"], cell["n"]) if many else ())]
      table.writerow(line)
    return out.getvalue()


def _order(at):
  # Numbers by size, and before texts; in these, numbers by size too (nfe8 before nfe32).
  number = lambda v: isinstance(v, (int, float)) and not isinstance(v, bool)
  split = lambda text: [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", text)]
  return [(0, v, []) if number(v) else (1, 0, split(_text(v))) for v in at]


def _text(v):
  return MISSING if v is None or v == "" else str(v)


def _label(column):
  return " ".join(map(_text, column))


def _tex(text):
  special = {c: "\\" + c for c in "&%$#_{}"}
  special |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
  return "".join(special.get(c, c) for c in text)


def keys(text: str) -> list[str]:
  """ "a,b" -> ["a", "b"]."""
  return [k for k in text.split(",") if k]


def parser() -> argparse.ArgumentParser:
  """The command line."""
  p = argparse.ArgumentParser(
    prog="python -m big_audio.tools.tables", description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )  # fmt: skip
  p.add_argument("sources", nargs="+", metavar="SOURCES")
  p.add_argument("--rows", type=keys, default=["run", "row"], help="default: run,row")
  p.add_argument("--columns", type=keys, default=["measure"], help="default: measure")
  p.add_argument("--where", nargs="+", default=(), metavar="KEY=VALUE", help="KEY=A/B: one of them")
  p.add_argument("--format", choices=FORMATS, default="markdown")
  p.add_argument("--best", choices=("auto", "min", "max", "none"), default="auto")
  p.add_argument("--digits", type=int, default=3, help="significant ones (default 3)")
  p.add_argument("--out", help="write there instead of printing")
  return p


def main(argv=None) -> int:
  """Prints or writes a table; returns the exit status."""
  flags = parser().parse_args(argv)
  try:
    records = results.where(results.load(flags.sources), flags.where)
    table = Table(records, flags.rows, flags.columns, best=flags.best, digits=flags.digits)
    text = getattr(table, flags.format)()
    if flags.out:
      manifests.replace(flags.out, text)
  except (ValueError, OSError) as e:
    print(f"tables: {e}", file=sys.stderr)
    return 2
  if not flags.out:
    sys.stdout.write(text)
  empty = len(table.rows) * len(table.columns) - len(table.cells)
  print(f"{table.count} numbers in {len(table.cells)} cells, {empty} cells empty", file=sys.stderr)
  return 0


if __name__ == "__main__":
  sys.exit(main())
