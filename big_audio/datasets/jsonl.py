"""A list of recordings, one JSON object a line.

    {"path": "a/b.wav", "label": 3, "caption": "a dog barks", "start": 1.5, "secs": 10.0}

`path` is relative to the list. `start` and `secs` (seconds) cut a segment out of a recording and
are optional; every other entry goes into the example as it stands.
"""

import difflib
import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from big_audio.datasets import audio
from big_audio.datasets import splits as splits_lib
from big_audio.datasets.audio import AudioFile
from big_audio.datasets.errors import DecodeError

_OWN = ("path", "start", "secs", "id")


class Source:
  """Recordings of a list as {"wav": AudioFile, "sr", "id", and the line's other entries}."""

  def __init__(
    self,
    file: str,
    split: str = "all",
    *,
    sr: int | None = None,
    channels: int | None = None,
    splits: Mapping[str, float | str] | None = None,
    group: str | None = None,
  ):
    """Reads the list and the header of each recording.

    Args:
      file: the list.
      split: a name in `splits`, or "all".
      sr: resample to this rate (Hz) while reading; None refuses mixed rates.
      channels: 1 or n, as in `audio_dir`; None refuses mixed counts.
      splits: rules on the path, as in `datasets.splits.choose`; needed unless split is "all".
      group: as in `datasets.splits.choose`.

    Raises:
      ValueError: the list is missing or wrong (names the line), a segment is outside of its
        recording, a recording cannot be read, mixed rates or channels, an unknown split.
    """
    path = Path(file).expanduser()
    self._where = f"jsonl({file})"
    lines = _lines(path, self._where)
    ids = [line["path"] for _, line in lines]
    chosen = splits_lib.choose(
      ids, split, splits or {}, group=group, folder=path.parent, where=self._where
    )
    headers = {}
    self._items = [self._item(*lines[i], path.parent, headers) for i in chosen]
    if not self._items:
      return
    self.sr = self._only("rates (Hz)", "sr", (f.native_sr for f, _ in self._items), sr)
    self.channels = self._only(
      "channels", "channels", (f.native_channels for f, _ in self._items), channels
    )

  def _item(self, number, line, folder, headers):
    where = f"{self._where}, line {number}"
    path = folder / line["path"]
    try:
      if path not in headers:
        headers[path] = audio.probe(path)
    except DecodeError as e:
      raise ValueError(f'{where}: cannot read "{path}": {e}') from e
    sr, frames, channels = headers[path]
    start = round((line.get("start") or 0) * sr)
    count = frames - start if line.get("secs") is None else round(line["secs"] * sr)
    if start < 0 or count <= 0 or start + count > frames:
      raise ValueError(
        f'{where}: segment of {count / sr:.2f} s at {start / sr:.2f} s is outside of "{path}", '
        f"which has {frames / sr:.2f} s."
      )
    at = "" if line.get("start") is None else f"@{line['start']}"
    name = str(line.get("id", line["path"] + at))
    file = AudioFile(path, sr, count, channels, start=start, name=name)
    return file, {k: v for k, v in line.items() if k not in _OWN}

  def _only(self, what, argument, values, wanted):
    counts = Counter(values)
    listed = ", ".join(f"{n} with {v}" for v, n in counts.most_common())
    if wanted is None:
      if len(counts) > 1:
        first = counts.most_common(1)[0][0]
        raise ValueError(f"{self._where}: mixed {what}: {listed}. Set {argument}={first}.")
      return next(iter(counts))
    if set(counts) != {wanted}:
      print(f"{self._where}: converting {what} to {wanted}: {listed}.", file=sys.stderr)
    return wanted

  def __len__(self) -> int:
    return len(self._items)

  def __getitem__(self, i: int) -> dict:
    f, extra = self._items[i]
    wav = AudioFile(
      f.path, f.native_sr, f.frames, f.native_channels, self.sr, self.channels, f.start, f.name
    )
    return {"wav": wav, "sr": self.sr, "id": f.name, **extra}


def _lines(path, where):
  """[(line number, dict with "path")]."""
  try:
    text = path.read_text(encoding="utf-8")
  except (OSError, UnicodeDecodeError) as e:
    raise ValueError(f"{where}: cannot be read: {e}") from e
  out = []
  for number, raw in enumerate(text.split("\n"), 1):
    if not raw.strip():
      continue
    try:
      line = json.loads(raw)
    except json.JSONDecodeError as e:
      raise ValueError(f"{where}, line {number}: not JSON: {e}") from None
    if not isinstance(line, dict) or not isinstance(line.get("path"), str):
      near = difflib.get_close_matches("path", line) if isinstance(line, dict) else []
      hint = f' Did "{near[0]}" mean to be it?' if near else ""
      raise ValueError(f'{where}, line {number}: expected an object with "path".{hint}')
    for key in ("start", "secs"):
      value = 0 if line.get(key) is None else line[key]
      if not isinstance(value, (int, float)) or not abs(value) < 1e9:
        raise ValueError(f"{where}, line {number}: {key} must be seconds, got {line[key]!r}.")
    out.append((number, line))
  if not out:
    raise ValueError(f"{where}: the list is empty.")
  return out
