"""Looks into a VIMH data set: pictures with their parameters, sounds, histograms, errors of a run.

  python -m proj.vimh.browse data/vimh-32x32x1_8000Hz_1p0s_256dss_simple_2p --out page.html --audio
  python -m proj.vimh.browse --synth moog_basic --size 1024 --out page.html --waterfall \\
    --pick filter_resonance=.5..1 --sort filter_cutoff
  python -m proj.vimh.browse --workdir runs/vimh:best --split test --sort error --out errors.html

One page without any request to the network; --png writes a grid of the same samples for a paper.
Pictures have low frequencies at the bottom, all planes side by side. --audio renders the sounds
from the labels and the fixed parameters, so they are those of the labels' 8 bits. With --workdir
each sample has the estimates of that run; without DIR or --synth the run's own data are shown.
"""

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from big_audio.datasets import build as sources
from big_audio.datasets import synth_render, vimh_meta
from big_audio.datasets.vimh import SPLITS
from big_audio.tools import manifests
from proj.vimh import browse_page, browse_run

SHOWN = ("train", "validation", "test")
_SCALES = 20_000  # items whose dB range is looked at


@dataclass(frozen=True)
class Sample:
  """One item with its labels.

  Attributes:
    index: place in the split; id: e.g. "test/17".
    image: u8[H,W,C], row 0 the lowest frequency.
    scale: (least, largest) dB, None where unknown.
    values, bytes, classes: {parameter: number}.
  """

  index: int
  id: str
  image: np.ndarray
  scale: tuple[float, float] | None
  values: dict[str, float]
  bytes: dict[str, int]
  classes: dict[str, int]


class DataSet:
  """The splits of a data set.

  Args:
    data: source and arguments of a data set of a config, without split and pp.

  Raises:
    ValueError: no such data set; one without metadata of parameters.
  """

  def __init__(self, data):
    self._data, self._open, self._values = dict(data), {}, {}
    self.metadata = getattr(self.split("train"), "metadata", None)
    if not hasattr(self.metadata, "parameters"):
      raise ValueError(f"source {data.get('source')!r} is no VIMH data set.")

  def split(self, name: str):
    """The source of a split; raises a ValueError with the reason where it has no items."""
    if name not in self._open:
      kw = {k: v for k, v in self._data.items() if k != "source"}
      self._open[name] = sources.build(self._data["source"], "browse", **{**kw, "split": name})
    return self._open[name]

  def values(self, name: str) -> dict[str, np.ndarray]:
    """{parameter: f64[N]} of a split; empty arrays where it has no items."""
    if name not in self._values:
      try:
        source = self.split(name)
      except ValueError as e:
        if "has no examples" not in str(e):
          raise
        source = ()
      own = getattr(source, "values", None)  # some read them without the pictures
      items = {} if own else [source[i] for i in range(len(source))]
      self._values[name] = own() if own else {
        p: np.array([x[f"{p}/value"] for x in items], np.float64) for p in self.metadata.names
      }  # fmt: skip
    return self._values[name]

  def bytes(self, name: str) -> dict[str, np.ndarray]:
    """{parameter: u8[N]}, the labels as they are stored."""
    back = lambda p, v: np.round(255 * (v - p.min) / (p.max - p.min)).astype(np.uint8)
    return {p.name: back(p, self.values(name)[p.name]) for p in self.metadata.parameters}

  @property
  def classes(self):
    """How heads count classes: "step" or 256."""
    return self._data.get("classes", "step")

  def class_counts(self, parameter) -> dict[str, np.ndarray]:
    """{split: i64[K]} items of each class."""
    k = parameter.count(self.classes)
    found = {s: parameter.to_class(self.bytes(s)[parameter.name], self.classes) for s in SHOWN}
    return {s: np.bincount(c, minlength=k) for s, c in found.items()}

  def scales(self, name: str) -> np.ndarray:
    """f64[N,2] dB ranges of (some, evenly spaced) items of a split; [0,2] where unknown."""
    source = self.split(name)
    step = -(-len(source) // _SCALES)
    found = [source[i].get("spec_scale") for i in range(0, len(source), step)]
    return np.array([s for s in found if s is not None], np.float64).reshape(-1, 2)

  def sample(self, name: str, index: int) -> Sample:
    """An item of a split."""
    item, m = self.split(name)[index], self.metadata
    scale = item.get("spec_scale")
    stored = self.bytes(name)
    return Sample(
      index=index,
      id=str(item["id"]),
      image=item["image"],
      scale=None if scale is None else (float(scale[0]), float(scale[1])),
      values={p: float(self.values(name)[p][index]) for p in m.names},
      bytes={p: int(stored[p][index]) for p in m.names},
      classes={p: int(item[p]) for p in m.names},
    )


def choose(values, *, picks=(), sort="", error=None, count=48) -> tuple[np.ndarray, int]:
  """Which items to show.

  Args:
    values: {parameter: f64[N]}.
    picks: "PARAM=LO..HI", all of which hold (ends included; one may be left out), or PARAM=VALUE.
    sort: a parameter, ascending; "error", descending; "" leaves the order.
    error: f64[N], for sort="error".
    count: at most that many.

  Returns:
    (i64[n] indices, how many fulfil the picks).

  Raises:
    ValueError: an unknown parameter, a range that is none or leaves nothing, errors without a run.
  """
  from big_audio import config as C

  keep = np.ones(len(next(iter(values.values()))), bool)
  for pick in picks:
    name, eq, text = pick.partition("=")
    C.pick("--pick", values, name)
    lo, dots, hi = text.partition("..")
    try:
      lo, hi = (float(lo or "-inf"), float(hi or "inf")) if dots else (float(lo), float(lo))
    except ValueError:
      raise ValueError(f"--pick {pick!r}: expected PARAM=LO..HI or PARAM=VALUE.") from None
    slack = 1e-9 * max(1.0, float(np.abs(values[name]).max(initial=0)))
    keep &= (values[name] >= lo - slack) & (values[name] <= hi + slack)
    if not keep.any():
      has = values[name]
      reach = f"{has.min():g} to {has.max():g}" if len(has) else "nothing"
      raise ValueError(f"--pick {pick!r} leaves no sample: {name} is {reach} in this split.")
  found = np.nonzero(keep)[0]
  if sort == "error":
    if error is None:
      raise ValueError("--sort error needs the estimates of a run: --workdir RUN.")
    found = found[np.argsort(-error[found], kind="stable")]
  elif sort:
    C.pick("--sort", {**values, "error": 0}, sort)
    found = found[np.argsort(values[sort][found], kind="stable")]
  return found[:count], len(found)


def parser() -> argparse.ArgumentParser:
  """The command line."""
  p = argparse.ArgumentParser(
    prog="python -m proj.vimh.browse", description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )  # fmt: skip
  p.add_argument("dir", nargs="?", metavar="DIR", help="a VIMH folder")
  p.add_argument("--synth", help="a recipe, rendered now, in place of DIR")
  p.add_argument("--size", type=int, help="items of it, default 1024")
  p.add_argument("--workdir", metavar="RUN[:step|:best]", help="a run whose estimates to show")
  p.add_argument("--recent", metavar="FOLDER", help="the data set below it that was made last")
  p.add_argument("--form", choices=("binary", "pickle"), help="which of the folder's files")
  p.add_argument("--split", choices=SPLITS, default="test")
  p.add_argument("--count", type=int, default=48, help="samples, default %(default)s")
  p.add_argument("--pick", action="append", default=[], metavar="PARAM=LO..HI")
  p.add_argument("--sort", default="", metavar="PARAM", help='a parameter, or "error"')
  p.add_argument("--audio", action="store_true", help="sounds, rendered from the labels")
  p.add_argument("--waterfall", action="store_true", help="each picture as lines behind lines")
  p.add_argument("--out", metavar="FILE.html")
  p.add_argument("--png", metavar="FILE.png", help="a grid of the pictures")
  p.add_argument("--mb", type=float, default=20, help="most of the page, default %(default)s")
  return p


def data_of(flags, runner=None) -> dict:
  """The data set that flags name, as a config has it."""
  given = [n for n in ("dir", "synth", "recent") if getattr(flags, n)]
  if len(given) > 1 or not (given or runner):
    raise ValueError(
      "expected one of DIR, --synth NAME and --recent FOLDER, or --workdir RUN for that run's data."
    )
  if flags.size is not None and given != ["synth"]:
    raise ValueError("--size belongs to --synth: what is there has its own size.")
  if flags.form and given not in (["dir"], ["recent"]):
    raise ValueError("--form belongs to a folder.")
  own = browse_run.data_of(runner) if runner else {}
  classes = {"classes": own["classes"]} if "classes" in own else {}
  if given in (["dir"], ["recent"]):
    form = {"form": flags.form} if flags.form else {}
    return dict(source="vimh", dir=flags.dir or recent(flags.recent), **form, **classes)
  if given == ["synth"]:
    return dict(source="worlds.synth", synth=flags.synth, size=flags.size or 1024, **classes)
  return own


def recent(folder: str) -> str:
  """The data set below a folder whose description is the newest; raises ValueError without any."""
  found = list(Path(folder).glob(f"*/{vimh_meta.FILE}"))
  if not found:
    raise ValueError(
      f"{folder}: no data set lies there. Make one: python -m big_audio.tools.make_vimh generate."
    )
  return str(max(found, key=lambda p: p.stat().st_mtime).parent)


def run(flags) -> list[str]:
  """Writes what the flags ask for; returns lines for the user."""
  if not (flags.out or flags.png):
    raise ValueError("nothing to write: give --out FILE.html, --png FILE.png, or both.")
  if flags.count < 1 or flags.mb <= 0:
    raise ValueError("--count and --mb must be above zero.")
  runner = browse_run.open_run(flags.workdir) if flags.workdir else None
  data = DataSet(described := data_of(flags, runner))
  found = browse_run.Estimates(runner, {**described, "split": flags.split}) if runner else None
  values = data.values(flags.split)
  chosen, fit = choose(values, picks=flags.pick, sort=flags.sort, count=flags.count,
                       error=found.error if found else None)  # fmt: skip
  samples = [data.sample(flags.split, int(i)) for i in chosen]
  said = []
  for path in filter(None, (flags.out, flags.png)):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
  if flags.out:
    wavs = None
    if flags.audio:
      wavs = synth_render.sounds(
        data.metadata, {p: np.array([s.values[p] for s in samples]) for p in data.metadata.names}
      )
    html, left_out = browse_page.page(
      data, samples, split=flags.split, fit=fit, wavs=wavs, waterfalls=flags.waterfall, found=found,
      most=int(flags.mb * 1e6),
    )  # fmt: skip
    manifests.replace(flags.out, html)
    said += [f"{flags.out}: {len(samples)} of {fit} samples, {len(html.encode()) / 1e6:.2f} MB"]
    said += [f"left out: {left_out}"] if left_out else []
  if flags.png:
    browse_page.grid(flags.png, data.metadata, samples, found)
    said.append(flags.png)
  return said


def main(argv=None) -> int:
  """The command line; returns the exit status."""
  flags = parser().parse_args(argv)
  try:
    for line in run(flags):
      print(line)
  except (ValueError, OSError, ImportError) as e:
    print(f"browse: {e}", file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main())
