"""A page to hear neighbours side by side: a row for each query, its most similar tracks beside it.

  python -m proj.ast_triplet.browse tracks.npz --audio-dir WAV --out page.html
  python -m proj.ast_triplet.browse tracks.npz --audio-dir WAV --out page.html --queries 40 --k 8 \\
    --exclude-artist --secs 10 --mb 60

The page holds its sounds itself, excerpts from the middle of each track at 16 kHz mono, and asks
the network for nothing. Queries are spread evenly over the classes. Where a track cannot be read
the page says so, and the exit status is 1.
"""

import argparse
import pathlib
import sys

import numpy as np

from big_audio.datasets import audio
from big_audio.datasets.errors import DecodeError
from big_audio.evaluators import ranking
from big_audio.tools import embeddings, manifests, page_media
from proj.ast_triplet import browse_page

SR = 16_000


def spread(labels, count: int) -> list[int]:
  """Rows of `count` queries, evenly spaced in the order of the labels (None: of the rows)."""
  labels = np.asarray(labels)
  order = np.argsort(labels, kind="stable")
  places = np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)
  return order[places].tolist()


def excerpt(folder: str, name: str, secs: float) -> np.ndarray:
  """f32[T] at 16 kHz: the middle of a track, the whole of it where it is shorter.

  Raises:
    ValueError: an id that leads out of the folder.
    DecodeError: no such file, or one that cannot be read.
  """
  path = pathlib.PurePath(name)
  if path.is_absolute() or ".." in path.parts:
    raise ValueError(f"the id {name!r} is no path below {folder}.")
  file = audio.AudioFile.open(pathlib.Path(folder) / path, sr=SR, channels=1, name=name)
  total = file.shape[0]
  n = min(total, round(secs * SR))
  return file.read((total - n) // 2, n)[:, 0]


class Sounds:
  """Data URIs of excerpts, each read once; `failed` {id: reason} of those that cannot be."""

  def __init__(self, folder: str, secs: float):
    self._folder, self._secs = folder, secs
    self._made: dict[str, str | None] = {}
    self.failed: dict[str, str] = {}

  def __call__(self, name: str) -> str | None:
    """The URI of a track, None where it cannot be read."""
    if name not in self._made:
      try:
        wav = excerpt(self._folder, name, self._secs)
        self._made[name] = page_media.sound(wav, SR, form="ogg") if len(wav) else None
        if not len(wav):
          self.failed[name] = "it has no samples"
      except DecodeError as e:
        self._made[name], self.failed[name] = None, str(e)
    return self._made[name]


def parser() -> argparse.ArgumentParser:
  """The command line."""
  p = argparse.ArgumentParser(
    prog="python -m proj.ast_triplet.browse", description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )  # fmt: skip
  p.add_argument("embeddings", metavar="EMBEDDINGS.npz")
  p.add_argument("--audio-dir", required=True, metavar="DIR", help="what ids are relative to")
  p.add_argument("--out", required=True, metavar="FILE.html")
  p.add_argument("--queries", type=int, default=20, help="default %(default)s")
  p.add_argument("--k", type=int, default=5, help="neighbours of each, default %(default)s")
  p.add_argument("--exclude-artist", action="store_true", help="neighbours of other artists")
  p.add_argument("--secs", type=float, default=5, help="of an excerpt, default %(default)s")
  p.add_argument("--mb", type=float, default=20, help="most of the page, default %(default)s")
  return p


def run(flags) -> tuple[list[str], dict[str, str]]:
  """Writes the page; returns lines for the user, and {id: reason} of unreadable tracks."""
  if min(flags.queries, flags.k) < 1 or min(flags.secs, flags.mb) <= 0:
    raise ValueError("--queries, --k, --secs and --mb must be above zero.")
  if not pathlib.Path(flags.audio_dir).is_dir():
    raise ValueError(f"--audio-dir {flags.audio_dir}: no such folder.")
  table = embeddings.load(flags.embeddings)
  if flags.exclude_artist and table.artists is None:
    raise ValueError("--exclude-artist: the file has no artists.")
  places = spread(table.labels or [""] * len(table.ids), flags.queries)
  refs = table.embedded()
  queries = ranking.Embedded(*(None if v is None else v[places] for v in refs))
  rows = [
    browse_page.Row(places[i], found.tolist(), cosines.tolist())
    for i, found, cosines in ranking.top(queries, refs, k=flags.k, artists=flags.exclude_artist)
  ]
  scores = None
  if table.labels is not None:
    scores = ranking.rank(refs, artists=flags.exclude_artist, sample=2000)
  sounds = Sounds(flags.audio_dir, flags.secs)
  html, left_out = browse_page.page(
    table, rows, sounds, scores=scores, title=pathlib.Path(flags.embeddings).name,
    most=int(flags.mb * 1e6),
  )  # fmt: skip
  manifests.replace(flags.out, html)
  said = [f"{flags.out}: {len(rows)} queries, {len(html.encode()) / 1e6:.2f} MB"]
  if left_out:
    said.append(f"left out to stay below {flags.mb:g} MB: {left_out} sounds. Use --mb or --secs.")
  return said, sounds.failed


def main(argv=None) -> int:
  """The command line; returns the exit status: 1 where tracks cannot be read."""
  flags = parser().parse_args(argv)
  try:
    said, failed = run(flags)
  except (ValueError, OSError, ImportError) as e:
    print(f"browse: {e}", file=sys.stderr)
    return 2
  for line in said:
    print(line)
  for name, reason in failed.items():
    print(f"browse: {name}: {reason}", file=sys.stderr)
  return 1 if failed else 0


if __name__ == "__main__":
  sys.exit(main())
