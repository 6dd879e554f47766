"""Names of VIMH data sets' folders, which tell what is in them.

    vimh-{H}x{W}x{C}_{sr}Hz_{secs}s_{n}dss_{voice}_{P}p[_suffix...]
    vimh-32x32x1_8000Hz_1p0s_256dss_simple_2p

A point in a number is written p. A folder may have any other name; one that is named so has to
keep its word (of the suffixes those that tell planes of envelopes; nothing in a data set tells
whether it was shuffled).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from big_audio.datasets.vimh_meta import Metadata

_NUMBER = r"(\d+(?:p\d+)?)"
_FORM = re.compile(
  rf"vimh-(\d+)x(\d+)x(\d+)_{_NUMBER}Hz_{_NUMBER}s_(\d+)dss_(\w+?)_(\d+)p((?:_[A-Za-z0-9]+)*)",
  re.ASCII,
)

_COURSES = ("temporal", "spectral")
_PLANES = (*_COURSES, "envelopes", "normalized")
_PLAIN = {"Gray", "R", "G", "B"}


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


def planes(labels: Sequence[str]) -> str:
  """The suffix of a data set whose channels are called so, "" without planes of envelopes."""
  temporal, spectral = (any(n.endswith(f"_{k}_envelope") for n in labels) for k in _COURSES)
  if not (temporal and spectral):
    return "temporal" if temporal else "spectral" if spectral else ""
  return "normalized" if any(n.endswith("_normalized") for n in labels) else "envelopes"


def disagreements(name: str, metadata: Metadata) -> list[tuple[str, str, str]]:
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
  out = [(what, f"{a:g}", f"{b:g}") for what, a, b in pairs if a != b]
  if name.voice != m.voice:
    out.append(("voice", name.voice, f"{m.voice:.60}"))
  labels = m.raw.get("channel_labels")
  if isinstance(labels, list) and all(isinstance(n, str) for n in labels):
    named = "_".join(s for s in name.suffixes if s in _PLANES)
    # Labels that are called otherwise tell nothing.
    if (stated := planes(labels)) != named and (stated or set(labels) <= _PLAIN):
      out.append(("kind of planes", named or "plain", stated or "plain"))
  return out


def check(folder: Path, metadata: Metadata) -> None:
  """Compares the folder's name, where it is of this form, with the metadata.

  Raises:
    ValueError: they disagree.
  """
  for what, named, stated in disagreements(folder.resolve().name, metadata):
    raise ValueError(
      f"{folder}: by its name the {what} is {named}, by {metadata.where} {stated}. Rename the "
      "folder, or find the file that belongs to it."
    )
