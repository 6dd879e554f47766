"""The page of `proj.ast_triplet.browse` as HTML text."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from big_audio.tools import page_media as media
from big_audio.tools import report_page as base

_CSS = """
.row { display: grid; gap: 10px; grid-template-columns: repeat(auto-fill, minmax(210px, 1fr));
  margin-bottom: 18px; padding-bottom: 18px; border-bottom: 1px solid var(--line); }
.track { padding: 10px 12px; min-width: 0; border-left: 4px solid var(--line); }
.track h4 { margin: 0 0 4px; font-size: 13px; overflow-wrap: anywhere; }
.track p { font-size: 12.5px; overflow-wrap: anywhere; } .track audio { width: 100%; }
.query { border-left-color: var(--accent); } .right { border-left-color: var(--s2); }
.wrong { border-left-color: var(--s1); } .right b { color: var(--s2); }
.wrong b { color: var(--s1); }
.filter label { display: inline-block; margin: 0 14px 4px 0; }
"""


class Row(NamedTuple):
  """A query and its neighbours.

  Attributes:
    query: row of the table; neighbours: rows, the most similar first; cosines: of them.
  """

  query: int
  neighbours: list[int]
  cosines: list[float]


def page(
  table, rows: list[Row], sound: Callable[[str], str | None], *,
  scores: Mapping[str, float] | None, title: str, most: int,
) -> tuple[str, int]:  # fmt: skip
  """The whole page.

  Args:
    table: `embeddings.Table`.
    rows: what to show.
    sound: id -> data URI, None where a track cannot be read.
    scores: of `ranking.rank`, None without labels.
    title: text.
    most: bytes of the page; sounds that do not fit are left out, those of later rows first.

  Returns:
    (HTML, how many sounds were left out).

  Raises:
    ValueError: the page does not fit even without sounds.
  """
  text = base.text
  classes = sorted(set(table.labels) - {""}) if table.labels else []
  hide = "".join(
    f"main:has(#c{i}:checked) .row:not(.k{i}) {{ display: none; }}\n" for i in range(len(classes))
  )
  head = (
    "<!doctype html><html lang=en><head><meta charset=utf-8>"
    f"<title>{text(title)}</title>"
    f'<meta http-equiv="Content-Security-Policy" content="{media.POLICY}">'
    '<meta name=viewport content="width=device-width, initial-scale=1">'
    f"<style>{base.CSS}{_CSS}{hide}</style></head><body><main><h1>{text(title)}</h1>"
    f"{_facts(table, rows, scores)}{_filter(classes)}"
  )
  tail = "</main></body></html>\n"
  told = "<p class=warn>Left out to keep the page below {:g} MB: {} sounds.</p>"
  bare = [[_track(table, row, n, "") for n in range(len(row.neighbours) + 1)] for row in rows]
  open_row = lambda row: f'<section class="row{_class_of(table, row.query, classes)}">'
  used = len((head + tail + told).encode()) + 40
  used += sum(len((open_row(r) + "</section>").encode()) for r in rows)
  used += sum(len(t.encode()) for tracks in bare for t in tracks)
  if used > most:
    raise ValueError(
      f"the page has {used / 1e6:.2f} MB without any sound, more than {most / 1e6:g}. Use fewer "
      "queries or a larger --mb."
    )
  room, left_out, parts = most - used, 0, [head]
  for row in rows:
    parts.append(open_row(row))
    for n, i in enumerate((row.query, *row.neighbours)):
      found = sound(table.ids[i])
      player = "<p class=warn>cannot be read</p>"
      if found is not None:
        player = f'<audio controls preload=none src="{found}"></audio>'
      if len(player) > room:
        left_out += found is not None
        player = ""
      room -= len(player)
      parts.append(_track(table, row, n, player))
    parts.append("</section>")
  if left_out:
    parts.append(told.format(most / 1e6, left_out))
  return "".join([*parts, tail]), left_out


def _track(table, row, n, player):
  """One track of a row: 0 is the query, n its n-th neighbour."""
  i = (row.query, *row.neighbours)[n]
  name = lambda values: values[i] if values else ""
  about = [base.text(v) for v in (name(table.labels), name(table.artists)) if v]
  kind, mark = "query", "query"
  if n:
    kind, mark = "", f"{n}"
    if table.labels and table.labels[row.query]:
      right = table.labels[i] == table.labels[row.query]
      kind, mark = ("right", f"{n} <b>right</b>") if right else ("wrong", f"{n} <b>wrong</b>")
    about.append(f"cosine {row.cosines[n - 1]:.3f}")
  return (
    f'<div class="card track {kind}"><h4>{base.text(table.ids[i])}</h4>'
    f"<p>{mark}</p><p class=dim>{' · '.join(about)}</p>{player}</div>"
  )


def _class_of(table, i, classes):
  return f" k{classes.index(table.labels[i])}" if table.labels and table.labels[i] else ""


def _facts(table, rows, scores):
  facts = {"tracks": len(table.ids), "queries": len(rows)}
  if scores is not None:
    facts["classes"] = len(set(table.labels) - {""})
    facts |= {"P@1": scores["p1"], "MAP@R": scores["map_r"]}
    facts["triplet accuracy"] = scores["triplet_accuracy"]
    hits = [
      table.labels[j] == table.labels[r.query]
      for r in rows for j in r.neighbours if table.labels[r.query]
    ]  # fmt: skip
    if hits:
      facts["right of those shown"] = sum(hits) / len(hits)
  cells = "".join(
    f"<div class=fact><b>{base.number(v)}</b><span>{base.text(k)}</span></div>"
    for k, v in facts.items()
  )
  return f"<div class=facts>{cells}</div>"


def _filter(classes):
  """Radio buttons; style rules hide the rows of other classes, so no script is needed."""
  if not classes:
    return "<h2>Neighbours</h2>"
  pick = "<label><input type=radio name=class checked> all</label>" + "".join(
    f"<label><input type=radio name=class id=c{i}> {base.text(c)}</label>"
    for i, c in enumerate(classes)
  )
  return f"<h2>Neighbours</h2><p class=filter>{pick}</p>"
