r"""Embeddings of a folder of recordings, by a trained run or by public weights.

  python -m big_audio.tools.embed runs/music:best MUSIC tracks.npz --csv tracks.csv --label folder
  python -m big_audio.tools.embed ast.safetensors MUSIC tracks.npz --secs 10.24 --most 3

Recordings are cut into chunks as the run's evaluation cuts them, embedded in batches, and the
chunks of a track averaged and scaled to length 1. The file is what `similar`, `playlist` and
`proj.ast_triplet.browse` read; see tools/embeddings.py.

What cannot be read is listed in OUT.failed.jsonl and told; the exit status is then 1, and 2 where
nothing could be done. Weights of the family "ast" (a .safetensors file, or a folder with one) give
features of the public front end, or embeddings where the file has a projector.
"""

import argparse
import csv
import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from big_audio import clock, convert, inference
from big_audio import config as C
from big_audio.datasets import chunks, tracks
from big_audio.datasets.errors import DecodeError
from big_audio.evaluators import ranking
from big_audio.input_pipeline import collate
from big_audio.models import ast, projector
from big_audio.pp import builder, ops_fbank
from big_audio.tools import embeddings, manifests

OUTPUTS = ("embedding", "features")


class Embedder(NamedTuple):
  """How recordings become vectors.

  Attributes:
    predict: batch -> {"features": f32[B,D], perhaps "embedding": f32[B,E]}.
    pp: preprocessing of a chunk.
    sr: Hz.
    chunk: settings of `datasets.chunks`, or None where the caller has to give some.
    secs: of the longest chunk that the model sees whole.
    source: what it is, for the file.
  """

  predict: Callable[[Mapping], Mapping]
  pp: str
  sr: int
  chunk: Mapping[str, Any] | None
  secs: float
  source: str


def front_end(config: ConfigDict, where: str) -> tuple[str, int, dict | None]:
  """(preprocessing from sound on, its sampling rate in Hz, how recordings are cut) of a run.

  Raises:
    ValueError: no evaluator "retrieval", which says so.
  """
  found = [e for e in config.evals.values() if e.type == "retrieval"]
  if not found:
    raise ValueError(
      f"{where}: its config has no evaluator of the type retrieval, which tells how recordings are "
      "cut and preprocessed."
    )
  data = C.to_dict(found[0].data)
  pp, sr, chunk = found[0].get("pp", None) or data["pp"], data.get("sr"), data.get("chunk")
  if data["source"] == "features":
    with open(os.path.join(os.path.expanduser(data["dir"]), "card.json")) as f:
      made = json.load(f)["settings"]
    pp, sr, chunk = f"fbank(n_mels={made['n_mels']})|{pp}", ops_fbank.SR, made["chunk"]
  return pp, sr, chunk


def of_run(spec: str) -> Embedder:
  """The embedder of a run whose config has an evaluator "retrieval".

  Raises:
    ValueError: no such run, or no such evaluator.
  """
  runner = inference.open_workdir(spec)
  pp, sr, chunk = front_end(runner.config, spec)
  predict = lambda batch: runner.predict("embed", batch)
  source = f"{runner.workdir}:{runner.step}"
  return Embedder(predict, pp, sr, chunk, _secs(runner.config.models.net.frames), source)


def _secs(frames: int) -> float:
  """The longest sound of which no frame lies behind the last."""
  return (ops_fbank.WIN + frames * ops_fbank.HOP - 1) / ops_fbank.SR


def of_weights(path: str) -> Embedder:
  """The embedder of public weights of the family "ast", with their front end.

  Raises:
    ValueError: not such weights.
  """
  loaded = convert.load(path, "ast")
  said = loaded.metadata  # of our own export
  net, head = ast.Model(**loaded.config, pool=said.get("pool", "tokens")), None
  if "head" in loaded.params:
    widths = [loaded.params["head"][k]["bias"].shape[0] for k in ("dense0", "dense1")]
    head = projector.Model(widths=widths, activation=said.get("activation", "relu"))

  @jax.jit
  def predict(params, x):
    features = net.apply({"params": params["net"]}, x)
    out = {"features": features}
    if head is not None:
      out["embedding"] = head.apply({"params": params["head"]}, features)
    return out

  frames = net.frames
  samples = frames * ops_fbank.HOP
  public = (
    f"crop(samples={samples}, mode='start', short='keep')|fbank({frames}, n_mels={net.bins})|"
    "ast_normalise|keep('fbank', 'track', 'id')"
  )
  pp = said.get("pp", public)
  if any("." in step.partition("(")[0] for step in pp.split("|")):
    # A name with a dot imports a module, which a file must not do.
    raise ValueError(f"{path}: its preprocessing {pp!r} names operations of other modules.")
  chunk = dict(secs=samples / ops_fbank.SR, strategy="spaced", most=3, short="pad", min_secs=0.1)
  if "chunk" in said:
    try:
      chunk = dataclasses.asdict(chunks.Chunks.of(json.loads(said["chunk"]), path))
    except (TypeError, json.JSONDecodeError):
      raise ValueError(f"{path}: chunk: expected settings, got {said['chunk']!r:.200}.") from None
  run = lambda batch: predict(loaded.params, batch["fbank"])
  return Embedder(run, pp, ops_fbank.SR, chunk, _secs(frames), str(path))


def open_embedder(spec: str) -> Embedder:
  """`of_weights` of a .safetensors file or a folder that holds one, else `of_run`."""
  folder = os.path.isdir(spec) and not os.path.isfile(os.path.join(spec, "config.json"))
  weights = spec.endswith(".safetensors") or any(
    os.path.isfile(os.path.join(spec, n))
    for n in ("model.safetensors", "model.safetensors.index.json")
  )
  if folder and not weights:
    raise ValueError(f"{spec!r} holds neither a run (config.json) nor weights (model.safetensors).")
  return of_weights(spec) if weights else of_run(spec)


def read(source, pp: str, threads: int) -> Iterator[tuple[int, dict | str]]:
  """(item, example, or why there is none) of every item of a source, in order."""
  run = builder.build(pp)

  def one(i):
    try:
      return i, run(source[i], np.random.default_rng(i))
    except (DecodeError, ValueError) as e:  # what this file is the reason of
      return i, str(e)

  with ThreadPoolExecutor(threads) as pool:
    items = iter(range(len(source)))
    waiting = [pool.submit(one, i) for i in islice(items, 4 * threads)]
    while waiting:
      yield waiting.pop(0).result()
      waiting += [pool.submit(one, i) for i in islice(items, 1)]


def embed(
  embedder: Embedder,
  source,
  *,
  output: str | None = None,
  batch_size: int = 16,
  threads: int = 2,
  tell: Callable[[int], None] | None = None,
) -> tuple[embeddings.Table | None, list[dict]]:
  """The embeddings of the tracks of a source.

  Args:
    embedder: see there.
    source: `datasets.tracks.Source`, with all items of every track.
    output: "embedding", unit vectors of the head, or "features" of the trunk; None: the former
      where the model has a head.
    batch_size: chunks at a time; the last batch is filled up, so one program serves all.
    threads: readers.
    tell: called with the number of chunks done.

  Returns:
    (the table, None where no track could be embedded; failures as dicts of path and reason). A
    track of which a chunk fails is left out whole: a mean over the others would be another one.
  """
  rows, lost, pending = [], {}, []

  def flush():
    nonlocal output
    full = pending + pending[-1:] * (batch_size - len(pending))
    out = embedder.predict(inference.numeric(collate([e for _, e in full])))
    output = output or next(name for name in OUTPUTS if name in out)
    x = np.asarray(jax.device_get(C.pick("embed: output", out, output)), np.float32)
    rows.extend((i, v) for (i, _), v in zip(pending, x, strict=False))
    pending.clear()

  for n, (i, example) in enumerate(read(source, embedder.pp, threads), 1):
    if isinstance(example, str):
      lost.setdefault(source.columns["track"][i], (i, example))
    else:
      pending.append((i, example))
    if len(pending) == batch_size:
      flush()
    if tell:
      tell(n)
  if pending:
    flush()
  for i, x in rows:
    if not (np.isfinite(x).all() and x.any()):
      lost.setdefault(source.columns["track"][i], (i, "its embedding is zero or not finite"))
  failures = [dict(path=str(source.path(i)), reason=why) for i, why in lost.values()]
  rows = [(i, x) for i, x in rows if source.columns["track"][i] not in lost]
  if not rows:
    return None, failures
  at = np.array([i for i, _ in rows])
  column = lambda name: source.columns[name][at]
  x = np.stack([x for _, x in rows])
  items = ranking.Embedded(x, column("label"), column("track"), column("artist"))
  items, first = ranking.by_track(items)
  ids = [os.path.relpath(source.path(at[f]), source.dir).replace(os.sep, "/") for f in first]
  labels = artists = None
  if source.classes:
    labels = [source.classes[c] if c >= 0 else "" for c in items.label]
  if len(set(column("artist"))) < len(ids):  # known: some share one
    artists = [source.artists[a] for a in items.artist]
  meta = dict(source=embedder.source, output=output, chunk=dict(embedder.chunk or {}))
  return embeddings.Table(np.float32(items.x), ids, labels, artists, meta), failures


def write_csv(path, table: embeddings.Table) -> None:
  """One line a track: id, label, artist and the numbers."""
  temporary = f"{path}.{os.getpid()}.tmp"
  with open(temporary, "w", newline="", encoding="utf-8") as f:
    out = csv.writer(f, lineterminator="\n")
    out.writerow(["id", "label", "artist", *(f"e{i}" for i in range(table.x.shape[1]))])
    blank = [""] * len(table.ids)
    for *names, x in zip(
      table.ids, table.labels or blank, table.artists or blank, table.x, strict=True
    ):
      out.writerow([*names, *(f"{v:.7g}" for v in x)])
  os.replace(temporary, path)


def parser() -> argparse.ArgumentParser:
  """The command line."""
  p = argparse.ArgumentParser(
    prog="python -m big_audio.tools.embed", description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )  # fmt: skip
  p.add_argument("model", metavar="MODEL", help="WORKDIR[:STEP|:best] or weights of AST")
  p.add_argument("dir", metavar="FOLDER", help="of recordings, searched recursively")
  p.add_argument("out", metavar="OUT.npz")
  p.add_argument("--csv", metavar="FILE", help="the same as text")
  p.add_argument("--label", default="", help='regular expression with one group, or "folder"')
  p.add_argument("--artist", help="regular expression with one group")
  p.add_argument("--output", choices=OUTPUTS, help="default: embedding where the model has one")
  p.add_argument("--secs", type=float, help="of a chunk; default as the model's evaluation")
  p.add_argument("--most", type=int, help="chunks of a track, spaced equally")
  p.add_argument("--batch-size", type=int, default=16)
  p.add_argument("--threads", type=int, default=2)
  return p


def main(argv=None) -> int:
  """The command line; returns the exit status."""
  flags = parser().parse_args(argv)
  failed_path = pathlib.Path(f"{flags.out}.failed.jsonl")
  try:
    if flags.batch_size < 1 or flags.threads < 1:
      raise ValueError("--batch-size and --threads: expected 1 or more.")
    embedder = open_embedder(flags.model)
    changes = {k: v for k, v in dict(secs=flags.secs, most=flags.most).items() if v is not None}
    if embedder.chunk is None and flags.secs is None:
      raise ValueError(
        f"--secs is needed: the evaluation of {flags.model} does not say how to cut recordings."
      )
    chunk = {**(embedder.chunk or dict(strategy="spaced", short="pad")), **changes}
    if chunk["secs"] > embedder.secs:
      raise ValueError(
        f"--secs {chunk['secs']:g}: the model sees {embedder.secs:.4g} s at most; the rest of a "
        "chunk would be lost. Use shorter chunks, and more of them by --most."
      )
    embedder = embedder._replace(chunk=chunk)
    label = None if flags.label == "folder" else flags.label
    source = tracks.Source(
      flags.dir, split="all", sr=embedder.sr, label=label, artist=flags.artist, chunk=chunk
    )
    shown = clock.Progress(len(source))
    try:
      table, failures = embed(
        embedder, source, output=flags.output, batch_size=flags.batch_size, threads=flags.threads,
        tell=shown.update,
      )  # fmt: skip
    finally:
      shown.close()
    failures += [dict(path=p, reason=why) for p, why in source.excluded.items()]
    if failures:
      manifests.replace(failed_path, "".join(f"{json.dumps(f)}\n" for f in failures))
    else:
      failed_path.unlink(missing_ok=True)
    if table is None:
      raise ValueError(f"none of {len(source)} chunks could be embedded, see {failed_path}.")
    embeddings.save(flags.out, table)
    if flags.csv:
      write_csv(flags.csv, table)
  except (ValueError, OSError) as e:
    print(f"embed: {e}", file=sys.stderr)
    return 2
  kind = table.meta["output"]
  print(f"{flags.out}: {len(table.ids)} tracks, {table.x.shape[1]} numbers each ({kind})")
  if failures:
    print(f"embed: {len(failures)} recordings failed, see {failed_path}", file=sys.stderr)
  return 1 if failures else 0


if __name__ == "__main__":
  sys.exit(main())
