"""A list of tracks that goes on from some seeds.

  python -m big_audio.tools.playlist tracks.npz --seeds dub/a.wav dub/b.wav --out list.m3u
  python -m big_audio.tools.playlist tracks.npz --seeds 17 --length 30 --w .3 --artist-gap 5 \\
    --out list.json

Each step takes the track x with the largest (1-w) cos(centroid of the list, x) + w (1 - the least
cosine of x and a track of the list): near the middle, with some distance to what is there. w=0
stays close, w=1 goes far. No track comes twice.

A .m3u needs ids that are paths of files. Its entries are the ids, for a list that lies in the
folder of the audio, or with --root DIR, that folder, paths from where the list lies.
"""

import argparse
import csv
import io
import json
import os
import pathlib
import sys

import numpy as np

from big_audio.evaluators import ranking
from big_audio.tools import embeddings, manifests

FORMATS = (".json", ".m3u", ".csv")
HEAD = ("number", "id", "label", "artist", "score", "cosine", "least_cosine")


def greedy(
  table, seeds: list[int], *, length: int, w: float = 0.1, artist_gap: int = 0
) -> list[dict]:
  """Extends seeds to a list.

  Args:
    table: `embeddings.Table`.
    seeds: rows, at least one, none twice; they begin the list.
    length: tracks of the whole list.
    w: in [0, 1], weight of the distance to tracks of the list.
    artist_gap: the same artist not within so many entries; tracks without an artist are free.

  Returns:
    a dict of `HEAD` for each track; of seeds score and cosines are None.

  Raises:
    ValueError: arguments out of range, or no track left to take.
  """
  n = len(table.ids)
  if len(set(seeds)) < len(seeds) or not seeds:
    raise ValueError("--seeds: expected at least one track, and none twice.")
  if not len(seeds) <= length <= n:
    raise ValueError(
      f"--length {length}: expected {len(seeds)} (the seeds) to {n} (all tracks of the file)."
    )
  if not 0 <= w <= 1:
    raise ValueError(f"--w {w}: expected a number in [0, 1].")
  if artist_gap < 0 or (artist_gap and table.artists is None):
    raise ValueError(f"--artist-gap {artist_gap}: expected a number >= 0 and a file with artists.")
  x = ranking.unit(table.x)
  row = lambda i, *numbers: dict(
    zip(HEAD[1:], (table.ids[i], *(v[i] if v else "" for v in (table.labels, table.artists)),
                   *numbers), strict=True)
  )  # fmt: skip
  chosen = list(seeds)
  out = [row(i, None, None, None) for i in chosen]
  total, least = x[chosen].sum(axis=0), (x @ x[chosen].T).min(axis=1)
  taken = np.zeros(n, bool)
  taken[chosen] = True
  artists = np.array(table.artists) if artist_gap else None
  while len(chosen) < length:
    free = ~taken
    if artist_gap:
      recent = [a for i in chosen[-artist_gap:] if (a := table.artists[i])]
      free &= ~np.isin(artists, recent)
    if not free.any():
      raise ValueError(
        f"after {len(chosen)} tracks every other one is of an artist of the last {artist_gap}. Use "
        "a smaller --artist-gap."
      )
    # Seeds that cancel have no middle: every track is as near to it.
    size = np.linalg.norm(total)
    cosine = x @ (total / size) if size > 1e-9 else np.zeros(n)
    score = np.where(free, (1 - w) * cosine + w * (1 - least), -np.inf)
    i = int(score.argmax())
    out.append(row(i, *(round(float(v[i]), 6) for v in (score, cosine, least))))
    chosen.append(i)
    taken[i], total = True, total + x[i]
    least = np.minimum(least, x @ x[i])
  return [dict(number=k, **r) for k, r in enumerate(out, 1)]


def as_text(rows: list[dict], out: str, *, root: str | None = None, about=None) -> str:
  """A list as the text of a .json, .m3u or .csv.

  Args:
    rows: of `greedy`.
    out: the file it is for.
    root: the folder of the audio, for .m3u.
    about: what a .json says beside the tracks.

  Raises:
    ValueError: another ending, or for .m3u an id that leads out of the folder of the audio.
  """
  ending = pathlib.PurePath(out).suffix.lower()
  if ending not in FORMATS:
    raise ValueError(f"--out {out!r}: expected a name that ends in {', '.join(FORMATS)}.")
  if root is not None and ending != ".m3u":
    raise ValueError("--root belongs to a .m3u.")
  if ending == ".json":
    return json.dumps({**(about or {}), "tracks": rows}, ensure_ascii=False, indent=1) + "\n"
  if ending == ".csv":
    text = io.StringIO()
    writer = csv.DictWriter(text, HEAD, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
  lines = ["#EXTM3U"]
  for r in rows:
    lines += [f"#EXTINF:-1,{pathlib.PurePosixPath(r['id']).stem}", _entry(r["id"], out, root)]
  return "\n".join(lines) + "\n"


def _entry(name, out, root):
  path = pathlib.PurePath(name)
  if path.is_absolute() or ".." in path.parts or name.startswith("#") or ":" in path.parts[0]:
    raise ValueError(
      f"--out {out}: the id {name!r} is no path below the folder of the audio. Use .csv or .json."
    )
  if root is None:
    return name
  return os.path.relpath(os.path.join(root, name), os.path.dirname(out) or ".")


def parser() -> argparse.ArgumentParser:
  """The command line."""
  p = argparse.ArgumentParser(
    prog="python -m big_audio.tools.playlist", description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )  # fmt: skip
  p.add_argument("embeddings", metavar="EMBEDDINGS.npz")
  p.add_argument("--seeds", nargs="+", required=True, metavar="ID|N")
  p.add_argument("--length", type=int, default=20, help="with the seeds, default %(default)s")
  p.add_argument("--w", type=float, default=0.1, help="variety, 0 to 1, default %(default)s")
  p.add_argument("--artist-gap", type=int, default=0, metavar="N",
                 help="no artist twice within N + 1 entries")  # fmt: skip
  p.add_argument("--root", metavar="DIR", help="the folder of the audio, for .m3u")
  p.add_argument("--out", required=True, metavar="FILE.json|.m3u|.csv")
  return p


def main(argv=None) -> int:
  """The command line; returns the exit status."""
  flags = parser().parse_args(argv)
  try:
    table = embeddings.load(flags.embeddings)
    seeds = [table.place(s) for s in flags.seeds]
    rows = greedy(table, seeds, length=flags.length, w=flags.w, artist_gap=flags.artist_gap)
    about = dict(seeds=[table.ids[i] for i in seeds], w=flags.w, artist_gap=flags.artist_gap)
    manifests.replace(flags.out, as_text(rows, flags.out, root=flags.root, about=about))
  except (ValueError, OSError) as e:
    print(f"playlist: {e}", file=sys.stderr)
    return 2
  print(f"{flags.out}: {len(rows)} tracks")
  return 0


if __name__ == "__main__":
  sys.exit(main())
