"""Names of VIMH data sets' folders, which tell what is in them.

    vimh-{H}x{W}x{C}_{sr}Hz_{secs}s_{n}dss_{voice}_{P}p[_suffix...]
    vimh-32x32x1_8000Hz_1p0s_256dss_simple_2p

A point in a number is written p. A folder may have any other name; one that is named so has to
keep its word.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from big_audio.datasets.vimh_meta import Metadata

_NUMBER = r"(\d+(?:p\d+)?)"
_FORM = re.compile(
  rf"vimh-(\d+)x(\d+)x(\d+)_{_NUMBER}Hz_{_NUMBER}s_(\d+)dss_(\w+?)_(\d+)p((?:_[A-Za-z0-9]+)*)",
  re.ASCII,
)


@dataclass(frozen=True)
class Name:
  """What a folder's name says: picture, sr (Hz), secs (s), items, voice, parameters, suffixes."""

  height: int
  width: int
  channels: int
  sr: float
  secs: float
  items: int
  voice: str
  parameters: int
  suffixes: tuple[str, ...] = ()

  def __str__(self) -> str:
    """The name, e.g. vimh-32x32x1_8000Hz_1p0s_256dss_simple_2p."""
    sr = np.format_float_positional(self.sr, trim="-").replace(".", "p")
    secs = np.format_float_positional(self.secs, trim="0").replace(".", "p")
    tail = "".join(f"_{s}" for s in self.suffixes)
    return (
      f"vimh-{self.height}x{self.width}x{self.channels}_{sr}Hz_{secs}s_{self.items}dss_{self.voice}"
      f"_{self.parameters}p{tail}"
    )


def parse(name: str) -> Name | None:
  """Takes a folder's name apart; None if it is not of this form."""
  found = _FORM.fullmatch(name)
  if not found:
    return None
  h, w, c, sr, secs, n, voice, p, tail = found.groups()
  number = lambda s: float(s.replace("p", "."))
  suffixes = tuple(tail.split("_")[1:])
  return Name(int(h), int(w), int(c), number(sr), number(secs), int(n), voice, int(p), suffixes)


def disagreements(name: str, metadata: Metadata) -> list[tuple[str, float, float]]:
  """[(what, by the name, by the metadata)]; empty for a name that is not of this form."""
  name = parse(name)
  if name is None:
    return []
  m = metadata
  pairs = [
    ("height", name.height, m.height),
    ("width", name.width, m.width),
    ("channels", name.channels, m.channels),
    ("number of parameters", name.parameters, len(m.parameters)),
    ("sample rate", name.sr, m.sr),
    ("duration", name.secs, m.secs),
    ("number of items", name.items, m.train + m.test),
  ]
  return [p for p in pairs if p[1] != p[2]]


def check(folder: Path, metadata: Metadata) -> None:
  """Compares the folder's name, where it is of this form, with the metadata.

  Raises:
    ValueError: they disagree.
  """
  for what, named, stated in disagreements(folder.resolve().name, metadata):
    raise ValueError(
      f"{folder}: by its name the {what} is {named:g}, by {metadata.where} {stated:g}. Rename the "
      "folder, or find the file that belongs to it."
    )
