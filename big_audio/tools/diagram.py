"""Drawings of models: a lane for each model, a box for each module, sized by its feature map.

A map [H,W,C] is a block as high as H, as deep as W and as thick as C, all on logarithmic scales;
[L,D] is a sheet, a vector a rod. Modules that take the same array stand above one another, others
behind one another. The layout is a list of shapes in pixels, written as SVG or by matplotlib.
"""

import html
import math
import os
from dataclasses import dataclass

COLOURS = {
  "conv": "#7fb3e6",
  "dense": "#f0a875",
  "attention": "#b99ce0",
  "norm": "#cfd6dd",
  "embed": "#8fd0a8",
  "other": "#e9cf7e",
}
_COLUMN, _COLUMNS, _TEXT, _GAP, _MARGIN = 132, 8, 66, 16, 18
_INK, _DIM = "#1c2024", "#60646c"


@dataclass(frozen=True)
class Box:
  """A module: name within its model, class, output shape of one item, parameters, what it takes."""

  name: str
  kind: str
  shape: tuple[int, ...]
  count: int
  takes: int = 0


@dataclass(frozen=True)
class Lane:
  """A model: name, class, parameters, shape that goes in, and its modules in order."""

  name: str
  kind: str
  count: int
  given: tuple[int, ...]
  boxes: tuple[Box, ...]


def colour(kind: str) -> str:
  """A key of COLOURS for the class of a module."""
  k = kind.lower()
  for key, words in (
    ("norm", ("norm", "grn")),
    ("attention", ("attention", "attend")),
    ("embed", ("embed",)),
    ("conv", ("conv", "leaf")),
    ("dense", ("dense", "linear", "mlp", "einsum")),
  ):
    if any(w in k for w in words):
      return key
  return "other"


def block(shape) -> tuple[float, float, float]:
  """(height, thickness, depth) in pixels of the block that stands for a shape."""
  long = lambda n, unit, most: min(most, unit * (1 + math.log2(max(n, 1))))
  if len(shape) >= 3:
    h, w, c = shape[0], math.prod(shape[1:-1]), shape[-1]
    return 4 + long(h, 13, 110), long(c, 5.5, 52), long(w, 5, 40)
  if len(shape) == 2:
    return 4 + long(shape[0], 13, 110), long(shape[1], 5.5, 52), 6
  return 4 + long(shape[0] if shape else 1, 11, 110), 9, 6


class Drawing:
  """Shapes on a page of `width` x `height` pixels, y downwards."""

  def __init__(self):
    self.width = self.height = 0.0
    self.shapes: list[tuple] = []

  def polygon(self, points, fill):
    """A filled shape with an outline."""
    self.shapes.append(("polygon", points, fill))

  def arrow(self, a, b):
    """From a to b."""
    self.shapes.append(("arrow", a, b))

  def text(self, at, words, *, size=11.0, ink=_INK, bold=False, anchor="middle"):
    """One line; `at` is its baseline."""
    self.shapes.append(("text", at, words, size, ink, bold, anchor))

  def svg(self) -> str:
    """A whole SVG document."""
    out = [
      f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width:.0f}" '
      f'height="{self.height:.0f}" viewBox="0 0 {self.width:.0f} {self.height:.0f}" '
      'font-family="system-ui, Helvetica, Arial, sans-serif">',
      '<rect width="100%" height="100%" fill="#fff"/>',
    ]
    for kind, *rest in self.shapes:
      if kind == "polygon":
        points, fill = rest
        where = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        out.append(f'<polygon points="{where}" fill="{fill}" stroke="{_INK}" stroke-width=".7"/>')
      elif kind == "arrow":
        (x0, y0), (x1, y1) = rest
        out.append(
          f'<path d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}" stroke="{_DIM}" fill="none"/>'
        )
        where = " ".join(f"{x:.1f},{y:.1f}" for x, y in _head(*rest))
        out.append(f'<polygon points="{where}" fill="{_DIM}"/>')
      else:
        (x, y), words, size, ink, bold, anchor = rest
        weight = ' font-weight="600"' if bold else ""
        # As an attribute the colour would lose against a page's style sheet.
        out.append(
          f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight} '
          f'style="fill:{ink};font-size:{size:.1f}px">{html.escape(words)}</text>'
        )
    return "\n".join([*out, "</svg>\n"])

  def png(self, path: str) -> None:
    """Writes the same by matplotlib, at twice the pixels."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Polygon

    fig = Figure(figsize=(self.width / 100, self.height / 100))
    axis = fig.add_axes((0, 0, 1, 1), xlim=(0, self.width), ylim=(self.height, 0))
    axis.axis("off")
    sides = dict(middle="center", start="left", end="right")
    for kind, *rest in self.shapes:
      if kind == "polygon":
        axis.add_patch(Polygon(rest[0], facecolor=rest[1], edgecolor=_INK, linewidth=0.5))
      elif kind == "arrow":
        (x0, y0), (x1, y1) = rest
        axis.plot([x0, x1], [y0, y1], color=_DIM, linewidth=0.8)
        axis.add_patch(Polygon(_head(*rest), facecolor=_DIM, linewidth=0))
      else:
        (x, y), words, size, ink, bold, anchor = rest
        axis.text(
          x, y, words.replace("$", r"\$"), fontsize=size * 0.68, color=ink, ha=sides[anchor],
          fontweight="bold" if bold else "normal", va="baseline",
        )  # fmt: skip
    temporary = f"{path}.{os.getpid()}.tmp"
    fig.savefig(temporary, dpi=200, format="png", facecolor="white", metadata={"Software": None})
    os.replace(temporary, path)


def _head(a, b):
  """The triangle at the end of an arrow."""
  (x0, y0), (x1, y1) = a, b
  length = math.hypot(x1 - x0, y1 - y0) or 1
  ux, uy = (x1 - x0) / length, (y1 - y0) / length
  back = lambda side: (x1 - 7 * ux - side * 3.2 * uy, y1 - 7 * uy + side * 3.2 * ux)
  return [(x1, y1), back(1), back(-1)]


def places(boxes) -> list[tuple[int, int]]:
  """(column, row) of each box: beside those that take the same array, else behind the one before.

  A box that takes what an earlier one took begins a row below it.
  """
  taken: dict[int, int] = {}
  out: list[tuple[int, int]] = []
  column, row, rows = -1, 0, 0
  for box in boxes:
    if box.takes in taken:
      column = taken[box.takes]
      rows += 1
      row = rows
    else:
      column += 1
      taken[box.takes] = column
      if row and (column, 0) not in out and all(c < column for c, _ in out):
        row = rows = 0  # branches have met again
    out.append((column, row))
  return out


def draw(lanes) -> Drawing:
  """The drawing of models."""
  d = Drawing()
  y = _MARGIN
  for lane in lanes:
    y = _lane(d, lane, y) + _GAP
  used = dict.fromkeys(colour(b.kind) for lane in lanes for b in lane.boxes)
  x = _MARGIN
  for key in used:
    d.polygon([(x, y), (x + 12, y), (x + 12, y + 12), (x, y + 12)], COLOURS[key])
    d.text((x + 17, y + 10), key, ink=_DIM, anchor="start")
    x += 90
  d.height = y + 12 + _MARGIN
  right = [p[0] for s in d.shapes if s[0] == "polygon" for p in s[1]]
  texts = [
    s[1][0] + len(s[2]) * s[3] * 0.6 * (0.5 if s[6] == "middle" else 1)
    for s in d.shapes
    if s[0] == "text"
  ]
  d.width = max([*right, *texts, 320]) + _MARGIN
  return d


def _lane(d, lane, y) -> float:
  """Draws a model from `y` down; returns where it ends."""
  d.text((_MARGIN, y + 12), lane.name, size=14, bold=True, anchor="start")
  about = f"{lane.kind}, takes {_size(lane.given)}, {lane.count:,} parameters"
  d.text((_MARGIN, y + 28), about, ink=_DIM, anchor="start")
  y += 40
  at = places(lane.boxes)
  given = Box("input", "", lane.given, -1)
  boxes = {(0, 0): given}
  boxes |= {(c + 1, r): b for (c, r), b in zip(at, lane.boxes, strict=True)}
  last = max(c for c, _ in boxes)
  for first in range(0, last + 1, _COLUMNS):
    line = {k: b for k, b in boxes.items() if first <= k[0] < first + _COLUMNS}
    rows = sorted({r for _, r in line})
    tops = {}
    for r in rows:
      tall = max(sum(block(b.shape)[::2]) for (_, rr), b in line.items() if rr == r)
      tops[r] = (y, tall)
      y += tall + _TEXT + _GAP
    middle = lambda r, tops=tops: tops[r][0] + tops[r][1] / 2
    centre = lambda c, first=first: _MARGIN + (c - first + 0.5) * _COLUMN
    for (c, r), box in line.items():
      top, tall = tops[r]
      _cuboid(d, box, centre(c), top, tall)
      if (c, r) == (0, 0):
        continue
      source = (c - 1, r) if (c - 1, r) in boxes else (c - 1, 0)
      half = lambda b: (block(b.shape)[1] + block(b.shape)[2]) / 2 + 4
      end = (centre(c) - half(box), middle(r))
      begin = (end[0] - 24, end[1])
      if source in line:
        begin = (centre(c - 1) + half(line[source]), middle(source[1]))
      d.arrow(begin, end)
  return y


def _cuboid(d, box, x, top, tall):
  height, thick, deep = block(box.shape)
  fill = COLOURS[colour(box.kind)] if box.kind else "#ffffff"
  left = x - (thick + deep) / 2
  y = top + (tall - height - deep) / 2 + deep
  right, bottom = left + thick, y + height
  d.polygon([(left, y), (right, y), (right, bottom), (left, bottom)], fill)
  over = [(left, y), (left + deep, y - deep), (right + deep, y - deep), (right, y)]
  d.polygon(over, _shade(fill, 1.08))
  side = [(right, y), (right + deep, y - deep), (right + deep, bottom - deep), (right, bottom)]
  d.polygon(side, _shade(fill, 0.82))
  words = [(box.name, _INK, True), (_size(box.shape), _INK, False)]
  if box.count >= 0:
    words.append((box.kind, _DIM, False))
    words.append((f"{box.count:,}" if box.count else "", _DIM, False))
  for i, (text, ink, bold) in enumerate(words):
    size = min(11.0, (_COLUMN - 8) / (0.6 * max(len(text), 1)))
    d.text((x, top + tall + 14 + 14 * i), text, size=size, ink=ink, bold=bold)


def _shade(fill, factor):
  parts = [min(255, round(int(fill[i : i + 2], 16) * factor)) for i in (1, 3, 5)]
  return "#" + "".join(f"{p:02x}" for p in parts)


def _size(shape):
  return " x ".join(map(str, shape)) or "1"
