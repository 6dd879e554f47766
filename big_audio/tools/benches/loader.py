"""Crops per second of `audio_dir` through the input pipeline, beside plain soundfile.

    python -m big_audio.tools.bench loader
    python -m big_audio.tools.benches.loader

The plain loop opens, seeks and reads crops of the same files and length as the pipeline, one by one
in one thread, and keeps nothing. Settings take turns within a round, so that a busy machine slows
all of them; the medians over rounds are told. CPU time per crop, which other programs disturb less,
is told for the plain loop and for the pipeline without threads.

Recordings: generated 10 s stereo 44.1 kHz wavs with crops of 1 s, and the folder `fsdd` of
`BIG_AUDIO_DATA` with crops of 0.1 s where that is set.
"""

import contextlib
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
from ml_collections import ConfigDict

from big_audio import input_pipeline
from big_audio.datasets import audio_dir
from big_audio.tools import timing

SETTINGS = {
  "0 threads": (0, 0),
  "1 thread": (1, 0),
  "2 threads": (2, 0),
  "1 worker": (0, 1),
  "2 workers": (0, 2),
}
_BATCH = 16


def run(rounds: int = 5, *, crops: int = 1600) -> list[dict]:
  """Measures all settings.

  Args:
    rounds: how often each setting has its turn.
    crops: in each turn.

  Returns:
    rows of group, name, value and unit: crops/s, and each setting's share of the plain rate in
    percent.
  """
  rows = []
  with tempfile.TemporaryDirectory() as folder:
    write_recordings(Path(folder), 40)
    rows += _measure("wav 10 s stereo", folder, 1.0, rounds, crops)
  shared = os.environ.get("BIG_AUDIO_DATA")
  if shared and (Path(shared) / "fsdd").is_dir():
    rows += _measure("fsdd", str(Path(shared) / "fsdd"), 0.1, rounds, crops)
  return rows


def write_recordings(folder: Path, count: int, secs: float = 10.0, sr: int = 44100) -> None:
  """Writes `count` stereo 16-bit wavs of noise."""
  rng = np.random.default_rng(0)
  for i in range(count):
    wav = rng.uniform(-0.5, 0.5, (round(secs * sr), 2)).astype(np.float32)
    soundfile.write(folder / f"{i}.wav", wav, sr)


def _measure(name, folder, secs, rounds, crops):
  spec = dict(
    source="audio_dir", dir=folder, split="all", min_secs=secs, pp=f"crop(secs={secs})|keep('wav')"
  )
  source = audio_dir.Source(folder, "all", min_secs=secs)
  n, rng = round(secs * source.sr), np.random.default_rng(0)
  spans = []
  for i in rng.integers(len(source), size=crops):
    file = source[int(i)]["wav"]
    spans.append((str(file.path), int(rng.integers(file.shape[0] - n + 1))))
  rates = {s: [] for s in ("plain", *SETTINGS)}
  cpu = []  # (plain, pipeline) seconds of the process for the same number of crops
  with contextlib.ExitStack() as stack:
    pipelines = {}
    for s, (threads, workers) in SETTINGS.items():
      cfg = ConfigDict(
        dict(batch_size=_BATCH, data={"x": spec}, num_threads=threads, num_workers=workers)
      )
      pipelines[s] = stack.enter_context(input_pipeline.train_batches(cfg, seed=0))
    for _ in range(rounds + 1):
      busy = time.process_time()
      rates["plain"].append(crops / _seconds(lambda: _plain(spans, n)))
      busy = time.process_time() - busy
      for s, it in pipelines.items():
        # What was made ahead while others had their turn is not counted.
        for _ in range(sum(SETTINGS[s]) * 3 + 1):
          next(it)
        count = crops // _BATCH
        alone = time.process_time()
        seconds = _seconds(lambda it=it, count=count: _drain(it, count))
        if s == "0 threads":
          cpu.append((busy, (time.process_time() - alone) * crops / (count * _BATCH)))
        rates[s].append(count * _BATCH / seconds)
  # The first round warms the page cache and starts the workers.
  medians = {s: statistics.median(r[1:]) for s, r in rates.items()}
  row = lambda what, value, unit: dict(group=f"loader, {name}", name=what, value=value, unit=unit)
  rows = [row(s, round(v), "crops/s") for s, v in medians.items()]
  for s in SETTINGS:
    share = statistics.median(a / b for a, b in zip(rates[s][1:], rates["plain"][1:], strict=True))
    rows.append(row(f"{s} of plain", round(100 * share), "%"))
  share = statistics.median(a / b for a, b in cpu[1:])
  rows.append(row("CPU time, plain of 0 threads", round(100 * share), "%"))
  for s, i in (("plain", 0), ("0 threads", 1)):
    per_crop = statistics.median(c[i] for c in cpu[1:]) / crops * 1e6
    rows.append(row(f"CPU time, {s}", round(per_crop), "us/crop"))
  return rows


def _plain(spans, n):
  for path, start in spans:
    with soundfile.SoundFile(path) as f:
      f.seek(start)
      f.read(n, dtype="float32", always_2d=True)


def _drain(it, count):
  for _ in range(count):
    next(it)  # kept by nobody: memory that grows would be measured too


def _seconds(fn) -> float:
  start = time.perf_counter()
  fn()
  return time.perf_counter() - start


if __name__ == "__main__":
  print(timing.table(run(5)))
