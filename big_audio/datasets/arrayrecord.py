"""Examples in ArrayRecord files: random access within one large file, for prepared data.

    with arrayrecord.Writer("train-00000.arrayrecord") as w:
      w.write({"wav": wav, "sr": 16000, "id": "a"})
    data={"x": dict(source="arrayrecord", files="/data/train-*.arrayrecord", pp="crop(secs=1)")}

One example is one record (`datasets.records`); no pickle is involved. Files of audio stay
small when an example holds the bytes of a FLAC file, read with `pp="decode_audio('flac')|..."`.
"""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from big_audio.datasets import records
from big_audio.datasets.errors import DecodeError


class Source:
  """The examples of one or more ArrayRecord files, in the order of the files' names."""

  def __init__(self, files: str | Sequence[str], split: str | None = None):
    """Opens the files.

    Args:
      files: a path, a pattern with `*`, or a list of these; `{split}` in it is replaced.
      split: what to put in place of `{split}`.

    Raises:
      ValueError: nothing matches; a file is not an ArrayRecord file; `split` has no place in
        `files`, or the reverse.
    """
    patterns = [files] if isinstance(files, str) else list(files)
    if any("{split}" in p for p in patterns) != (split is not None):
      raise ValueError(
        f"arrayrecord: files={files} and split={split!r} do not fit: "
        'write the place of the split, as in files="/data/{split}-*.arrayrecord", split="train".'
      )
    self.paths = []
    for pattern in patterns:
      pattern = os.path.expanduser(pattern.replace("{split}", split or ""))
      found = sorted(glob.glob(pattern))
      if not found:
        near = sorted(p.name for p in Path(pattern).parent.glob("*"))[:5]
        raise ValueError(
          f"arrayrecord: nothing matches {pattern}. Beside it: {', '.join(near) or 'nothing'}."
        )
      self.paths += found
    self._source = self._open()

  def _open(self):
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    try:
      return ArrayRecordDataSource(self.paths)
    except (RuntimeError, ValueError, OSError) as e:
      raise ValueError(f"arrayrecord: cannot open {', '.join(self.paths[:3])}: {e}") from e

  def __getstate__(self):
    return {"paths": self.paths}  # open files do not travel to workers

  def __setstate__(self, state):
    self.paths = state["paths"]
    self._source = self._open()

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, i: int) -> dict:
    try:
      (record,) = self._source.__getitems__([i])
    except (RuntimeError, ValueError, OSError) as e:
      raise DecodeError(f"arrayrecord: record {i}: {e}") from e
    example = records.decode(record)
    return {"id": f"arrayrecord/{i}", **example}


class Writer:
  """Writes examples into one file, which appears under its name when it is complete."""

  def __init__(self, path: str | os.PathLike):
    from array_record.python.array_record_module import ArrayRecordWriter

    self.path = Path(path)
    self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
    # One record in a group: a read decompresses one example, not its neighbours.
    self._writer = ArrayRecordWriter(str(self._temporary), "group_size:1")

  def write(self, example: dict) -> None:
    """Appends a flat dict of arrays, bytes, strings and numbers (see `datasets.records`)."""
    self._writer.write(records.encode(example))

  def close(self) -> None:
    """Completes the file."""
    self._writer.close()
    os.replace(self._temporary, self.path)

  def __enter__(self) -> "Writer":
    return self

  def __exit__(self, kind, *exc) -> None:
    if kind is None:
      self.close()
    else:
      self._writer.close()
      self._temporary.unlink(missing_ok=True)
