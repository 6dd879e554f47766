r"""Recordings with classes -> log-mels for AST in ArrayRecord shards, for the source `features`.

  python -m big_audio.tools.prepare_features data/WAV data/fbank --chunk-strategy spaced
  python -m big_audio.tools.prepare_features data/fsdd data/fsdd_fbank --label '^(\d)_' \
    --artist '^\d_([a-z]+)_' --secs 1 --most 1 --frames 128 --min-secs 0.1

The source is a folder `genre/subgenre/title.wav`, or a list (.csv with path, label, and optionally
artist, track, split, fold). Splits are by track. The target then holds

  <split>-00000-of-00004.arrayrecord   one chunk a record: fbank [F,M], id, label, track, artist
  manifest.jsonl  a line a chunk: track, sha256 of its recording, starts, split, label, shard, row
  card.json       settings, classes, counts, statistics, the sha256 of every shard
  failed.jsonl    what could not be used or was left out, and why

Features are stored as they are; they are normalised when they are read, once, by the `pp` that is
printed at the end: with the statistics of AudioSet, or with those of this data (of the training
tracks alone, without padding; both are in the card). A shard appears when it is complete: the same
command goes on where an earlier one ended.
"""

import argparse
import hashlib
import json
import os
import pathlib
import sys
from dataclasses import dataclass

import numpy as np

from big_audio import config as C
from big_audio.datasets import chunks, stratified, tracks
from big_audio.datasets.errors import DecodeError
from big_audio.datasets.tracks import Source
from big_audio.dsp import fbank as F
from big_audio.pp import builder, ops_fbank
from big_audio.tools import manifests, shards
from big_audio.trainers.stats import Moments

DTYPES = ("float16", "float32")
STATISTICS = ("audioset", "dataset")


@dataclass(frozen=True)
class _Recording:
  """A file and its items in the source."""

  id: str
  split: str
  items: tuple[int, ...]


class _Maker:
  """Makes the records of a recording, and counts them into the note of their shard."""

  def __init__(self, source, frames, n_mels, dtype, single_chunk):
    self.source, self.frames, self.dtype, self.single_chunk = source, frames, dtype, single_chunk
    self.pp = builder.build(f"fbank({frames}, n_mels={n_mels}, cut=True)")

  def make(self, item: _Recording) -> list[tuple[dict, dict, Moments]]:
    """[(record, line of the manifest, moments of its frames)].

    Raises:
      DecodeError: the recording cannot be read.
    """
    try:
      digest = manifests.sha256(self.source.path(item.items[0]))
    except OSError as e:
      raise DecodeError(str(e)) from e
    mels, valid = zip(*(self._features(i) for i in item.items), strict=True)
    starts = [round(float(self.source.starts_secs[i]), 6) for i in item.items]
    numbers = {k: int(v[item.items[0]]) for k, v in self.source.columns.items()}
    if self.single_chunk:
      mels, valid, ids = [np.mean(mels, 0)], [min(valid)], [item.id]
      starts = [starts]
    else:
      ids, starts = [self.source.id(i) for i in item.items], [[s] for s in starts]
    label = self.source.classes[numbers["label"]] if numbers["label"] >= 0 else None
    names = dict(
      track_name=self.source.tracks[numbers["track"]], class_name=label,
      artist_name=self.source.artists[numbers["artist"]],
    )  # fmt: skip
    out = []
    for mel, n, name, start in zip(mels, valid, ids, starts, strict=True):
      record = {"fbank": mel.astype(self.dtype), "id": name, **numbers}
      line = dict(id=name, split=item.split, **numbers, **names, start_secs=start, frames=n,
                  sha256=digest)  # fmt: skip
      out.append((record, line, Moments().add(mel[:n].reshape(-1, 1))))
    return out

  def _features(self, i):
    """(f32[F,M], how many of its frames are no padding)."""
    example = self.source[i]
    samples = example["wav"].shape[0]
    mel = self.pp(example, np.random.default_rng(0))["fbank"]
    return mel, min(self.frames, 1 + (samples - ops_fbank.WIN) // ops_fbank.HOP)

  def count(self, note: dict, item: _Recording, found: list) -> None:
    """Adds a recording to the note of its shard."""
    seen = Moments(*note["moments"])
    for row, (_, line, moments) in enumerate(found, note["examples"]):
      note["lines"].append({**line, "shard": note["name"], "row": row})
      if item.split == "train":
        seen.merge(moments)
    note["moments"] = _numbers(seen)


def _numbers(m: Moments) -> list:
  """[n, mean, m2] for JSON, which keeps float64 as it is."""
  return [m.n, float(m.mean.sum()), float(m.m2.sum())]  # of one dimension, or none yet


def prepare(
  source, target, *, chunk=None, frames=1024, n_mels=128, dtype="float16", statistics="audioset",
  single_chunk=False, label=None, artist=None, trash=None, splits=None, split_seed=0,
  shard_mb=256.0, jobs=2, max_bad_share=0.01,
) -> dict:  # fmt: skip
  """Writes the features of a folder or list; returns the card.

  Args:
    source: a folder or a .csv; target: a folder, made if missing.
    chunk: settings of `datasets.chunks.Chunks`.
    frames: F of an example; rows of zeros are appended, what is beyond is cut.
    n_mels: M.
    dtype: float16 (errors below 0.004) or float32.
    statistics: which of both the printed `pp` normalises with.
    single_chunk: an example a recording, the mean of its chunks' features, frame by frame.
    label, artist, trash, splits, split_seed: as in `datasets.tracks`.
    shard_mb: about the size of a shard (MB).
    jobs: shards at a time.
    max_bad_share: share of the recordings that may fail.

  Raises:
    ValueError: a source that cannot be used, a target of other arguments, or too many failures.
  """
  source, target = pathlib.Path(source).expanduser(), pathlib.Path(target).expanduser()
  if not source.exists():
    raise ValueError(f"{source}: no such folder or list.")
  C.pick("prepare_features: dtype", dict.fromkeys(DTYPES), dtype)
  C.pick("prepare_features: statistics", dict.fromkeys(STATISTICS), statistics)
  cut = chunks.Chunks.of(chunk or {}, "prepare_features")
  least = ops_fbank.WIN / ops_fbank.SR
  if min(cut.secs, cut.min_secs) < least:
    raise ValueError(f"prepare_features: secs and min_secs must be {least} or more: one frame.")
  if (most := frames * ops_fbank.HOP / ops_fbank.SR) < cut.secs - 0.015:
    raise ValueError(
      f"prepare_features: chunks of {cut.secs:g} s do not fit into {frames} frames: their ends "
      f"would be lost. Use --secs {most:g} or --frames {round(cut.secs * 100)}."
    )
  place = {"dir": str(source)} if source.is_dir() else {"list": str(source)}
  if splits is None:
    Source(split="train", sr=ops_fbank.SR, label=label, artist=artist, trash=trash, **place)
    splits = dict(stratified.SHARES)
  made = Source(
    split="all", chunk=vars(cut), sr=ops_fbank.SR, label=label, artist=artist, trash=trash,
    splits=splits, split_seed=split_seed, **place,
  )  # fmt: skip
  listed = lambda d: [dict(id=p, reason=why) for p, why in sorted(d.items())]
  bad = listed({p: why for p, why in made.excluded.items() if p not in made.too_short})
  left_out = listed(made.too_short)
  recordings = _recordings(made)
  training = [i for r in recordings if r.split == "train" for i in r.items]
  if training:
    columns = {k: v[training] for k, v in made.columns.items()}
    tracks.check_classes(columns, made.classes, f"prepare_features({source})")
  planned = []
  for split in sorted({r.split for r in recordings}):
    mine = [r for r in recordings if r.split == split]
    size = [
      (1 if single_chunk else len(r.items)) * frames * n_mels * np.dtype(dtype).itemsize
      for r in mine
    ]
    planned += shards.pieces(split, mine, size, shard_mb)
  stamp = [[n, [[r.id, *(made.id(i) for i in r.items)] for r in mine]] for n, mine in planned]
  arguments = dict(
    chunk=vars(cut), frames=frames, n_mels=n_mels, dtype=dtype, single_chunk=single_chunk,
    label=label, artist=artist, trash=trash, splits=splits, split_seed=split_seed,
    shard_mb=shard_mb, recordings=hashlib.sha256(json.dumps(stamp).encode()).hexdigest(),
  )  # fmt: skip
  shards.claim(target, arguments)
  maker = _Maker(made, frames, n_mels, dtype, single_chunk)
  notes, bad = shards.write(
    target, planned, total=len(recordings) + len(bad), bad=bad, left_out=left_out,
    max_bad_share=max_bad_share, jobs=jobs, make=maker.make, count=maker.count,
    blank=dict(lines=[], moments=_numbers(Moments())),
  )  # fmt: skip
  manifests.write(target / "manifest.jsonl", [line for note in notes for line in note["lines"]])
  card = _card(source, arguments, notes, made, statistics, bad, left_out)
  manifests.replace(target / "card.json", json.dumps(card, indent=2, ensure_ascii=False) + "\n")
  return card


def _recordings(source):
  """Items of each file; files in no split are left out."""
  split_of = {t: s for s, names in source.split_record().items() for t in names}
  by_file: dict[str, list[int]] = {}
  for i in range(len(source)):
    by_file.setdefault(source.stem(i), []).append(i)
  track = lambda i: source.tracks[source.columns["track"][i]]
  out = [_Recording(f, split_of.get(track(i[0]), ""), tuple(i)) for f, i in by_file.items()]
  return [r for r in out if r.split]


def _card(source, arguments, notes, made, statistics, bad, left_out):
  splits: dict[str, dict[str, int]] = {}
  seen = Moments()
  for note in notes:
    into = splits.setdefault(note["name"].rsplit("-", 3)[0], {})
    for key in ("examples", "recordings", "bytes"):
      into[key] = into.get(key, 0) + note[key]
    seen.merge(Moments(*note["moments"]))
  known = {"audioset": dict(mean=F.AUDIOSET_MEAN, std=F.AUDIOSET_STD)}
  pp = "ast_normalise"
  if seen.n:
    known["dataset"] = dict(mean=float(seen.mean), std=float(seen.std), values=seen.n)
  if statistics == "dataset":
    if "dataset" not in known:
      raise ValueError("prepare_features: there is no training split to take statistics of.")
    pp = f"ast_normalise({known['dataset']['mean']!r}, {known['dataset']['std']!r})"
  return dict(
    source=str(source), classes=made.classes, splits=splits, statistics=known, pp=pp,
    failed=len(bad), left_out=len(left_out), settings=arguments,
    shards=[{k: n[k] for k in ("name", "examples", "bytes", "sha256")} for n in notes],
  )  # fmt: skip


def parser() -> argparse.ArgumentParser:
  """The command line."""
  p = argparse.ArgumentParser(
    prog="python -m big_audio.tools.prepare_features", description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )  # fmt: skip
  default = chunks.Chunks()
  add, positive = p.add_argument, shards.positive
  add("source", metavar="SOURCE", help="a folder, or a .csv with `path` and `label`")
  add("target", metavar="TARGET", help="folder of the shards")
  add("--chunk-strategy", dest="strategy", choices=chunks.STRATEGIES, default=default.strategy,
      help="where chunks begin; default %(default)s")  # fmt: skip
  add("--secs", type=positive(float), default=default.secs, help="of a chunk; default %(default)s")
  add("--most", type=positive(int), default=default.most,
      help="chunks of a recording at most; default %(default)s")  # fmt: skip
  add("--overlap", type=float, default=0.0, help="of sequential chunks, in [0,1)")
  add("--edge-secs", type=float, default=0.0, help="left out at both ends of a recording")
  add("--seed", type=int, default=0, help="of random chunks")
  add("--short", choices=chunks.SHORT, default=default.short,
      help="recordings below --secs; default %(default)s")  # fmt: skip
  add("--min-secs", type=positive(float), default=default.min_secs,
      help="leave out shorter ones; default %(default)s")  # fmt: skip
  add("--single-chunk", action="store_true", help="one example a recording: the mean of its chunks")
  add("--frames", type=positive(int), default=1024, help="of an example; default %(default)s")
  add("--n-mels", type=positive(int), default=128, help="default %(default)s")
  add("--dtype", choices=DTYPES, default="float16", help="default %(default)s")
  add("--statistics", choices=STATISTICS, default="audioset",
      help="by which the printed pp normalises; default %(default)s")  # fmt: skip
  add("--label", help="regex: its group in the path is the class; default the folder")
  add("--artist", help="regex: its group in the path is the artist, who stays in one split")
  add("--trash", help="a folder or label that is no class")
  kinds = p.add_mutually_exclusive_group()
  kinds.add_argument(
    "--split", type=shards.rule, action="append", metavar="NAME=RULE",
    help="a share of each class or a regex; repeat it (default .7, .15, .15)",
  )  # fmt: skip
  kinds.add_argument(
    "--splits", metavar="FILE", help='a stored split "x.json", or the column "split"'
  )
  kinds.add_argument("--folds", type=positive(int), help="number of folds; with --fold")
  add("--fold", type=int, help="which fold is the test; without --folds the list's column says it")
  add("--split-seed", type=int, default=0, help="of shares and folds")
  add("--shard-mb", type=positive(float), default=256.0, help="default %(default)s")
  add("--jobs", type=positive(int), default=os.cpu_count() or 1, help="shards at a time")
  add("--max-bad-share", type=float, default=0.01, help="default %(default)s")
  return p


def _splits(given, stored, folds, fold):
  if folds is not None and fold is None:
    sys.exit("prepare_features: --folds needs --fold, the one that is the test.")
  if fold is not None:
    if given or stored:
      sys.exit("prepare_features: --fold and --split or --splits exclude each other.")
    return dict(fold=fold) if folds is None else dict(fold=fold, folds=folds)
  if given and len(dict(given)) < len(given):
    sys.exit("prepare_features: --split names a split twice.")
  return dict(given) if given else stored


def main(argv=()) -> None:
  """The command line; what a user can mend ends it with one message."""
  flags = vars(parser().parse_args(list(argv)))
  splits = _splits(*(flags.pop(k) for k in ("split", "splits", "folds", "fold")))
  settings = ("secs", "strategy", "most", "overlap", "edge_secs", "seed", "short", "min_secs")
  chunk = {k: flags.pop(k) for k in settings}
  source, target = flags.pop("source"), flags.pop("target")
  try:
    card = prepare(source, target, chunk=chunk, splits=splits, **flags)
  except KeyboardInterrupt:
    sys.exit("prepare_features: interrupted; the same command goes on from here.")
  except (ValueError, OSError) as e:
    sys.exit(f"prepare_features: {e}")
  for split, n in card["splits"].items():
    print(
      f"{split}: {n['examples']} examples, {n['recordings']} recordings, {n['bytes'] / 1e6:.3g} MB"
    )
  for name, s in card["statistics"].items():
    print(f"{name}: mean {s['mean']:.4f}, std {s['std']:.4f}")
  if card["failed"] + card["left_out"]:
    print(f"{card['failed']} failed, {card['left_out']} left out: {target}/failed.jsonl")
  print(f'source="features", dir="{target}", pp="{card["pp"]}|keep(...)"')


if __name__ == "__main__":
  main(sys.argv[1:])
