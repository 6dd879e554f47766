"""An index of the recordings below a folder, kept so that each header is read once.

The manifest is a JSON file: {"version": 1, "files": {path: [size, mtime_ns, sr, frames, channels,
reason]}}; `reason` says why a file cannot be read, else it is "". A file whose size or time has
changed is read again. The manifest lies in the folder itself where that is writable, else in
`$XDG_CACHE_HOME/big_audio` (default `~/.cache/big_audio`).
"""

import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from big_audio.datasets import audio
from big_audio.datasets.errors import DecodeError

NAME = ".big_audio_manifest.json"
_VERSION = 1


@dataclass(frozen=True)
class Entry:
  """One file: `path` relative to the folder with forward slashes; `reason` if unreadable."""

  path: str
  sr: int
  frames: int
  channels: int
  reason: str = ""


def index(folder: Path, *, threads: int = 8) -> list[Entry]:
  """Lists all recordings below `folder`, sorted by path, reading the headers of new files.

  Args:
    folder: searched recursively; links are followed once, hidden files and folders are left out.
    threads: header readers.

  Returns:
    an entry for every file with a suffix of `audio.SNDFILE` or `audio.AV`, unreadable ones too.
  """
  found = dict(_walk(folder))
  homes = _homes(folder)
  known = {}
  for home in homes:
    known = known or _load(home)
  fresh = {p: known[p] for p, key in found.items() if p in known and tuple(known[p][:2]) == key}
  new = sorted(found.keys() - fresh.keys())
  if new:
    fresh |= _probe_all(folder, new, found, threads)
  if new or fresh.keys() != known.keys():
    _save(homes, fresh)
  return [Entry(p, *fresh[p][2:]) for p in sorted(fresh)]


def _walk(folder: Path) -> Iterable[tuple[str, tuple[int, int]]]:
  suffixes = tuple(audio.SNDFILE | audio.AV)
  seen, stack = set(), [(str(folder), "")]
  while stack:
    path, prefix = stack.pop()
    real = os.path.realpath(path)
    if real in seen:  # a link to a folder above would never end
      continue
    seen.add(real)
    with os.scandir(path) as entries:
      for e in entries:
        if e.name.startswith("."):
          continue
        if e.is_dir():
          stack.append((e.path, f"{prefix}{e.name}/"))
        elif e.name.lower().endswith(suffixes) and e.is_file():
          stat = e.stat()
          yield prefix + e.name, (stat.st_size, stat.st_mtime_ns)


def _probe_all(folder, paths, keys, threads):
  def probe(path):
    try:
      sr, frames, channels = audio.probe(folder / path)
      return [*keys[path], sr, frames, channels, ""]
    except DecodeError as e:
      return [*keys[path], 0, 0, 0, str(e).replace(str(folder), "").lstrip("/")]

  out, shown = {}, time.monotonic()
  with ThreadPoolExecutor(threads) as pool:
    for path, row in zip(paths, pool.map(probe, paths), strict=True):
      out[path] = row
      if time.monotonic() - shown > 2:
        shown = time.monotonic()
        print(f"{folder}: {len(out)} of {len(paths)} headers read", file=sys.stderr, flush=True)
  return out


def _homes(folder: Path) -> list[Path]:
  """Where the manifest may lie, best first."""
  cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "big_audio"
  digest = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
  away = cache / f"manifest-{folder.name}-{digest}.json"
  # The mode too: root may write anywhere, also where the owner has said no.
  writable = os.access(folder, os.W_OK) and folder.stat().st_mode & 0o222
  return [folder / NAME, away] if writable else [away]


def _load(home: Path) -> dict[str, list]:
  try:
    data = json.loads(home.read_text())
    rows = data["files"] if data["version"] == _VERSION else {}
    ok = all(isinstance(r, list) and len(r) == 6 for r in rows.values())
    return rows if ok else {}
  except (OSError, ValueError, KeyError, TypeError, AttributeError):
    return {}  # none yet, or damaged: it is only a cache, every header can be read again


def _save(homes: list[Path], rows: dict[str, list]) -> None:
  # In ASCII: names of files need not be UTF-8.
  text = json.dumps({"version": _VERSION, "files": rows})
  failed = None
  for home in homes:
    try:
      home.parent.mkdir(parents=True, exist_ok=True)
      # Several processes may index at once: each writes a whole file, the last one stays.
      fd, temporary = tempfile.mkstemp(dir=home.parent, prefix=home.name, suffix=".tmp")
      try:
        with os.fdopen(fd, "w") as f:
          f.write(text)
        os.replace(temporary, home)
      except BaseException:
        os.unlink(temporary)
        raise
      return
    except OSError as e:
      failed = e
  print(f"The index of recordings was not kept ({failed}); it is made again.", file=sys.stderr)
