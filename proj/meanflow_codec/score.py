"""Scores a codec on recordings: encoded to bytes, decoded, compared with what went in.

  python -m proj.meanflow_codec.score --workdir runs/speech /data/fsdd --nfe 0 1 2 4 8 \\
    --pattern '_[5-9]\\.wav$' --join 4 --group '_([a-z]+)_'

Rows: the plain decoder ("ae", 0 evaluations), the refiner at each number of evaluations, the
recordings themselves ("identity") and silence ("zero"). kbps are those of the files: the payload,
and the whole with its header. PESQ and STOI need the extra `metrics`; without it their columns say
so.
"""

import argparse
import importlib
import json
import re
import sys

import numpy as np
from absl import logging

from big_audio.datasets.audio_dir import Source
from big_audio.dsp import distances
from proj.meanflow_codec import bitstream
from proj.meanflow_codec.codec import header_of, open_codec

SILENCE_SECS = 0.1  # between joined recordings
UNAVAILABLE = "unavailable"


def clips(folder: str, sr: int, channels: int, *, pattern=None, join_secs=0.0, group=None):
  """Recordings of a folder as a list of (name, f32[T, C]).

  Args:
    folder: searched recursively.
    sr, channels: Hz and C; other rates are refused.
    pattern: regex that must be found in a path.
    join_secs: join recordings of a group, with a little silence, to clips of at least this length;
      a group's remainder is left out. 0: every recording on its own.
    group: regex whose first group names the group of a path (a speaker, say).

  Raises:
    ValueError: no recordings, another rate, or a path in which `group` finds nothing.
  """
  source = Source(folder, "all", channels=channels, pattern=pattern)
  if source.sr != sr:
    raise ValueError(f"{folder} has {source.sr} Hz, the codec {sr} Hz.")
  found = [(e["id"], e["wav"].numpy()) for e in (source[i] for i in range(len(source)))]
  if not join_secs:
    return found
  groups: dict[str, list] = {}
  for name, wav in found:
    match = re.search(group, name) if group else None
    if group and not match:
      raise ValueError(f'--group {group!r} finds nothing in "{name}".')
    groups.setdefault(match.group(1) if match else "all", []).append(wav)
  gap = np.zeros((round(SILENCE_SECS * sr), channels), np.float32)
  joined = []
  for name, waves in sorted(groups.items()):
    parts: list = []
    for wav in waves:
      parts += [wav, gap]
      if sum(map(len, parts)) >= join_secs * sr:
        joined.append((f"{name}_{len(joined)}", np.concatenate(parts)))
        parts = []
  return joined


def speech_scores(sr: int):
  """{"pesq_nb", "stoi"}: fn(reference, estimate) -> float, or None where the package is missing."""

  def load(package, fn):
    try:
      return fn(importlib.import_module(package))
    except ImportError:
      return None

  # PESQ narrow band takes 8 or 16 kHz.
  pesq = (
    load("pesq", lambda m: lambda a, b: m.pesq(sr, a, b, "nb")) if sr in (8000, 16000) else None
  )
  return {"pesq_nb": pesq, "stoi": load("pystoi", lambda m: lambda a, b: m.stoi(a, b, sr))}


def score(codec, recordings, nfes, *, seed=0, coding="packed") -> list[dict]:
  """One row for each of identity, zero, and every number of evaluations; means over recordings."""
  speech = speech_scores(codec.sr)
  sums: dict[str, dict[str, float]] = {}
  secs = payload = total = 0.0

  def add(row, estimate, wav):
    values = {
      "si_sdr": float(distances.si_sdr(estimate.astype(np.float64), wav.astype(np.float64))),
      "lsd": float(distances.log_spectral_distance(
        estimate, wav, window=distances.window_for(codec.sr, 0.046))),
      "mel": float(distances.mel_distance(estimate, wav, codec.sr)),
    }  # fmt: skip
    # PESQ finds no utterance in silence.
    for name, fn in speech.items():
      if fn and row != "zero":
        values[name] = float(fn(wav[:, 0], estimate[:, 0]))
    mine = sums.setdefault(row, {})
    for k, v in values.items():
      mine[k] = mine.get(k, 0.0) + v

  for _, wav in recordings:
    header = header_of(codec, len(wav), seed=seed, coding=coding)
    data = bitstream.dumps(codec.encode(wav), header, codec.coder)
    secs += len(wav) / codec.sr
    payload, total = payload + bitstream.info(data)["payload_bytes"], total + len(data)
    add("identity", wav, wav)
    add("zero", np.zeros_like(wav), wav)
    codes = bitstream.loads(data, codec.coder)[1]
    for nfe in nfes:
      add(f"nfe{nfe}" if nfe else "ae", codec.decode(codes, len(wav), nfe=nfe, seed=seed), wav)
  rows = []
  for name, values in sums.items():
    row = {"row": name, **{k: v / len(recordings) for k, v in values.items()}}
    row |= {k: UNAVAILABLE for k, fn in speech.items() if fn is None}
    if name not in ("identity", "zero"):
      row |= {"payload_kbps": payload * 8e-3 / secs, "file_kbps": total * 8e-3 / secs}
    rows.append(row)
  return rows


def table(rows: list[dict]) -> str:
  """Rows as a Markdown table."""
  columns = list(dict.fromkeys(k for r in rows for k in r))
  cell = lambda v: f"{v:.3f}" if isinstance(v, float) else str(v)
  lines = [columns, ["---"] * len(columns)]
  lines += [[cell(r.get(c, "-")) for c in columns] for r in rows]
  return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(argv=None) -> None:
  """The command line."""
  parser = argparse.ArgumentParser(
    prog="python -m proj.meanflow_codec.score", description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )  # fmt: skip
  parser.add_argument("--workdir", required=True, help="of the trained codec, or workdir:step")
  parser.add_argument("folder", help="recordings")
  parser.add_argument("--nfe", type=int, nargs="+", default=[0, 1], help="evaluations; 0: plain AE")
  parser.add_argument("--pattern", help="regex that must be found in a path")
  parser.add_argument("--join", type=float, default=0.0, help="join to clips of so many seconds")
  parser.add_argument("--group", help="regex; its first group must agree in joined recordings")
  parser.add_argument("--limit", type=int, help="only so many clips, evenly spread")
  parser.add_argument("--seed", type=int, default=0, help="of the decoder's noise")
  parser.add_argument("--json", help="also write the rows to this file")
  flags = parser.parse_args(argv)
  logging.set_verbosity(logging.ERROR)
  try:
    codec = open_codec(flags.workdir)
    found = clips(
      flags.folder, codec.sr, codec.channels, pattern=flags.pattern, join_secs=flags.join,
      group=flags.group,
    )  # fmt: skip
    if not found:
      raise ValueError(
        f"No group of {flags.folder} has {flags.join} seconds; use a smaller --join."
      )
    if flags.limit and flags.limit < len(found):
      found = [found[i] for i in np.linspace(0, len(found) - 1, flags.limit).astype(int)]
    rows = score(codec, found, flags.nfe, seed=flags.seed)
  except (ValueError, OSError) as e:
    sys.exit(f"{type(e).__name__}: {e}")
  secs = sum(len(w) for _, w in found) / codec.sr
  print(f"{len(found)} clips, {secs:.1f} s\n{table(rows)}")
  if flags.json:
    with open(flags.json, "w") as f:
      json.dump(rows, f, indent=1)


if __name__ == "__main__":
  main()
