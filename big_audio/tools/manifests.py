"""Lists of recordings as JSON lines, written so that a kill leaves whole lines only."""

import hashlib
import json
import os
import pathlib
from collections.abc import Iterable


def sha256(path) -> str:
  """Hex digest of a file."""
  with open(path, "rb") as f:
    return hashlib.file_digest(f, "sha256").hexdigest()


def secs_of(path) -> float | None:
  """Seconds of a recording by its header; None where it cannot be read."""
  from big_audio.datasets import audio
  from big_audio.datasets.errors import DecodeError

  try:
    sr, frames, _ = audio.probe(os.fspath(path))
  except (DecodeError, ImportError, ValueError):
    return None
  return frames / sr if sr else None


def read(path, *, missing_ok: bool = False) -> list[dict]:
  """The objects of a file; an unfinished last line is left out.

  Raises:
    ValueError: no such file (unless missing_ok), or a line that is no JSON object.
  """
  try:
    raw = pathlib.Path(path).read_bytes()
  except FileNotFoundError:
    if missing_ok:
      return []
    raise ValueError(f"{path}: no such file.") from None
  out = []
  for number, line in enumerate(raw.splitlines(keepends=True), 1):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
    except ValueError:
      if not line.endswith(b"\n"):
        break  # killed while writing
      raise ValueError(f"{path}:{number}: not JSON: {line[:60]!r}.") from None
    if not isinstance(row, dict):
      raise ValueError(f"{path}:{number}: expected an object, got {line[:60]!r}.")
    out.append(row)
  return out


def write(path, rows: Iterable[dict]) -> None:
  """Writes all rows; the file appears, or is replaced, as a whole."""
  replace(path, "".join(_line(r) for r in rows))


def _line(row):
  text = json.dumps(row, ensure_ascii=False)
  # Names of files need not be UTF-8; what is not is escaped.
  return (text if text == text.encode(errors="replace").decode() else json.dumps(row)) + "\n"


def replace(path, text: str) -> None:
  """New content by a rename: a kill leaves the old file or the new one."""
  temporary = f"{path}.{os.getpid()}.tmp"
  try:
    with open(temporary, "w", encoding="utf-8") as f:
      f.write(text)
      f.flush()
      os.fsync(f.fileno())
    os.replace(temporary, path)
  except BaseException:
    pathlib.Path(temporary).unlink(missing_ok=True)
    raise


class Appender:
  """Adds rows to a file as they come; when it closes, the last row of each key stays.

  Args:
    path: the file; rows of earlier runs are kept.
    key: the entry by which rows replace each other.
  """

  def __init__(self, path, *, key: str):
    self.path, self._key = pathlib.Path(path), key
    self._compact()
    self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115

  def _compact(self):
    rows = read(self.path, missing_ok=True)
    last = {row.get(self._key): row for row in rows}
    whole = not self.path.exists() or self.path.read_bytes()[-1:] in (b"", b"\n")
    if len(last) < len(rows) or not whole:
      write(self.path, last.values())

  def add(self, row: dict) -> None:
    """Appends a row; it is on disk when this returns."""
    self._file.write(_line(row).encode())
    os.fsync(self._file.fileno())

  def __enter__(self) -> "Appender":
    return self

  def __exit__(self, *exc) -> None:
    self._file.close()
    self._compact()
