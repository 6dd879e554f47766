"""The page of `proj.vimh.browse` as HTML text, and its grid as a picture."""

import io
import os
import struct
import zlib

import numpy as np

from big_audio.tools import page_media as media
from big_audio.tools import report_page as base

_CSS = """
.samples { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(250px, 1fr)); }
.sample { padding: 12px; min-width: 0; } .sample h4 { margin: 0 0 6px; font-size: 13px; }
.planes { display: flex; gap: 4px; } .planes img { flex: 1; min-width: 0; max-width: 128px;
  image-rendering: pixelated; border-radius: 4px; }
.sample table { font-size: 12px; margin-top: 6px; } .sample td, .sample th { padding: 2px 4px;
  white-space: normal; overflow-wrap: anywhere; } .sample .bad { color: var(--warn); }
.sample audio { width: 100%; margin-top: 8px; } .sample .fall { width: 100%; margin-top: 8px; }
"""


def png(image: np.ndarray) -> bytes:
  """u8[H,W], row 0 the lowest -> a grey PNG with the lowest row at the bottom, pixel for pixel."""
  height, width = image.shape
  rows = np.zeros((height, width + 1), np.uint8)  # each row has a filter byte, 0: none
  rows[:, 1:] = image[::-1]
  head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
  parts = [(b"IHDR", head), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b"")]
  chunk = lambda kind, x: struct.pack(">I", len(x)) + kind + x + struct.pack(
    ">I", zlib.crc32(kind + x)
  )  # fmt: skip
  return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*p) for p in parts)


def bars(title: str, labels, series) -> str:
  """A histogram as <figure>: for each label a bar of each series, as shares of the series.

  Args:
    title: text.
    labels: of the groups of bars, e.g. the values of classes.
    series: {name: counts}.
  """
  width, height, left, bottom = 360, 150, 34, 20
  shares = {k: np.asarray(v, float) / max(np.sum(v), 1) for k, v in series.items()}
  top = max([float(s.max(initial=0)) for s in shares.values()] + [1e-9])
  slot = (width - left - 6) / max(len(labels), 1)
  each = 0.86 * slot / max(len(shares), 1)
  out = []
  for t in (0, top / 2, top):
    y = height - bottom - (height - bottom - 10) * t / top
    out.append(f"<line class=g x1={left} x2={width - 6} y1={y:.1f} y2={y:.1f} />")
    out.append(f"<text x={left - 4} y={y:.1f} dy=3.5 text-anchor=end>{100 * t:.3g}%</text>")
  for i, (name, share) in enumerate(shares.items()):
    for k, v in enumerate(share):
      if v > 0:
        tall = (height - bottom - 10) * v / top
        x = left + k * slot + 0.07 * slot + i * each
        told = f"{name}, {labels[k]}: {int(series[name][k])}"
        out.append(
          f"<rect x={x:.1f} y={height - bottom - tall:.1f} width={each:.2f} height={tall:.1f} "
          f'style="fill:var(--s{i})"><title>{base.text(told)}</title></rect>'
        )
  every = -(-len(labels) // 8)
  for k in range(0, len(labels), every):
    x = left + (k + 0.5) * slot
    out.append(f"<text x={x:.1f} y={height - 6} text-anchor=middle>{base.text(labels[k])}</text>")
  keys = "".join(
    f'<span><i style="background:var(--s{i})"></i>{base.text(k)} ({int(np.sum(series[k]))})</span>'
    for i, k in enumerate(shares)
  )
  return (
    f"<figure class=card><figcaption><b>{base.text(title)}</b></figcaption>"
    f'<div class=legend>{keys}</div><svg viewBox="0 0 {width} {height}" role=img>{"".join(out)}'
    "</svg></figure>"
  )


def waterfall(sample) -> bytes:
  """A picture's frames as lines behind lines (the first in front), as PNG."""
  from matplotlib.figure import Figure

  plane = sample.image[..., 0].astype(float)
  lo, hi = sample.scale or (0.0, 255.0)
  level = lo + plane / 255 * (hi - lo)
  span = max(hi - lo, 1e-9)
  fig = Figure(figsize=(3.2, 2.4), layout="constrained")
  axis = fig.subplots()
  height, frames = level.shape
  step = max(1, frames // 32)
  rows = np.arange(height)
  for i, t in reversed(list(enumerate(range(0, frames, step)))):
    up = 0.09 * span * i
    line = level[:, t] - lo + up
    axis.fill_between(rows + 0.3 * i, up, line, color="white", zorder=-i)
    axis.plot(rows + 0.3 * i, line, lw=0.7, color="#0b68cb", zorder=-i)
  axis.set_xlabel("row (frequency)", fontsize=7)
  unit = "dB above the least" if sample.scale else "levels"
  axis.set_ylabel(f"{unit}; later frames behind", fontsize=7)
  axis.tick_params(labelsize=6)
  for side in ("top", "right"):
    axis.spines[side].set_visible(False)
  out = io.BytesIO()
  fig.savefig(out, dpi=100, format="png", metadata={"Software": None})
  return out.getvalue()


def facts(data) -> list[tuple[str, str]]:
  """What a data set says of itself, as (name, text)."""
  m, raw = data.metadata, data.metadata.raw
  spec = raw.get("spectrogram_config") or {}
  out = [
    ("data set", str(raw.get("dataset_name", m.where))),
    ("pictures", f"{m.height} x {m.width} x {m.channels} (height, width, planes)"),
    ("planes", ", ".join(map(str, raw.get("channel_labels") or [])) or "-"),
    ("sounds", f"{m.secs:g} s at {m.sr:g} Hz, voice {m.voice}"),
    ("spectrogram", ", ".join(f"{k} {v}" for k, v in spec.items()) or "-"),
    ("items", ", ".join(f"{s} {len(next(iter(data.values(s).values())))}"
                        for s in ("train", "validation", "test"))),
    ("fixed parameters", ", ".join(f"{k} = {v:g}" for k, v in m.fixed.items()) or "none"),
  ]  # fmt: skip
  return out


def rows_of(data, sample, found):
  """The table of a sample: a list of (cells, whether its estimate is wrong)."""
  out = []
  for p in data.metadata.parameters:
    n = p.name
    cells = [n, f"{sample.values[n]:.4g}", str(sample.bytes[n]), str(sample.classes[n])]
    wrong = False
    if found and n in found.classes:
      wrong = bool(found.wrong[n][sample.index])
      value = f"{found.values[n][sample.index]:.4g}" if n in found.values else "-"
      cells += [value, str(int(found.classes[n][sample.index]))]
    elif found:
      cells += ["-", "-"]
    out.append((cells, wrong))
  return out


def _sample(data, sample, found, extras) -> str:
  m = data.metadata
  names = list(m.raw.get("channel_labels") or [])
  planes = "".join(
    f'<img src="{media.uri("image/png", png(sample.image[..., c]))}" '
    f'alt="{base.text(names[c] if c < len(names) else f"plane {c}")}">'
    for c in range(sample.image.shape[-1])
  )
  head = ["", "value", "byte", "class"] + ["estimate", "class"] * bool(found)
  texts = {p.name: p.description for p in m.parameters}
  lines = "".join(
    f'<tr{" class=bad" if wrong else ""} title="{base.text(texts[cells[0]])}">'
    + "".join(f"<td>{base.text(c)}</td>" for c in cells)
    + "</tr>"
    for cells, wrong in rows_of(data, sample, found)
  )
  scale = "dB range unknown"
  if sample.scale:
    scale = f"{sample.scale[0]:.1f} to {sample.scale[1]:.1f} dB"
  if found:
    scale += f", error {found.error[sample.index]:.3f}"
  return (
    f"<div class='card sample'><h4>{base.text(sample.id)}</h4><div class=planes>{planes}</div>"
    f"<p class=dim>{scale}</p><table><tr>{''.join(f'<th>{h}</th>' for h in head)}</tr>{lines}"
    f"</table>{extras}</div>"
  )


def _histograms(data) -> str:
  out = ""
  for p in data.metadata.parameters:
    labels = [f"{v:.4g}" for v in p.values(data.classes)]
    out += bars(p.name, labels, data.class_counts(p))
  scales = data.scales("train")
  if len(scales):
    lo, hi = float(scales.min()), float(scales.max())
    edges = np.linspace(lo, hi if hi > lo else lo + 1, 33)
    counts = {
      "least": np.histogram(scales[:, 0], edges)[0],
      "largest": np.histogram(scales[:, 1], edges)[0],
    }
    labels = [f"{v:.3g}" for v in (edges[:-1] + edges[1:]) / 2]
    out += bars("dB of pictures, train", labels, counts)
  return f"<div class=grid>{out}</div>"


def page(data, samples, *, split, fit, wavs=None, waterfalls=False, found=None, most=20_000_000):
  """The page.

  Args:
    data: `browse.DataSet`; samples: of its `split`, of `fit` that could be shown.
    wavs: f32[n,T] sounds of the samples, or None.
    waterfalls: whether to draw these.
    found: `browse_run.Estimates` of the split, or None.
    most: bytes of the page.

  Returns:
    (str of HTML, what did not fit into it, "" if all did).
  """
  m = data.metadata
  text = base.text
  table = [
    [p.name, f"{p.min:g}", f"{p.max:g}", f"{p.step:g}", str(p.count(data.classes)), p.description]
    for p in m.parameters
  ]
  head = [
    "<!doctype html><html lang=en><head><meta charset=utf-8>",
    f"<title>{text(m.raw.get('dataset_name', 'VIMH'))}</title>",
    f'<meta http-equiv="Content-Security-Policy" content="{media.POLICY}">',
    '<meta name=viewport content="width=device-width, initial-scale=1">',
    f"<style>{base.CSS}{_CSS}</style></head><body><main>",
    f"<h1>{text(m.raw.get('dataset_name', 'VIMH'))}</h1>",
    base.table(["", "about"], facts(data)),
    "<h2>Parameters</h2>",
    base.table(["parameter", "min", "max", "step", "classes", "description"], table),
    "<h2>Classes</h2><p class=dim>Shares of the items of a split.</p>",
    _histograms(data),
    f"<h2>Samples of {text(split)}</h2>",
  ]
  about = f"{len(samples)} of {fit} samples, low frequencies at the bottom."
  if found:
    wrong = ", ".join(f"{k} {np.mean(v):.1%}" for k, v in found.wrong.items())
    about += f" Estimates of {found.spec}, step {found.step}; wrong classes (marked): {wrong}."
    about += " The error of a sample is the mean over heads of the distance of classes by K - 1."
  if wavs is not None:
    about += " Sounds are rendered from the labels, whose 8 bits are coarser than the original's."
  head.append(f"<p class=dim>{text(about)}</p><div class=samples>")
  plain = [_sample(data, s, found, "") for s in samples]
  used = np.cumsum([sum(len(x.encode()) for x in head) + 1000, *(len(x.encode()) for x in plain)])
  # Pictures come before sounds, and sounds before waterfalls of later samples.
  fits = int(np.searchsorted(used, most, side="right")) - 1
  shown, room = samples[: max(fits, 0)], most - int(used[max(fits, 0)])
  lost = {"sounds": 0, "waterfalls": 0, "samples": len(samples) - len(shown)}
  body = []
  for i, sample in enumerate(shown):
    extras = ""
    wanted = []
    if wavs is not None:
      sound = media.sound(wavs[i], int(m.sr))
      wanted.append(("sounds", f'<audio controls preload=none src="{sound}"></audio>'))
    if waterfalls:
      fall = media.uri("image/png", waterfall(sample))
      wanted.append(("waterfalls", f'<img class=fall alt=waterfall src="{fall}">'))
    for what, html in wanted:
      if len(html) > room:
        lost[what] += 1
      else:
        extras, room = extras + html, room - len(html)
    body.append(_sample(data, sample, found, extras))
  left_out = ", ".join(f"{n} {what}" for what, n in lost.items() if n)
  end = "</div>"
  if left_out:
    end += f"<p class=warn>Left out to keep the page below {most / 1e6:g} MB: {left_out}.</p>"
  return "".join([*head, *body, end, "</main></body></html>\n"]), left_out


def grid(path: str, metadata, samples, found=None) -> None:
  """Writes the samples as a grid of pictures with their values, for print."""
  from matplotlib.figure import Figure

  columns = min(len(samples), 8)
  lines = -(-len(samples) // columns)
  planes = samples[0].image.shape[-1]
  names = metadata.names
  tall = 1.25 + 0.13 * min(len(names), 6)
  fig = Figure(figsize=(1.35 * columns * max(1, 0.7 * planes), tall * lines), layout="constrained")
  axes = np.atleast_1d(fig.subplots(lines, columns, squeeze=False)).reshape(-1)
  for axis in axes:
    axis.axis("off")
  for axis, s in zip(axes, samples, strict=False):
    # An empty column between planes.
    gap = np.full((s.image.shape[0], 1), np.nan)
    parts = [x for c in range(planes) for x in (s.image[..., c].astype(float), gap)][:-1]
    axis.imshow(np.concatenate(parts, 1), cmap="magma", vmin=0, vmax=255, origin="lower",
                interpolation="nearest")  # fmt: skip
    told = []
    for n in names[:6]:
      line = f"{n[-18:]} {s.values[n]:.4g}"
      if found and n in found.values:
        line += f" ({found.values[n][s.index]:.4g})"
      told.append(line)
    told += [f"and {len(names) - 6} more"] if len(names) > 6 else []
    axis.set_title("\n".join(told).replace("$", r"\$"), fontsize=5)
  temporary = f"{path}.{os.getpid()}.tmp"
  fig.savefig(temporary, dpi=200, format="png", metadata={"Software": None})
  os.replace(temporary, path)
