"""Data sets of the public generator of the format, or ours of the same arguments in their place.

The public ones are not part of this project. Where they lie in `reference/vimh` beside the folder
that `BIG_AUDIO_DATA` names, tests read them and compare with what the public programs gave;
elsewhere what does not depend on their origin is tested on our own.
"""

import functools
import json
import os
import tempfile
from pathlib import Path

import pytest

from big_audio.datasets import synth_render, synths, vimh_write

ENVELOPES = "vimh-32x32x3_8000Hz_1p0s_64dss_simple_2p_envelopes"
MOOG = "vimh-32x32x1_8000Hz_1p0s_48dss_simple_4p"
# The arguments that the data sets were made with, all from seed 12345.
ARGUMENTS = {
  MOOG: ("moog_basic", dict(size=48)),
  "vimh-32x32x3_8000Hz_1p0s_32dss_simple_2p": ("simple_saw", dict(size=32, channels=3)),
  ENVELOPES: (
    "synth/generate_simple_saw",
    dict(size=64, temporal=True, spectral=True, joint_scaling=True),
  ),
  "vimh-32x32x1_8000Hz_1p0s_256dss_simple_2p": ("simple_saw", {}),
}


def _reference():
  shared = os.environ.get("BIG_AUDIO_DATA")
  folder = Path(shared).parent / "reference" / "vimh" if shared else None
  return folder if folder and folder.is_dir() else None


REFERENCE = _reference()
needed = pytest.mark.skipif(
  REFERENCE is None, reason="needs reference/vimh beside the folder that BIG_AUDIO_DATA names"
)


@functools.cache
def _made():
  return tempfile.TemporaryDirectory(prefix="vimh")


@functools.cache
def data_set(name: str) -> Path:
  """The folder of a data set with all of its files; not to be written to."""
  if REFERENCE:
    return REFERENCE / name
  recipe, arguments = ARGUMENTS[name]
  recipe = synths.build(recipe, **arguments)
  raw = recipe.metadata_json(pickle=True)
  del raw["generator"]  # which the public program does not write
  records = synth_render.records(recipe)
  folder = Path(_made().name) / name
  cut = raw["train_samples"]
  vimh_write.write_folder(folder, raw, records[:cut], records[cut:], pickle=True)
  return folder


def report(name: str, form: str, split: str) -> dict:
  """What the public loader returned for a file; needs the reference."""
  found = json.loads((REFERENCE / "reference_loader_report.json").read_text())
  return found[name][f"{form}/{split}"]
