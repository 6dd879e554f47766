"""The look of report.html: its style sheet, its script, and line charts as SVG text.

Colours are CSS variables, so one page serves light and dark. The script only adds comfort (values
under the pointer, one step of samples at a time); without it the page shows everything.
"""

import html
import json
import math

CSS = """
:root { color-scheme: light dark; --bg: #fbfbfa; --card: #fff; --ink: #1c2024; --dim: #60646c;
  --line: #e2e4e7; --accent: #0b68cb; --warn: #ad5700;
  --s0: #0b68cb; --s1: #d9541e; --s2: #18864b; --s3: #8e4ec6; --s4: #b0891a; --s5: #0e8f9c;
  --s6: #c2298a; --s7: #60646c; }
@media (prefers-color-scheme: dark) { :root { --bg: #111315; --card: #1a1d20; --ink: #e8eaed;
  --dim: #9aa0a8; --line: #2e3237; --accent: #6cb2ff; --warn: #f5b04c;
  --s0: #6cb2ff; --s1: #ff8f5c; --s2: #4cc38a; --s3: #c592ff; --s4: #e5c453; --s5: #4ccce6;
  --s6: #ff7fc5; --s7: #9aa0a8; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 28px 24px 64px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 2px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 40px 0 12px; }
h3 { font-size: 15px; margin: 22px 0 8px; color: var(--dim); font-weight: 600; }
p { margin: 6px 0; } .dim { color: var(--dim); } .warn { color: var(--warn); }
nav { margin: 12px 0 0; } nav a { margin-right: 16px; color: var(--accent); text-decoration: none; }
code, pre, td, th { font-variant-numeric: tabular-nums; }
code, pre { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
pre { margin: 0; padding: 14px; overflow: auto; max-height: 520px; font-size: 13px; }
.facts { display: flex; flex-wrap: wrap; gap: 12px; margin-top: 18px; }
.fact { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 10px 16px; min-width: 120px; }
.fact b { display: block; font-size: 20px; font-weight: 600; line-height: 1.3; }
.fact span { color: var(--dim); font-size: 13px; }
.grid { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
figure { margin: 0; padding: 10px 12px 6px; min-width: 0; }
figcaption { display: flex; justify-content: space-between; gap: 10px; font-size: 14px; }
figcaption b { overflow-wrap: anywhere; font-weight: 600; }
.legend { font-size: 12.5px; color: var(--dim); display: flex; flex-wrap: wrap; gap: 2px 12px; }
.legend i { display: inline-block; width: 14px; height: 3px; border-radius: 2px;
  margin-right: 5px; vertical-align: middle; }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 10.5px; fill: var(--dim); font-family: inherit; }
svg .g { stroke: var(--line); } svg .l { fill: none; stroke-width: 1.7; stroke-linejoin: round; }
svg .x { stroke: var(--dim); stroke-dasharray: 2 2; visibility: hidden; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: right; padding: 5px 12px; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th { color: var(--dim); font-weight: 600; } th:first-child, td:first-child { text-align: left; }
td:first-child { white-space: normal; overflow-wrap: anywhere; }
tr:last-child td { border-bottom: 0; }
details > summary { cursor: pointer; padding: 10px 14px; font-weight: 600; }
select { font: inherit; padding: 3px 8px; }
.item { padding: 14px; margin-bottom: 14px; }
.item h4 { margin: 0 0 10px; font-size: 14px; overflow-wrap: anywhere; }
.item img { max-width: 100%; border-radius: 6px; background: #fff; display: block; }
.players { display: flex; flex-wrap: wrap; gap: 12px 22px; margin-top: 12px; }
.players label { display: block; font-size: 13px; color: var(--dim); margin-bottom: 3px; }
audio { height: 36px; width: 244px; max-width: 100%; }
#tip { position: fixed; pointer-events: none; background: var(--ink); color: var(--bg);
  font-size: 12.5px; padding: 4px 8px; border-radius: 6px; white-space: pre; display: none;
  z-index: 9; font-variant-numeric: tabular-nums; }
"""

JS = """
const tip = document.getElementById("tip");
for (const svg of document.querySelectorAll("svg[data-series]")) {
  const series = JSON.parse(svg.dataset.series), box = JSON.parse(svg.dataset.box);
  const rule = svg.querySelector(".x");
  svg.addEventListener("pointermove", e => {
    const r = svg.getBoundingClientRect(), px = (e.clientX - r.left) * box.w / r.width;
    const at = box.lo + (px - box.left) / (box.w - box.left - box.right) * (box.hi - box.lo);
    let best = null;
    for (const [, pts] of series) for (const [x] of pts)
      if (best === null || Math.abs(x - at) < Math.abs(best - at)) best = x;
    if (best === null) return;
    const lines = ["step " + best];
    for (const [name, pts] of series) {
      const p = pts.find(p => p[0] === best);
      if (p) lines.push((name ? name + "  " : "") + p[1]);
    }
    const span = box.hi - box.lo || 1;
    const x = box.left + (best - box.lo) / span * (box.w - box.left - box.right);
    rule.setAttribute("x1", x); rule.setAttribute("x2", x); rule.style.visibility = "visible";
    tip.textContent = lines.join("\\n"); tip.style.display = "block";
    tip.style.left = Math.min(e.clientX + 14, innerWidth - tip.offsetWidth - 8) + "px";
    tip.style.top = e.clientY + 14 + "px";
  });
  svg.addEventListener("pointerleave", () => {
    tip.style.display = "none"; rule.style.visibility = "hidden";
  });
}
const pick = document.getElementById("pick");
if (pick) {
  const show = () => { for (const s of document.querySelectorAll("section[data-step]"))
    s.hidden = s.dataset.step !== pick.value; };
  pick.addEventListener("change", show); show(); pick.closest("p").hidden = false;
}
"""

_W, _H, _LEFT, _RIGHT, _TOP, _BOTTOM = 360, 178, 50, 10, 8, 22
_MAX_POINTS = 300


def text(value):
  """Any value as text that is safe inside HTML and quoted attributes."""
  return html.escape(str(value), quote=True)


def number(value):
  """A number for people: four digits, ints whole."""
  if isinstance(value, int):
    return f"{value:,}".replace(",", "\u202f") if abs(value) >= 10_000 else str(value)
  return f"{value:.4g}"


def _thin(points):
  """At most about _MAX_POINTS of (x, y), keeping the extremes of every stretch."""
  if len(points) <= _MAX_POINTS:
    return points
  size, out = math.ceil(len(points) / (_MAX_POINTS // 2)), []
  for i in range(0, len(points), size):
    part = points[i : i + size]
    out += sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])})
  return [*out, points[-1]] if out[-1] != points[-1] else out


def _ticks(lo, hi, n=4):
  """Round numbers in [lo, hi]."""
  if hi <= lo:
    return [lo]
  raw = (hi - lo) / n
  unit = 10.0 ** math.floor(math.log10(raw))
  step = unit * next(m for m in (1, 2, 2.5, 5, 10) if m * unit >= raw * 0.999)
  first = math.ceil(lo / step - 1e-9)
  return [k * step for k in range(first, math.floor(hi / step + 1e-9) + 1)]


def _log_ticks(lo, hi):
  """Powers of ten in [lo, hi] (both log10); 1, 2, 5 times them in a short range."""
  decades = range(math.floor(lo), math.ceil(hi) + 1)
  mantissas = (1, 2, 5) if hi - lo < 2.2 else (1,)
  ticks = [d + math.log10(m) for d in decades for m in mantissas]
  ticks = [t for t in ticks if lo <= t <= hi]
  return ticks[:: math.ceil(len(ticks) / 6)]


def _labels(ticks):
  """As few digits as tell the ticks apart."""
  for digits in range(3, 17):
    out = [f"{t:.{digits}g}" if abs(t) > 1e-12 * abs(ticks[-1]) else "0" for t in ticks]
    if len(set(out)) == len(out):
      break
  return out


def _scale(values):
  """(to axis, from axis, is log): logarithmic where positive values span more than 30 times."""
  if values and min(values) > 0 and max(values) / min(values) > 30:
    return math.log10, lambda a: 10.0**a, True
  return float, float, False


def chart(title, series):
  """A line chart as <figure>.

  Args:
    title: str.
    series: list of (name, [(step, value)]); not finite values are left out and counted.

  Returns:
    str of HTML; everything in it is escaped.
  """
  finite = [(name, [(x, y) for x, y in pts if math.isfinite(y)]) for name, pts in series]
  dropped = sum(len(p) for _, p in series) - sum(len(p) for _, p in finite)
  values = [y for _, pts in finite for _, y in pts]
  steps = [x for _, pts in finite for x, _ in pts]
  fwd, back, is_log = _scale(values)
  notes = ["log"] if is_log else []
  notes += [f'<span class="warn">{dropped} not finite</span>'] if dropped else []
  last = number(series[0][1][-1][1]) if len(series) == 1 else ""
  head = (
    f"<figure class=card><figcaption><b>{text(title)}</b>"
    f"<span class=dim>{' · '.join([*notes, last] if last else notes)}</span></figcaption>"
  )
  if len(series) > 1:
    keys = "".join(
      f'<span><i style="background:var(--s{i % 8})"></i>{text(n)}</span>'
      for i, (n, _) in enumerate(series)
    )
    head += f"<div class=legend>{keys}</div>"
  if not values:
    return head + "<p class=dim>no finite value yet</p></figure>"

  lo, hi = min(map(fwd, values)), max(map(fwd, values))
  pad = 0.06 * (hi - lo) or abs(hi) * 0.1 or 0.5
  lo, hi = lo - pad, hi + pad
  x_lo, x_hi = min(steps), max(steps)

  def px(x):
    return _LEFT + (x - x_lo) / ((x_hi - x_lo) or 1) * (_W - _LEFT - _RIGHT)

  def py(a):
    return _TOP + (hi - a) / (hi - lo) * (_H - _TOP - _BOTTOM)

  parts = []
  ticks = _log_ticks(lo, hi) if is_log else _ticks(lo, hi)
  for a, label in zip(ticks, _labels([back(t) for t in ticks]), strict=True):
    y = f"{py(a):.1f}"
    parts.append(f"<line class=g x1={_LEFT} x2={_W - _RIGHT} y1={y} y2={y} />")
    parts.append(f"<text x={_LEFT - 6} y={y} dy=3.5 text-anchor=end>{label}</text>")
  for x in [t for t in _ticks(x_lo, x_hi, 5) if t == int(t)]:
    anchor = "end" if px(x) > _W - 30 else "middle"
    parts.append(f"<text x={px(x):.1f} y={_H - 6} text-anchor={anchor}>{number(int(x))}</text>")
  shown = [(name, _thin(pts)) for name, pts in finite]
  for i, (_, pts) in enumerate(shown):
    color, dash = f"var(--s{i % 8})", ' stroke-dasharray="5 3"' if i >= 8 else ""
    line = " ".join(f"{px(x):.1f},{py(fwd(y)):.1f}" for x, y in pts)
    parts.append(f'<polyline class=l style="stroke:{color}"{dash} points="{line}" />')
    if pts:
      x, y = pts[-1]
      dot = f'cx={px(x):.1f} cy={py(fwd(y)):.1f} r=2.6 style="fill:{color}"'
      parts.append(f"<circle {dot} />")
  data = json.dumps([[n, [[x, float(f"{y:.6g}")] for x, y in p]] for n, p in shown])
  box = json.dumps({"w": _W, "left": _LEFT, "right": _RIGHT, "lo": x_lo, "hi": x_hi})
  return (
    f'{head}<svg viewBox="0 0 {_W} {_H}" role=img aria-label="{text(title)}" '
    f'data-series="{text(data)}" data-box="{text(box)}">{"".join(parts)}'
    f"<line class=x y1={_TOP} y2={_H - _BOTTOM} /></svg></figure>"
  )


def table(head, rows):
  """A table; cells are escaped, the first column is text, the others numbers."""
  cells = "".join(f"<th>{text(c)}</th>" for c in head)
  body = "".join(f"<tr>{''.join(f'<td>{text(c)}</td>' for c in row)}</tr>" for row in rows)
  return f"<div class='card scroll'><table><tr>{cells}</tr>{body}</table></div>"
