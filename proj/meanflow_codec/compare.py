"""Codecs side by side on the same recordings: ours at any number of evaluations, and others.

  python -m proj.meanflow_codec.compare /data/fsdd --workdir runs/speech --nfe 0 1 2 \\
    --pattern '_[5-9]\\.wav$' --join 4 --group '_([a-z]+)_' --limit 17 \\
    --peers codec2:3200 codec2:2400 codec2:1300 opus:6 opus:8 opus:12

Ours is encoded to the bytes of a file and decoded from them. Every output is aligned with its
original by cross-correlation and scored on the whole clip. Rows: each codec; the recordings
themselves ("identity", the ceiling) and silence ("zero"). Columns: payload and file kbps, PESQ and
STOI and ViSQOL where their packages are there ("unavailable" otherwise), mel distance, SI-SDR,
Frechet distance of log-mel frames, and real-time factors (time / duration) of encoding and
decoding.

`fd` compares a codec's outputs with the very recordings that they were made of. `fd_half` compares
its outputs of a random half of the recordings with the other half, as a mean over 4 splits that all
rows share: that of "identity", recordings against recordings, is the floor of this column.

Clips for which a measure has no score are left out of its mean; where that happens (silence aside),
a column `<measure>_failed` counts them, and stderr names them.
"""

import argparse
import csv
import json
import math
import statistics
import sys
import time
from typing import NamedTuple

import numpy as np
from absl import logging

from big_audio.datasets import splits
from big_audio.datasets.audio_dir import Source
from big_audio.dsp import distances, perceptual
from big_audio.evaluators import bootstrap, distributions
from big_audio.evaluators.frechet import log_mel_frames
from proj.meanflow_codec import bitstream, peers, streams
from proj.meanflow_codec.codec import header_of, open_codec

SILENCE_SECS = 0.1  # between joined recordings
HALVES = 4  # random splits that fd_half is a mean over
PAIRED = {
  "si_sdr": lambda a, b, sr: float(distances.si_sdr(a.astype(np.float64), b.astype(np.float64))),
  "mel": lambda a, b, sr: float(distances.mel_distance(a, b, sr)),
  "lsd": lambda a, b, sr: float(
    distances.log_spectral_distance(a, b, window=distances.window_for(sr, 0.046))
  ),
  "dac_mel": lambda a, b, sr: float(distances.dac_mel_distance(a, b, sr)),
  "dac_stft": lambda a, b, sr: float(distances.dac_stft_distance(a, b)),
}


def default_measures(sr: int) -> tuple[str, ...]:
  """Columns that suit a sampling rate, in Hz."""
  if sr <= 16000:
    return ("pesq_nb", "stoi", "visqol_speech", "mel", "lsd", "si_sdr")
  return ("visqol_audio", "dac_mel", "dac_stft", "mel", "si_sdr")


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
    ValueError: no recordings, another rate, a path in which `group` finds nothing, or a `group`
      that is no regex with a group.
  """
  named = splits.compile_regex(group, "--group") if group else None
  if named and not named.groups:
    raise ValueError(f"--group {group!r}: expected parentheses around what clips have in common.")
  source = Source(folder, "all", channels=channels, pattern=pattern)
  if source.sr != sr:
    raise ValueError(f"{folder} has {source.sr} Hz, the codec {sr} Hz.")
  found = [(e["id"], e["wav"].numpy()) for e in (source[i] for i in range(len(source)))]
  if not join_secs:
    return found
  groups: dict[str, list] = {}
  for name, wav in found:
    match = named.search(name) if named else None
    if named and not match:
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


class Table:
  """Collects codecs' outputs on the same recordings, and averages.

  Args:
    recordings: [(name, f32[T, C])].
    sr: Hz.
    measures: of `PAIRED` and `perceptual.MEASURES`.
    ci: also rows' 95 % bootstrap intervals over recordings.
  """

  def __init__(self, recordings, sr: int, measures=None, *, ci: bool = False):
    self._waves = [w for _, w in recordings]
    self._sr, self._ci = sr, ci
    self._measures = tuple(measures or default_measures(sr))
    known = {**PAIRED, **perceptual.MEASURES}
    for m in self._measures:
      if m not in known:
        raise ValueError(f"--measures {m}: expected some of {', '.join(known)}.")
    self.secs = sum(map(len, self._waves)) / sr
    self._frames = [log_mel_frames(w, sr) for w in self._waves]
    rng, n = np.random.default_rng(0), len(self._waves)
    self._halves = [np.array_split(rng.permutation(n), 2) for _ in range(HALVES if n > 1 else 0)]
    self.rows: list[dict] = []
    self.failed: list[str] = []

  def add(self, name: str, outputs, **columns) -> None:
    """Scores one codec.

    Args:
      name: of the row.
      outputs: f32[T, C] each, in the order of the recordings.
      **columns: further columns, shown first.
    """
    scores = perceptual.Scores([m for m in self._measures if m in perceptual.MEASURES], self._sr)
    values: dict[str, list] = {m: [] for m in self._measures if m in PAIRED}
    frames = []
    for wav, out in zip(self._waves, outputs, strict=True):
      scores.add(wav, out)
      for m, found in values.items():
        found.append(PAIRED[m](out, wav, self._sr))
      frames.append(log_mel_frames(out, self._sr))
    self.failed += [f"{name}, {m}, {text}" for m, texts in scores.failed.items() for text in texts]
    row = {"codec": name, **columns}
    for m in self._measures:
      found = values[m] if m in values else scores.values[m]
      if found is None:
        row[m] = perceptual.UNAVAILABLE
        continue
      for k, v in bootstrap.rows(m, found, ci=self._ci):
        row[k] = None if math.isnan(v) else v  # silence has no score of speech
      if m in scores.failed:
        row[f"{m}_failed"] = len(scores.failed[m])
    row["fd"] = distributions.frechet_distance(_flat(self._frames), _flat(frames))
    halves = [
      distributions.frechet_distance(
        _flat([self._frames[i] for i in a]), _flat([frames[i] for i in b])
      )
      for a, b in self._halves
    ]
    row["fd_half"] = float(np.mean(halves)) if halves else None
    self.rows.append(row)

  def results(self) -> list[dict]:
    """The rows, with columns of failures only for measures that failed beyond silence."""
    names = {f"{m}_failed" for m in self._measures}
    full = {k for r in self.rows if r["codec"] != "zero" for k in names if r.get(k)}
    return [{k: v for k, v in r.items() if k not in names - full} for r in self.rows]

  def add_rates(self, name: str, outputs, payload: int, file: int, encode: float, decode: float):
    """`add` with rates from bytes and real-time factors from seconds."""
    rates = self.rates(payload, file, encode, decode)
    self.add(name, outputs, **{k: rates.pop(k) for k in ("payload_kbps", "file_kbps")})
    self.rows[-1] |= rates

  def rates(self, payload: int, file: int, encode: float, decode: float) -> dict[str, float]:
    """Columns from bytes and seconds."""
    return {
      "payload_kbps": payload * 8e-3 / self.secs, "file_kbps": file * 8e-3 / self.secs,
      "rtf_enc": encode / self.secs, "rtf_dec": decode / self.secs,
    }  # fmt: skip

  def add_controls(self) -> None:
    """The recordings themselves and silence; the floor of fd_half stands in the first."""
    self.add("identity", self._waves)
    self.rows[-1]["fd"] = None  # a set and itself
    failed = list(self.failed)
    self.add("zero", [np.zeros_like(w) for w in self._waves])
    self.failed = failed  # silence has no score of speech, as everyone expects


def _flat(frames):
  return np.concatenate([np.asarray(f, np.float64).reshape(-1, f.shape[-1]) for f in frames])


def add_ours(table: Table, codec, recordings, nfes, *, name="ours", seed=0, codings=("packed",)):
  """Rows of one of our codecs: each number of evaluations, each way of coding the codes.

  A codec without a prior has packed rows only; stderr says so.
  """
  if "range" in codings and codec.coder is None:
    print(f"{name}: packed rows only: its run has no prior for --coding range.", file=sys.stderr)
    codings = ("packed",)
  codec.encode(recordings[0][1][: codec.hop])  # compiled before the clock runs
  clock = time.perf_counter
  begin = clock()
  codes = [codec.encode(wav) for _, wav in recordings]
  encode = clock() - begin
  files = {c: _through_files(codec, codes, recordings, seed, c) for c in codings}
  for nfe in nfes:
    codec.decode(codes[0][:1], 1, nfe=nfe)
    begin = clock()
    pairs = list(zip(files[codings[0]].codes, recordings, strict=True))
    waves = [codec.decode(c, len(wav), nfe=nfe, seed=seed) for c, (_, wav) in pairs]
    decode = clock() - begin
    label = f"{name}, {nfe} evaluation{'s' if nfe > 1 else ''}" if nfe else f"{name}, plain AE"
    outputs = [
      peers.align(streams.to_pcm(a) / np.float32(32768), b, codec.sr)  # 16 bits, as of the others
      for a, (_, b) in zip(waves, recordings, strict=True)
    ]
    for i, (coding, f) in enumerate(files.items()):
      title = label if coding == "packed" else f"{label}, {coding} coded"
      rates = (f.payload, f.file, encode + f.write_secs, decode + f.read_secs)
      if i == 0:
        table.add_rates(title, outputs, *rates)
      else:  # the same codes, so the same sound
        table.rows.append({**table.rows[-1], "codec": title, **table.rates(*rates)})


class _Files(NamedTuple):
  codes: list
  payload: int
  file: int
  write_secs: float
  read_secs: float


def _through_files(codec, codes, recordings, seed, coding) -> _Files:
  """What is left of codes that were written to files and read back."""
  payload = file = 0
  write = read = 0.0
  back = []
  for c, (_, wav) in zip(codes, recordings, strict=True):
    header = header_of(codec, len(wav), seed=seed, coding=coding)
    begin = time.perf_counter()
    data = bitstream.dumps(c, header, codec.coder)
    middle = time.perf_counter()
    back.append(bitstream.loads(data, codec.coder)[1])
    write, read = write + middle - begin, read + time.perf_counter() - middle
    payload, file = payload + bitstream.info(data)["payload_bytes"], file + len(data)
  return _Files(back, payload, file, write, read)


def add_peer(table: Table, spec: str, recordings, sr: int) -> None:
  """The row of another codec; raises ValueError where it cannot be run."""
  code = peers.make(spec)
  done = [code(wav, sr) for _, wav in recordings]
  total = lambda key: sum(getattr(d, key) for d in done)
  table.add_rates(
    spec, [d.wav for d in done], total("payload"), total("file"), total("encode_secs"),
    total("decode_secs"),
  )  # fmt: skip


def medians(rows: list[dict], names: list[str]) -> list[dict]:
  """A row for what several of our codecs have in common: the median of every number.

  Args:
    rows: of a table, those of one codec after those of another.
    names: the codecs', which rows begin with.

  Returns:
    Rows as many as a codec has. Medians of each column, over the codecs that have a number there,
    None where none has; no single codec need have all of them.
  """
  alike: dict[str, list[dict]] = {}
  for row in rows:
    name = next((n for n in names if row["codec"].startswith(f"{n}, ")), None)
    if name is not None:
      alike.setdefault(row["codec"].removeprefix(name), []).append(row)
  out = []
  for label, group in alike.items():
    row: dict = {"codec": f"median of {len(group)}{label}"}
    for k in dict.fromkeys(k for r in group for k in r if k != "codec"):
      values = [r[k] for r in group if r.get(k) is not None]
      numbers = [v for v in values if not isinstance(v, str)]
      row[k] = statistics.median(numbers) if numbers else values[0] if values else None
    out.append(row)
  return out


def text(rows: list[dict]) -> str:
  """Rows as a Markdown table."""
  columns = list(dict.fromkeys(k for r in rows for k in r))
  cell = lambda v: f"{v:.3f}" if isinstance(v, float) else "-" if v is None else str(v)
  lines = [columns, ["---"] * len(columns)]
  lines += [[cell(r.get(c, "-")) for c in columns] for r in rows]
  return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(argv=None) -> None:
  """The command line."""
  parser = argparse.ArgumentParser(
    prog="python -m proj.meanflow_codec.compare", description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )  # fmt: skip
  add = parser.add_argument
  add("folder", help="recordings")
  add("--workdir", nargs="*", default=[], help="trained codecs, each workdir or workdir:step")
  add("--nfe", type=int, nargs="+", default=[0, 1, 2], help="evaluations; 0: plain AE")
  add("--coding", nargs="+", choices=("packed", "range"), default=["packed"])
  add("--peers", nargs="*", default=[], help="codec2:3200 opus:6 mp3:32 encodec:DIR:6 dac:DIR")
  add("--sr", type=int, help="Hz of the recordings, where no workdir says it")
  add("--pattern", help="regex that must be found in a path")
  add("--join", type=float, default=0.0, help="join to clips of so many seconds")
  add("--group", help="regex; its first group must agree in joined recordings")
  add("--limit", type=int, help="only so many clips, evenly spread")
  add("--seed", type=int, default=0, help="of the decoder's noise")
  add("--measures", nargs="+", help="columns, in place of those that suit the rate")
  add("--ci", action="store_true", help="bootstrap intervals over clips")
  add("--median", action="store_true", help="also the median over workdirs, for several seeds")
  add("--json", help="also write the rows to this file")
  add("--csv", help="also write the rows to this file")
  flags = parser.parse_args(argv)
  logging.set_verbosity(logging.ERROR)
  try:
    _compare(flags)
  except (ValueError, OSError) as e:
    sys.exit(f"{type(e).__name__}: {e}")


def _open(workdirs) -> list:
  """[(workdir, its codec)]; one that is there twice would count twice in medians."""
  codecs: dict[bytes, tuple] = {}
  for workdir in workdirs:
    codec = open_codec(workdir)
    if (twin := codecs.get(codec.model_hash)) is not None:
      raise ValueError(
        f'--workdir: "{twin[0]}" and "{workdir}" hold the same model. Name each of them once.'
      )
    codecs[codec.model_hash] = (workdir, codec)
  return list(codecs.values())


def _compare(flags) -> None:
  if flags.limit is not None and flags.limit < 1:
    raise ValueError(f"--limit: expected 1 or more clips, got {flags.limit}.")
  if flags.median and len(flags.workdir) < 2:
    raise ValueError("--median needs two or more --workdir, such as the same run with three seeds.")
  codecs = _open(flags.workdir)
  rates = {(c.sr, c.channels) for _, c in codecs} or ({(flags.sr, 1)} if flags.sr else set())
  if len(rates) != 1:
    raise ValueError(f"expected workdirs of one rate, or --sr; got {sorted(rates) or 'neither'}.")
  sr, channels = rates.pop()
  found = clips(
    flags.folder, sr, channels, pattern=flags.pattern, join_secs=flags.join, group=flags.group
  )
  if not found:
    raise ValueError(f"No group of {flags.folder} has {flags.join} seconds; use a smaller --join.")
  if flags.limit and flags.limit < len(found):
    found = [found[i] for i in np.linspace(0, len(found) - 1, flags.limit).astype(int)]
  table = Table(found, sr, flags.measures, ci=flags.ci)
  for workdir, codec in codecs:
    nfes = flags.nfe if codec.has_refiner else [0]
    name = workdir if len(codecs) > 1 else "ours"
    add_ours(table, codec, found, nfes, name=name, seed=flags.seed, codings=flags.coding)
  if flags.median:
    table.rows += medians(table.rows, flags.workdir)
  for spec in flags.peers:
    add_peer(table, spec, found, sr)
  table.add_controls()
  print(f"{len(found)} clips, {sum(len(w) for _, w in found) / sr:.1f} s at {sr} Hz")
  rows = table.results()
  print(text(rows))
  for line in table.failed:
    print(f"no score: {line}", file=sys.stderr)
  if flags.json:
    with open(flags.json, "w") as f:
      json.dump(rows, f, indent=1)
  if flags.csv:
    with open(flags.csv, "w", newline="") as f:
      columns = list(dict.fromkeys(k for r in rows for k in r))
      writer = csv.DictWriter(f, columns)
      writer.writeheader()
      writer.writerows(rows)


if __name__ == "__main__":
  main()
