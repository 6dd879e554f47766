"""The tracks that sound most alike, by the cosine of their embeddings.

  python -m big_audio.tools.similar tracks.npz --query dub/track_07.wav --k 10
  python -m big_audio.tools.similar tracks.npz --all --k 5 --csv neighbours.csv --exclude-artist

A query is an id of the file or a number of a row, from 0. The query itself is never listed.
"""

import argparse
import csv
import io
import sys

from big_audio.evaluators import ranking
from big_audio.tools import embeddings, manifests

HEAD = ("query", "rank", "cosine", "id", "label", "artist")


def neighbours(table, places, *, k: int, artists: bool = False) -> list[list]:
  """The k most similar tracks of some.

  Args:
    table: `embeddings.Table`.
    places: rows of the queries.
    k: at least 1; fewer where there are not so many.
    artists: leaves out tracks of the query's artist.

  Returns:
    a row of `HEAD` for each neighbour, the most similar of a query first.

  Raises:
    ValueError: k below 1, or no artists in the file.
  """
  if k < 1:
    raise ValueError(f"--k {k}: expected at least 1.")
  if artists and table.artists is None:
    raise ValueError("--exclude-artist: the file has no artists.")
  places, refs = list(places), table.embedded()
  queries = ranking.Embedded(*(None if v is None else v[places] for v in refs))
  name = lambda values, j: values[j] if values is not None else ""
  out = []
  for i, found, cosines in ranking.top(queries, refs, k=k, artists=artists):
    for n, (j, cosine) in enumerate(zip(found.tolist(), cosines.tolist(), strict=True), 1):
      out.append(
        [table.ids[places[i]], n, round(cosine, 6), table.ids[j], name(table.labels, j),
         name(table.artists, j)]
      )  # fmt: skip
  return out


def as_csv(rows) -> str:
  """Rows as CSV text with a header."""
  out = io.StringIO()
  writer = csv.writer(out, lineterminator="\n")
  writer.writerow(HEAD)
  writer.writerows(rows)
  return out.getvalue()


def parser() -> argparse.ArgumentParser:
  """The command line."""
  p = argparse.ArgumentParser(
    prog="python -m big_audio.tools.similar", description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )  # fmt: skip
  p.add_argument("embeddings", metavar="EMBEDDINGS.npz")
  which = p.add_mutually_exclusive_group(required=True)
  which.add_argument("--query", metavar="ID|N")
  which.add_argument("--all", action="store_true", help="every track, as CSV")
  p.add_argument("--k", type=int, default=10, help="neighbours, default %(default)s")
  p.add_argument("--csv", metavar="FILE", help="in place of the terminal")
  p.add_argument("--exclude-artist", action="store_true")
  return p


def main(argv=None) -> int:
  """The command line; returns the exit status."""
  flags = parser().parse_args(argv)
  try:
    table = embeddings.load(flags.embeddings)
    places = range(len(table.ids)) if flags.all else [table.place(flags.query)]
    rows = neighbours(table, places, k=flags.k, artists=flags.exclude_artist)
    if flags.csv:
      manifests.replace(flags.csv, as_csv(rows))
  except (ValueError, OSError) as e:
    print(f"similar: {e}", file=sys.stderr)
    return 2
  if flags.csv:
    print(f"{flags.csv}: {len(rows)} neighbours of {len(places)} tracks")
  elif flags.all:
    sys.stdout.write(as_csv(rows))
  else:
    print(f"{table.ids[places[0]]}")
    for _, n, cosine, name, label, artist in rows:
      print(f"{n:4d}  {cosine:7.4f}  {name}  {'  '.join(filter(None, (label, artist)))}".rstrip())
  return 0


if __name__ == "__main__":
  sys.exit(main())
