r"""Parameters of the synthesiser behind a recording, by a trained network.

  python -m proj.vimh.estimate --workdir runs/vimh sounds/*.wav --out estimates.csv --render renders

Each recording becomes a picture just as those of the data set that the network was trained on; the
estimates are printed, written as CSV, and rendered by the synthesiser beside the recording. Only
what the picture shows is looked at: the first .32 s of a data set of 32 frames of 10 ms.

```python
from proj.vimh import estimate

values = estimate.open_estimator("runs/vimh")(wav)  # f32[B, T] -> {parameter: f32[B]}
```
"""

import argparse
import csv
import os
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from big_audio import inference
from big_audio.datasets import build as sources
from big_audio.datasets import synth_images, synth_render, vimh
from big_audio.datasets.vimh_meta import Metadata
from big_audio.dsp import voices
from big_audio.pp import builder
from proj.vimh import browse_run


def spectrogram(metadata: Metadata) -> synth_images.Spectrogram:
  """How the data set made pictures of its sounds.

  Raises:
    ValueError: its JSON file does not say.
  """
  try:
    raw, mel = metadata.raw["spectrogram_config"], metadata.raw["mel_config"]
    return synth_images.Spectrogram(
      type=raw["type"], n_fft=raw["n_fft"], n_window=raw["n_window"], hop=raw["hop_length"],
      window=raw["window_type"], freq_min=mel["freq_min"], freq_max_ratio=mel["freq_max_ratio"],
    )  # fmt: skip
  except (KeyError, TypeError) as e:
    raise ValueError(
      f"{metadata.where}: {e} is missing: how its pictures were made is not known."
    ) from None


def pictures(metadata: Metadata, wav: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """f[B,T] at metadata.sr Hz -> (u8[B,H,W,C], f32[B,2] scale), as the data set's own.

  Raises:
    ValueError: sounds shorter than the picture.
  """
  spec = spectrogram(metadata)
  wav = voices.pre_emphasis(
    np.asarray(wav, np.float32), np.float32(metadata.raw.get("pre_emphasis_coefficient", 0))
  )
  db = synth_images.decibels(
    wav.astype(np.float64), spec, metadata.height, metadata.width, metadata.sr
  )
  images, scale = synth_images.to_bytes(db)
  labels = metadata.raw.get("channel_labels", [])
  planes = {k: f"Gray_{k}_envelope" in labels for k in ("temporal", "spectral")}
  if any(planes.values()):
    # Data sets that do not speak of it share one scale among their planes.
    joint = metadata.raw.get("generator", {}).get("scaling", "joint") == "joint"
    images, scale = synth_images.envelopes(
      images, scale, **planes, normalize="Gray_normalized" in labels, joint_scaling=joint
    )
  else:
    images = np.repeat(images[:, None], metadata.channels, axis=1)
  return np.moveaxis(images, 1, -1), scale


class Estimator:
  """Estimates of a trained network; see `open_estimator`.

  Attributes:
    metadata: of the data set that it was trained on.
    samples: how many samples of a sound it looks at.
  """

  def __init__(self, runner, metadata: Metadata, pp: str):
    self.metadata, self._runner = metadata, runner
    self._pp = builder.build(pp)
    self.samples = spectrogram(metadata).samples(metadata.width)

  def __call__(self, wav: np.ndarray) -> dict[str, np.ndarray]:
    """f32[B,T] in [-1,1] at metadata.sr Hz -> {parameter: f32[B]} in physical units.

    Raises:
      ValueError: another rank, or fewer samples than the picture shows.
    """
    wav = np.asarray(wav)
    if wav.ndim != 2 or wav.shape[1] < self.samples:
      raise ValueError(
        f"estimate: expected sounds [B,T] of at least {self.samples} samples "
        f"({self.samples / self.metadata.sr:g} s), got {wav.shape}. Append silence to shorter ones."
      )
    images, scale = pictures(self.metadata, wav)
    unknown = np.zeros(len(self.metadata.parameters), np.uint8)  # not looked at
    rows = [
      self._pp(vimh.example(self.metadata, image, s, unknown, str(i)), np.random.default_rng(0))
      for i, (image, s) in enumerate(zip(images, scale, strict=True))
    ]
    batch = {k: np.stack([np.asarray(r[k]) for r in rows]) for k in rows[0]}
    out = self._runner.predict("values", batch)
    return {k: np.asarray(out[k]) for k in self.metadata.names}


def open_estimator(spec: str) -> Estimator:
  """The estimator of "workdir", "workdir:step" or "workdir:best".

  Raises:
    ValueError: no such workdir or checkpoint; one that was not trained on pictures of a
      synthesiser's sounds.
  """
  runner = inference.open_workdir(spec)
  data = browse_run.judged(runner)
  if data["source"] not in ("vimh", "worlds.synth") or runner.config.trainer.key != "image":
    raise ValueError(f"{spec}: expected a run on pictures of VIMH data, such as configs/vimh.py.")
  given = {k: v for k, v in data.items() if k not in ("pp", "weight")}
  source = sources.build(given.pop("source"), f"{spec}: config.evals", **given)
  return Estimator(runner, source.metadata, data["pp"])


def read(path: str, metadata: Metadata, samples: int) -> np.ndarray:
  """f32[T] of a mono recording at the data set's rate.

  Raises:
    ValueError: it cannot be read; another rate or number of channels; too short.
  """
  import soundfile

  try:
    wav, sr = soundfile.read(path, dtype="float32", always_2d=True)
  except (OSError, RuntimeError) as e:
    raise ValueError(f"{path}: cannot be read: {e}") from None
  if sr != metadata.sr:
    raise ValueError(f"{path}: {sr} Hz; the network knows sounds of {metadata.sr:g} Hz. Resample.")
  if wav.shape[1] != 1:
    raise ValueError(f"{path}: {wav.shape[1]} channels; expected one.")
  if len(wav) < samples:
    raise ValueError(f"{path}: {len(wav)} samples; expected at least {samples}.")
  return wav[:, 0]


def estimate_files(
  paths: Sequence[str], estimator: Estimator
) -> tuple[dict[str, Mapping[str, float]], dict[str, str]]:
  """({path: {parameter: value}}, {path: why it could not be estimated})."""
  sounds, failed = {}, {}
  for path in paths:
    try:
      sounds[path] = read(path, estimator.metadata, estimator.samples)[: estimator.samples]
    except ValueError as e:
      failed[path] = str(e)
  if not sounds:
    return {}, failed
  values = estimator(np.stack(list(sounds.values())))
  return {p: {k: float(v[i]) for k, v in values.items()} for i, p in enumerate(sounds)}, failed


def parser() -> argparse.ArgumentParser:
  """The command line."""
  p = argparse.ArgumentParser(
    prog="python -m proj.vimh.estimate", description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )  # fmt: skip
  p.add_argument("files", metavar="FILE", nargs="+", help="mono recordings, wav or flac")
  p.add_argument("--workdir", required=True, metavar="RUN", help="workdir, workdir:step|:best")
  p.add_argument("--out", metavar="CSV", help="also write the estimates here")
  p.add_argument("--render", metavar="DIR", help="also write what the estimates sound like")
  return p


def main(argv: Sequence[str]) -> int:
  """Estimates and prints; 1 if a file could not be read, 2 if nothing could be done."""
  flags = parser().parse_args(list(argv))
  try:
    estimator = open_estimator(flags.workdir)
    found, failed = estimate_files(flags.files, estimator)
    names = estimator.metadata.names
    for path, values in found.items():
      print(path, *(f"{k}={values[k]:.4g}" for k in names))
    if flags.out:
      with open(flags.out, "w", newline="") as f:
        rows = csv.writer(f)
        rows.writerow(["file", *names])
        rows.writerows([path, *(f"{v[k]:.6g}" for k in names)] for path, v in found.items())
    if flags.render and found:
      _render(flags.render, estimator.metadata, found)
  except (ValueError, OSError) as e:
    print(f"estimate: {e}", file=sys.stderr)
    return 2
  for why in failed.values():
    print(f"estimate: {why}", file=sys.stderr)
  return int(bool(failed))


def _render(folder, metadata, found):
  import soundfile

  os.makedirs(folder, exist_ok=True)
  columns = {k: np.array([v[k] for v in found.values()]) for k in metadata.names}
  stems = [os.path.splitext(os.path.basename(p))[0] for p in found]
  if len(set(stems)) < len(stems):
    raise ValueError(f"--render {folder}: two files have one name; rename one of them.")
  for stem, wav in zip(stems, synth_render.sounds(metadata, columns), strict=True):
    path = os.path.join(folder, f"{stem}_estimate.wav")
    soundfile.write(path, np.clip(wav, -1, 1), int(metadata.sr), subtype="PCM_16")


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
