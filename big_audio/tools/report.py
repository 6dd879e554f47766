"""report.html of a workdir: curves, final numbers, samples to look at and listen to, checkpoints.

  python -m big_audio.tools.report WORKDIR [--out FILE] [--embed_mb 24]

One file without any request to the network: send it, open it anywhere, light or dark. It is made
from what is on disk, so it works while the run goes on, and for a run of another machine.
"""

import base64
import datetime
import json
import os
import pathlib
import re
import sys

from absl import app, flags

from big_audio import clock, metrics
from big_audio.tools import report_page as page
from big_audio.tools.evaluate import UNAVAILABLE
from big_audio.tools.results import CONTROLS

_MIME = {".wav": "audio/wav", ".png": "image/png"}


def size_text(n):
  """Bytes for people: 999 B, 1.5 MB."""
  for unit in ("B", "kB", "MB", "GB"):
    if n < 1000 or unit == "GB":
      return f"{n:.0f} {unit}" if unit == "B" or n >= 100 else f"{n:.3g} {unit}"
    n /= 1000


def folder_bytes(path):
  """Bytes of all files below a folder; links are not followed."""
  files = (os.path.join(root, f) for root, _, names in os.walk(path) for f in names)
  return sum(os.lstat(f).st_size for f in files if os.path.lexists(f))


def split_name(name):
  """Metric name -> (group, series, leaf): "val/audio/nfe1/si_sdr" -> val/audio, nfe1, si_sdr."""
  parts = name.split("/")
  head = 2 if parts[0] == "val" and len(parts) > 2 else 1
  if len(parts) == 1:
    return "run", "", name
  return "/".join(parts[:head]), "/".join(parts[head:-1]), parts[-1]


def _group(rows):
  """{group: {leaf: {series: [(step, value)]}}} in the order train, val, the rest, z."""
  out = {}
  for row in rows:
    for name, value in row.items():
      if name != "step":
        group, series, leaf = split_name(name)
        points = out.setdefault(group, {}).setdefault(leaf, {}).setdefault(series, [])
        points.append((row["step"], value))
  rank = lambda g: (g == "z", not g.startswith("train"), not g.startswith("val"), g)
  return {g: out[g] for g in sorted(out, key=rank)}


def _natural(name):
  """Sorts nfe2 before nfe10."""
  return [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)]


def _numbers(groups):
  """The last value of every metric; evaluators with several rows become rows x metrics."""
  out, flat = [], []
  for group, leaves in groups.items():
    if group == "z":
      continue
    there = {s for by_series in leaves.values() for s in by_series}
    series = sorted(there - {UNAVAILABLE}, key=_natural)
    if len(series) > 1 and group != "train":
      step = max(p[-1][0] for by_series in leaves.values() for p in by_series.values())
      rows = [[s or "-", *(_cell(by_series, s) for by_series in leaves.values())] for s in series]
      out.append(f"<h3>{page.text(group)}, step {step}</h3>" + page.table(["", *leaves], rows))
      continue
    for leaf, by_series in leaves.items():
      for s, points in by_series.items():
        values = [v for _, v in points]
        name = "/".join(x for x in (group if group != "run" else "", s, leaf) if x)
        step, last = points[-1]
        if s == UNAVAILABLE:  # in place of a value, where an evaluator has one row only
          flat.append([name.replace(f"{s}/", ""), UNAVAILABLE, str(step), "", ""])
          continue
        flat.append([name, *map(page.number, (last, step, min(values), max(values)))])
  if flat:
    out.insert(0, page.table(["metric", "last", "at step", "min", "max"], flat))
  return "".join(out)


def _cell(by_series, s):
  """The last value of a row; "unavailable" for a measure whose package is missing."""
  if s in by_series:
    return page.number(by_series[s][-1][1])
  return UNAVAILABLE if UNAVAILABLE in by_series and s else ""


def _curves(groups):
  out = []
  for group, leaves in groups.items():
    charts = ""
    for leaf, by_series in leaves.items():
      names = sorted(by_series.keys() - {UNAVAILABLE}, key=_natural)
      if not names:
        continue
      drawn = [s for s in names if s not in CONTROLS] or names  # controls would flatten the curves
      title = f"{names[0]}/{leaf}" if len(names) == 1 and names[0] else leaf
      charts += page.chart(title, [(s, by_series[s]) for s in drawn])
    grid = f"<div class=grid>{charts}</div>"
    if hidden := [c for c in CONTROLS if any(c in by_series for by_series in leaves.values())]:
      grid += f"<p class=dim>Not drawn, see the table: {', '.join(hidden)}.</p>"
    if group == "z":  # about the machine, not about the model
      out.append(f"<details><summary>z: clock, speed and memory</summary>{grid}</details>")
    else:
      out.append(f"<h3>{page.text(group)}</h3>{grid}")
  return "".join(out)


class _Embedder:
  """Turns files into data URIs until a budget is spent; counts what did not fit."""

  def __init__(self, limit):
    self.limit, self.used, self.left_out = limit, 0, 0

  def uri(self, path):
    size = path.stat().st_size
    if self.used + size > self.limit:
      self.left_out += 1
      return None
    self.used += size
    data = base64.b64encode(path.read_bytes()).decode()
    return f"data:{_MIME[path.suffix.lower()]};base64,{data}"


def _items(folder):
  """[(title, png or None, [(label, wav)])] of one step: `x.png` takes `x_<label>.wav`."""
  files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _MIME and p.is_file())
  files = [p for p in files if not p.is_symlink()]
  wavs = [p for p in files if p.suffix.lower() == ".wav"]
  out = []
  # Longest stem first, so that "a_b.png" gets "a_b_input.wav" before "a.png" does.
  for png in sorted((p for p in files if p not in wavs), key=lambda p: -len(p.stem)):
    own = [w for w in wavs if w.parent == png.parent and w.stem.startswith(png.stem + "_")]
    wavs = [w for w in wavs if w not in own]
    labelled = [(w.stem[len(png.stem) + 1 :], w) for w in own]
    out.append((str(png.relative_to(folder).with_suffix("")), png, labelled))
  out += [(str(w.relative_to(folder)), None, [("", w)]) for w in wavs]
  return sorted(out, key=lambda item: item[0])


def _sample(title, png, wavs, embed):
  body = ""
  if png:
    uri = embed.uri(png)
    body += (
      f'<img src="{uri}" alt="{page.text(title)}">'
      if uri
      else f"<p class=dim>{page.text(png.name)}: not embedded, too large</p>"
    )
  players = ""
  for label, wav in sorted(wavs, key=lambda w: (w[0] != "input", w[0])):
    uri = embed.uri(wav)
    player = (
      f'<audio controls preload=none src="{uri}"></audio>'
      if uri
      else f"<span class=dim>{page.text(wav.name)}: not embedded, too large</span>"
    )
    players += f"<div><label>{page.text(label)}</label>{player}</div>"
  players = f"<div class=players>{players}</div>" if players else ""
  return f"<div class='card item'><h4>{page.text(title)}</h4>{body}{players}</div>"


def _steps(folder):
  """Sub-folders named by a step, latest first: [(step, path)]."""
  if not folder.is_dir():
    return []
  found = [(int(p.name), p) for p in folder.iterdir() if re.fullmatch(r"\d{1,18}", p.name)]
  return sorted((f for f in found if f[1].is_dir() and not f[1].is_symlink()), reverse=True)


def _samples(workdir, embed_bytes):
  steps = [(step, _items(path)) for step, path in _steps(workdir / "samples")]
  steps = [(step, items) for step, items in steps if items]
  if not steps:
    return "<p class=dim>No samples yet: the evaluator <code>samples</code> writes them.</p>"
  embed, sections, listed = _Embedder(embed_bytes), [], []
  for step, items in steps:
    if embed.left_out:  # the newest steps have filled the page; older ones are only named
      listed.append(f"{step}: {len(items)} items")
      continue
    body = "".join(_sample(*item, embed) for item in items)
    sections.append(f'<section data-step="{step}"><h3>step {step}</h3>{body}</section>')
  shown = steps[: len(sections)]
  options = "".join(f"<option value={s}>{s}</option>" for s, _ in shown)
  note = f"{size_text(embed.used)} embedded, at most {size_text(embed_bytes)}, newest first"
  if embed.left_out:
    note += f"; {embed.left_out} files of step {shown[-1][0]} did not fit (see --embed_mb)"
  if listed:
    note += ". Older steps, in the workdir only: " + "; ".join(listed)
  return (
    f"<p hidden><label>step <select id=pick>{options}</select></label></p>"
    f"<p class=dim>{page.text(note)}.</p>{''.join(sections)}"
  )


def _checkpoints(workdir):
  folder = workdir / "checkpoints"
  steps = _steps(folder)
  rows = [[str(step), size_text(folder_bytes(path))] for step, path in steps]
  out = page.table(["step", "size"], rows) if rows else "<p class=dim>No checkpoint yet.</p>"
  rest = sorted(p.name for p in folder.iterdir() if "tmp" in p.name) if folder.is_dir() else []
  if rest:
    out += f"<p class=warn>Unfinished saves: {page.text(', '.join(rest))}</p>"
  return out


def _failed(workdir):
  path = workdir / "failed.jsonl"
  lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
  if not lines:
    return "", 0
  some = page.text("\n".join(line[:400] for line in lines[-20:]))
  return (
    f"<h2 id=failed>Failed examples</h2><details class=card><summary>{len(lines)} in failed.jsonl"
    f"</summary><pre>{some}</pre></details>"
  ), len(lines)


def _config(workdir):
  """(HTML, dict): a config that cannot be read is shown as it is."""
  path = workdir / "config.json"
  if not path.is_file():
    return "<p class=dim>No config.json.</p>", {}
  raw = path.read_text(errors="replace")
  try:
    config = json.loads(raw)
    raw = json.dumps(config, indent=2, ensure_ascii=False)
  except ValueError as e:
    return f"<p class=warn>config.json is no JSON: {page.text(e)}</p>", {}
  html = f"<details class=card><summary>config.json</summary><pre>{page.text(raw)}</pre></details>"
  return html, config if isinstance(config, dict) else {}


def render(workdir, *, embed_bytes=24_000_000):
  """The page as text.

  Args:
    workdir: folder of a run, finished or not.
    embed_bytes: int, most bytes of pictures and sounds in the page (base64 adds a third).

  Returns:
    str of HTML.

  Raises:
    ValueError: the folder is no workdir.
  """
  workdir = pathlib.Path(workdir)
  parts = ("config.json", metrics.FILE, "checkpoints")
  if not workdir.is_dir() or not any((workdir / p).exists() for p in parts):
    raise ValueError(
      f"{workdir}: expected the workdir of a run (a folder with {', '.join(parts[:2])} or "
      f"{parts[2]}/), got {'a folder without them' if workdir.is_dir() else 'no folder'}."
    )
  rows, problem = [], ""
  if (workdir / metrics.FILE).is_file():
    try:
      rows = metrics.read_rows(workdir / metrics.FILE)
    except ValueError as e:
      problem = f"<p class=warn>{page.text(e)}</p>"
  groups = _group(rows)
  config_html, config = _config(workdir)
  failed_html, failed = _failed(workdir)
  checkpoints = _steps(workdir / "checkpoints")

  facts = [("step", page.number(rows[-1]["step"]) if rows else "-")]
  if isinstance(config.get("total_steps"), int):
    facts[0] = ("step", f"{facts[0][1]} / {page.number(config['total_steps'])}")
  seconds = groups.get("z", {}).get("secs", {}).get("")
  for leaf in ("loss", "mse"):
    for group in ("train", "val/mean", "val/val")[: 3 if leaf == "loss" else 1]:
      points = groups.get(group, {}).get(leaf, {}).get("")
      facts += [(f"{group}/{leaf}", page.number(points[-1][1]))] if points else []
  facts += [("since its last start", clock.format_secs(seconds[-1][1]))] if seconds else []
  facts += [("checkpoints", str(len(checkpoints)))]
  facts += [("failed examples", str(failed))] if failed else []
  boxes = "".join(
    f"<div class=fact><b>{page.text(v)}</b><span>{page.text(k)}</span></div>" for k, v in facts
  )
  none = "<p class=dim>No metrics yet: the run has not finished its first log interval.</p>"
  name = page.text(workdir.resolve().name)
  now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
  sections = [
    ("numbers", "Numbers", problem + (_numbers(groups) or (none if not problem else ""))),
    ("curves", "Curves", _curves(groups) or none),
    ("samples", "Samples", _samples(workdir, embed_bytes)),
    ("checkpoints", "Checkpoints", _checkpoints(workdir)),
    ("config", "Config", config_html),
  ]
  links = "".join(f"<a href=#{key}>{title}</a>" for key, title, _ in sections)
  body = "".join(f"<h2 id={key}>{title}</h2>{html}" for key, title, html in sections)
  policy = "default-src 'none'; img-src data:; media-src data:; "
  policy += "style-src 'unsafe-inline'; script-src 'unsafe-inline'"
  return (
    f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{name}</title>"
    f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    '<meta name=viewport content="width=device-width, initial-scale=1">'
    f"<style>{page.CSS}</style></head><body><main><h1>{name}</h1>"
    f"<p class=dim>report of {now}</p><nav>{links}</nav>"
    f"<div class=facts>{boxes}</div>{body}{failed_html}</main><div id=tip></div>"
    f"<script>{page.JS}</script></body></html>\n"
  )


def write_report(workdir, out=None, *, embed_bytes=24_000_000):
  """Writes `workdir/report.html` (or `out`), atomically.

  Returns:
    str, the path of the page.

  Raises:
    ValueError: the folder is no workdir.
  """
  text = render(workdir, embed_bytes=embed_bytes)
  out = os.fspath(out or os.path.join(workdir, "report.html"))
  with open(out + ".tmp", "w", encoding="utf-8", errors="replace") as f:
    f.write(text)
  os.replace(out + ".tmp", out)
  return out


def main(argv):
  """Writes the report of the workdir in `argv`."""
  if len(argv) != 2:
    sys.exit("usage: python -m big_audio.tools.report WORKDIR [--out FILE] [--embed_mb 24]")
  try:
    path = write_report(argv[1], _OUT.value, embed_bytes=int(_EMBED_MB.value * 1e6))
  except ValueError as e:
    sys.exit(f"report: {e}")
  print(f"{path} ({size_text(os.path.getsize(path))})")


if __name__ == "__main__":
  _OUT = flags.DEFINE_string("out", None, "where to write; default WORKDIR/report.html")
  _EMBED_MB = flags.DEFINE_float("embed_mb", 24, "most MB of pictures and sounds in the page", 0)
  app.run(main)
