"""Log-mels that `tools.prepare_features` has written: shards, a manifest and a card.

    data={"music": dict(source="features", dir="/data/music_fbank",
                        pp="mask_fbank(16, 24)|ast_normalise|keep('fbank', 'label', 'track')")}

The features are as `pp="fbank(...)"` makes them, not normalised, so the same preprocessing follows
whether they are read here or made from recordings of the source `tracks`.
"""

import difflib
import glob
import json
from pathlib import Path

import numpy as np

from big_audio.datasets import arrayrecord
from big_audio.datasets.errors import DecodeError

# What each line of the manifest has.
_LINE = dict(
  id=str, split=str, shard=str, row=int, label=int, track=int, artist=int, track_name=str
)


class Source:
  """Chunks as {"fbank": f32[F,M], "id", "label", "track", "artist"}, as `tracks` numbers them.

  Attributes:
    classes: names of the labels.
    columns: {"label", "track", "artist": i32[len]}.
    card: what the preparing tool noted: settings, statistics, counts.
  """

  def __init__(self, dir: str, split: str = "train"):
    """Reads the manifest and opens the shards.

    Args:
      dir: the folder that the tool wrote.
      split: one of its splits.

    Raises:
      ValueError: no such folder or split, a manifest that is damaged or does not fit the shards.
    """
    self.dir, self._where = Path(dir).expanduser(), f"features({dir})"
    lines = _lines(self.dir / "manifest.jsonl", self._where)
    self.card = _card(self.dir / "card.json", self._where)
    self.classes = self.card["classes"]
    self._record: dict[str, set[str]] = {}
    for line in lines:
      self._record.setdefault(line["split"], set()).add(line["track_name"])
    if split not in self._record:
      near = difflib.get_close_matches(split, self._record, n=1)
      hint = f' Did you mean "{near[0]}"?' if near else ""
      known = ", ".join(sorted(self._record))
      raise ValueError(f'{self._where}: no split "{split}".{hint} There are {known}.')
    mine = [line for line in lines if line["split"] == split]
    rows: dict[str, list[int]] = {}
    for line in mine:
      rows.setdefault(line["shard"], []).append(line["row"])
    for shard, numbers in rows.items():
      # A name, not a path: the manifest may lead nowhere else.
      if Path(shard).name != shard or not (self.dir / shard).is_file():
        raise ValueError(f'{self._where}: the manifest names "{shard}", which is not beside it.')
      if numbers != list(range(len(numbers))):
        raise ValueError(
          f'{self._where}: the manifest does not list the rows of "{shard}" in order.'
        )
    self._source = arrayrecord.Source([glob.escape(str(self.dir / s)) for s in rows])
    if len(self._source) != len(mine):
      raise ValueError(
        f"{self._where}: {len(self._source)} records in {', '.join(rows)}, and the manifest lists "
        f"{len(mine)}. Prepare the features again."
      )
    self.columns = {
      k: np.array([line[k] for line in mine], np.int32) for k in ("label", "track", "artist")
    }
    if self.columns["label"].min() < -1 or self.columns["label"].max() >= len(self.classes):
      raise ValueError(f"{self._where}: labels of the manifest are not those of card.json.")
    self.ids = [line["id"] for line in mine]

  def __len__(self) -> int:
    return len(self.ids)

  def __getitem__(self, i: int) -> dict:
    name = self.ids[i]
    record = self._source[i]
    fbank = record.get("fbank")
    if record.get("id") != name or getattr(fbank, "ndim", 0) != 2:
      raise DecodeError(
        f'{self._where}: record {i} is "{record.get("id")}", the manifest says "{name}".'
      )
    numbers = {k: int(v[i]) for k, v in self.columns.items()}
    return {"fbank": fbank.astype(np.float32), "id": name, **numbers}

  def split_record(self) -> dict[str, list[str]]:
    """{split: names of its tracks, sorted}."""
    return {s: sorted(tracks) for s, tracks in sorted(self._record.items())}


def _lines(path, where):
  out = []
  try:
    with open(path, encoding="utf-8") as f:
      for number, text in enumerate(f, 1):
        line = json.loads(text)
        if not isinstance(line, dict) or any(type(line.get(k)) is not t for k, t in _LINE.items()):
          raise ValueError(f"{where}: {path.name}, line {number}: expected {', '.join(_LINE)}.")
        out.append(line)
  except OSError as e:
    raise ValueError(f"{where}: cannot read {path.name}: {e.strerror}.") from e
  except json.JSONDecodeError as e:
    raise ValueError(f"{where}: {path.name}, line {len(out) + 1}: not JSON: {e}") from e
  return out


def _card(path, where):
  try:
    card = json.loads(path.read_text(encoding="utf-8"))
  except OSError as e:
    raise ValueError(f"{where}: cannot read card.json: {e.strerror}.") from e
  except json.JSONDecodeError as e:
    raise ValueError(f"{where}: card.json is not JSON: {e}") from e
  classes = card.get("classes") if isinstance(card, dict) else None
  if not isinstance(classes, list) or not all(isinstance(c, str) for c in classes):
    raise ValueError(f"{where}: card.json names no classes.")
  return card
