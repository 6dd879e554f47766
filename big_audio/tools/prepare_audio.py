"""A folder or a list of recordings -> ArrayRecord shards, for the source `arrayrecord`.

  python -m big_audio.tools.prepare_audio data/wavegen/manifest.jsonl data/wavegen16 --sr 16000
  python -m big_audio.tools.prepare_audio recordings shards --segment-secs 10 --channels 1 \\
    --split train=0.9 --split test=0.1 --group '^([^/]+)/'

The source is a folder (searched recursively), or a list: .jsonl or .csv with `path` relative to it;
`start` and `secs` cut a segment out, `sha256` is verified, other columns (title, licence, label)
are kept. The target then holds

  <split>-00000-of-00004.arrayrecord   one example a record: id, sr, the sound, the kept columns
  card.json      counts, hours, rates, licences, rules and the sha256 of every shard
  failed.jsonl   what could not be used or was left out, and why

The sound is "flac" (bytes; 16 bit where that is exact, else 24; pp="decode_audio('flac')|..."),
"int16" or "float32" (an array "wav"; pp="crop(...)|to_float"). A shard appears when it is complete:
the same command goes on where an earlier one ended. Splits are by recording, never by segment.
"""

import argparse
import hashlib
import io
import json
import os
import pathlib
import sys
from collections import Counter

import numpy as np

from big_audio import config as C
from big_audio.datasets import audio_dir, splits
from big_audio.datasets.audio import AudioFile
from big_audio.datasets.errors import DecodeError
from big_audio.tools import manifests, shards
from big_audio.tools.listing import Item, find

PAYLOADS = dict(
  flac="decode_audio('flac')|crop(secs=1)",
  int16="crop(secs=1)|to_float",
  float32="crop(secs=1)",
)
_FLAC_CHANNELS = 8
_BYTES = dict(flac=1.2, int16=2.0, float32=4.0)  # of a sample, about


def encode(wav: np.ndarray, sr: int, payload: str) -> tuple[dict, int]:
  """({"flac": bytes} or {"wav": array}, samples that were clipped) of f32[T,C]."""
  if payload == "float32":
    return {"wav": wav}, 0
  # Multiplying by a power of two is exact in float32, and so are integers of 24 bits.
  scaled = wav * np.float32(32768)
  exact = payload == "int16" or bool(np.all(scaled == np.round(scaled)) and np.all(scaled < 32768))
  bits = 16 if exact else 24
  top = np.float32(2.0 ** (bits - 1))
  ints = np.round(wav * top)
  # Full scale itself (1.0) is one step above the largest integer: that is rounding, not clipping.
  clipped = int(np.sum(np.abs(ints) > top))
  ints = np.clip(ints, -top, top - 1).astype(np.int32)
  if payload == "int16":
    return {"wav": ints.astype(np.int16)}, clipped
  import soundfile

  out = io.BytesIO()
  data = ints.astype(np.int16) if bits == 16 else ints << 8
  soundfile.write(out, data, sr, format="FLAC", subtype=f"PCM_{bits}")
  return {"flac": out.getvalue()}, clipped


def examples(item: Item, sr: int, channels: int, payload: str, segment_secs, min_secs):
  """Yields (record, samples, clipped) of a recording, one a segment.

  Raises:
    DecodeError: it cannot be read, or is not the file that its row describes.
  """
  if item.sha256:
    try:
      found = manifests.sha256(item.path)
    except OSError as e:
      raise DecodeError(str(e)) from e
    if found != item.sha256:
      raise DecodeError(f"sha256 {found[:12]} is not the listed {item.sha256[:12]}")
  file = AudioFile(
    item.path, item.sr, item.frames, item.channels, sr, channels, item.start, item.id
  )
  total = file.shape[0]
  step = round(segment_secs * sr) if segment_secs else total
  for begin in range(0, total, step):
    n = min(step, total - begin)
    if begin and n < min_secs * sr:
      continue  # the rest of a long recording
    sound, clipped = encode(file.read(begin, n), sr, payload)
    name = f"{item.id}#{begin / sr:g}" if segment_secs else item.id
    yield {**item.extra, "id": name, "sr": sr, **sound}, n, clipped


def _licence(item):
  return item.extra.get("licence") or item.extra.get("license")


def plan(items, folder, *, known, rules, group, sr, channels, payload, shard_mb):
  """[(shard name, its items)]: contiguous pieces of each split, all about equally long."""
  ids = [i.id for i in items]
  found = []
  for split in sorted(rules):
    chosen = [
      items[n]
      for n in splits.choose(
        ids, split, rules, group=group, folder=folder, where="prepare_audio", known=known
      )
    ]
    size = [i.frames * sr / i.sr * channels * _BYTES[payload] for i in chosen]
    found += shards.pieces(split, chosen, size, shard_mb)
  return found


def prepare(
  source, target, *, sr=None, channels=None, payload="flac", segment_secs=None, min_secs=0.0,
  max_secs=None, rules=None, group=None, licence=None, shard_mb=256.0, jobs=2, max_bad_share=0.01,
) -> dict:  # fmt: skip
  """Writes the shards of a source; returns the card.

  Args:
    source: a folder or a list; target: a folder, made if missing.
    sr: resample to this rate (Hz); None refuses mixed rates.
    channels: 1 (mean) or n; None refuses mixed counts.
    payload: "flac", "int16" or "float32".
    segment_secs: cut recordings into pieces of this length (s).
    min_secs, max_secs: leave out recordings outside; a rest below min_secs is left out too.
    rules: {split: fraction or regex}, as in `datasets.splits.choose`.
    group: regex, as there.
    licence: of recordings whose row does not state one.
    shard_mb: about the size of a shard (MB).
    jobs: shards at a time.
    max_bad_share: share of the recordings that may fail.

  Raises:
    ValueError: a source that cannot be used, a target of other arguments, or too many failures.
  """
  source, target = pathlib.Path(source).expanduser(), pathlib.Path(target).expanduser()
  C.pick("prepare_audio: payload", PAYLOADS, payload)
  if segment_secs is not None and segment_secs <= 0:
    raise ValueError(f"prepare_audio: --segment-secs {segment_secs}: expected seconds above 0.")
  rules = dict(rules or audio_dir.DEFAULT_SPLITS)
  if not source.exists():
    raise ValueError(f"prepare_audio: {source}: no such folder or list.")
  items, bad, gone = find(source)
  total = len(items) + len(bad)
  where = f"prepare_audio({source})"
  secs = lambda i: i.frames / i.sr
  unfit = lambda i: secs(i) < min_secs or (max_secs is not None and secs(i) > max_secs)
  short = [dict(id=i.id, reason=f"{secs(i):.2f} s, outside the lengths asked for") for i in items
           if unfit(i)]  # fmt: skip
  items, short = [i for i in items if not unfit(i)], gone + short
  if not items:
    listed = "; ".join(f'"{b["id"]}": {b["reason"]}' for b in (bad + short)[:3])
    raise ValueError(f"{where}: no recordings. {listed or 'It is empty.'}")
  twice = [i for i, n in Counter(i.id for i in items).items() if n > 1]
  if twice:
    raise ValueError(f'{where}: "{twice[0]}" is listed more than once.')
  sr = audio_dir.one_rate(items, sr, where)
  channels = audio_dir.one_channel_count(items, channels, where)
  if payload == "flac" and channels > _FLAC_CHANNELS:
    raise ValueError(
      f"{where}: {channels} channels, and FLAC holds {_FLAC_CHANNELS} at most. Use --payload int16 "
      "(or float32), or --channels 1."
    )
  if licence:
    items = [
      Item(**{**vars(i), "extra": {**i.extra, "licence": _licence(i) or licence}}) for i in items
    ]
  kw = dict(sr=sr, channels=channels, payload=payload, segment_secs=segment_secs, min_secs=min_secs)
  folder, known = source if source.is_dir() else source.parent, [b["id"] for b in bad + short]
  planned = plan(items, folder, known=known, rules=rules, group=group, sr=sr, channels=channels,
                 payload=payload, shard_mb=shard_mb)  # fmt: skip
  stamp = lambda i: [i.id, i.sr, i.frames, i.channels, i.start, i.sha256, sorted(i.extra.items())]
  listing = json.dumps([[n, [stamp(i) for i in mine]] for n, mine in planned], default=str)
  arguments = dict(kw, rules=rules, group=group, shard_mb=shard_mb,
                   recordings=hashlib.sha256(listing.encode()).hexdigest())  # fmt: skip
  shards.claim(target, arguments)

  def count(note, item, found):
    note["secs"] += sum(n for _, n, _ in found) / sr
    note["clipped"] += sum(clipped for *_, clipped in found)
    stated = str(_licence(item) or "not stated")
    note["licences"][stated] = note["licences"].get(stated, 0) + 1

  notes, bad = shards.write(
    target, planned, total=total, bad=bad, left_out=short, max_bad_share=max_bad_share, jobs=jobs,
    make=lambda item: examples(item, **kw), count=count,
    blank=dict(secs=0.0, clipped=0, licences={}),
  )  # fmt: skip
  card = _card(source, arguments, notes, bad, short)
  manifests.replace(target / "card.json", json.dumps(card, indent=2, ensure_ascii=False) + "\n")
  return card


def _card(source, arguments, notes, bad, short):
  by_split = {}
  for note in notes:
    split = note["name"].rsplit("-", 3)[0]
    into = by_split.setdefault(split, Counter())
    for key in ("examples", "recordings", "secs", "bytes", "clipped"):
      into[key] += note[key]
  licences = sum((Counter(n["licences"]) for n in notes), Counter())
  return dict(
    source=str(source),
    splits={
      k: {**v, "secs": round(v["secs"], 3), "hours": round(v["secs"] / 3600, 4)}
      for k, v in by_split.items()
    },
    hours=round(sum(n["secs"] for n in notes) / 3600, 4),
    licences=dict(licences),
    failed=len(bad),
    left_out=len(short),
    pp=PAYLOADS[arguments["payload"]],
    **arguments,
    shards=[{k: n[k] for k in ("name", "examples", "bytes", "sha256")} for n in notes],
  )


def parser() -> argparse.ArgumentParser:
  """The command line."""
  p = argparse.ArgumentParser(
    prog="python -m big_audio.tools.prepare_audio", description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )  # fmt: skip
  p.add_argument("source", metavar="SOURCE", help="a folder, or a .jsonl or .csv with `path`")
  p.add_argument("target", metavar="TARGET", help="folder of the shards")
  p.add_argument(
    "--sr", type=shards.positive(int), help="resample to this rate, Hz; default: refuse mixed rates"
  )
  p.add_argument(
    "--channels", type=shards.positive(int), help="1: the mean; default: refuse mixed counts"
  )
  p.add_argument("--mono", dest="channels", action="store_const", const=1, help="--channels 1")
  p.add_argument("--payload", choices=tuple(PAYLOADS), default="flac", help="default %(default)s")
  p.add_argument(
    "--segment-secs", type=shards.positive(float), help="cut recordings into pieces of this length"
  )
  p.add_argument("--min-secs", type=float, default=0.0, help="leave out shorter ones, and rests")
  p.add_argument("--max-secs", type=shards.positive(float), help="leave out longer ones")
  p.add_argument(
    "--split", type=shards.rule, action="append", metavar="NAME=RULE",
    help="a fraction (by hash of the path) or a regex; repeat it (default .9, .05, .05)",
  )  # fmt: skip
  p.add_argument("--group", help="regex: what its group matches shares a split")
  p.add_argument("--licence", help="of recordings whose row states none")
  p.add_argument(
    "--shard-mb", type=shards.positive(float), default=256.0, help="default %(default)s"
  )
  p.add_argument(
    "--jobs", type=shards.positive(int), default=os.cpu_count() or 1, help="shards at a time"
  )
  p.add_argument("--max-bad-share", type=float, default=0.01, help="default %(default)s")
  return p


def main(argv=()) -> None:
  """The command line; what a user can mend ends it with one message."""
  flags = vars(parser().parse_args(list(argv)))
  given = flags.pop("split") or []
  rules = dict(given)
  if len(rules) < len(given):
    sys.exit("prepare_audio: --split names a split twice. Join its regexes with |.")
  try:
    card = prepare(flags.pop("source"), target := flags.pop("target"), rules=rules, **flags)
  except KeyboardInterrupt:
    sys.exit("prepare_audio: interrupted; the same command goes on from here.")
  except (ValueError, OSError) as e:
    sys.exit(f"prepare_audio: {e}")
  for split, n in card["splits"].items():
    print(f"{split}: {n['examples']} examples, {n['hours']:.3g} h, {n['bytes'] / 1e6:.3g} MB")
  clipped = sum(n["clipped"] for n in card["splits"].values())
  if clipped:
    print(f"{clipped} samples were beyond full scale and clipped; --payload float32 keeps them")
  if card["failed"] + card["left_out"]:
    print(f"{card['failed']} failed, {card['left_out']} left out: {target}/failed.jsonl")
  print(f'source="arrayrecord", files="{target}/{{split}}-*.arrayrecord", pp="{card["pp"]}"')


if __name__ == "__main__":
  main(sys.argv[1:])
