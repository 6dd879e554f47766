"""Log-mel filter banks for AST: `wav` f32[T,1] at 16 kHz, or an unread file -> f32[F,M]."""

import numpy as np

from big_audio.dsp import fbank as F
from big_audio.pp.registry import OpError, of_any_length, op, take

SR, WIN, HOP = 16000, 400, 160  # that the public weights are made for


@op("fbank")
def fbank(
  frames: int | None = None,
  *,
  n_mels: int = 128,
  cut: bool = False,
  key: str = "wav",
  to: str = "fbank",
):
  """Recording -> log-mel f32[F,M], 100 frames a second; see `dsp.fbank.fbank`.

  Args:
    frames: F; rows of zeros are appended up to it, which belongs before `ast_normalise`. None: as
      many as there are; `pad(samples=F, key="fbank")` puts rows elsewhere.
    n_mels: M.
    cut: lets a longer recording lose its end, as the public extractor does.
    key: of the recording, which is dropped.
    to: where the log-mel goes.

  Raises:
    OpError: another rate, several channels, less than a frame, or more than `frames`.
  """
  if frames is not None and frames < 1:
    raise OpError(f"needs frames above 0, got {frames}.")

  def fn(example, rng):
    wav, sr = of_any_length(example, key), int(take(example, "sr"))
    who = f'"{example.get("id", "the example")}"'
    if sr != SR:
      raise OpError(
        f"needs {SR} Hz, {who} has {sr}. Set sr={SR} of the source, or put resample({SR}) before."
      )
    if len(wav.shape) != 2 or wav.shape[1] != 1:
      raise OpError(f"needs mono [T,1], {who} has {list(wav.shape)}. Put mono before it.")
    samples = wav.shape[0]
    if samples < WIN:
      raise OpError(f'needs {WIN} samples, {who} has {samples}. Use "pad(samples={WIN})|fbank".')
    if frames is not None:
      last = WIN + (frames - 1) * HOP + HOP - 1  # the most samples that give `frames`
      if samples > last and not cut:
        raise OpError(
          f"needs {frames} frames or fewer, {who} has {1 + (samples - WIN) // HOP}. Use "
          f'"crop(samples={frames * HOP})|fbank({frames})", or cut=True to lose its end.'
        )
      wav = wav.read(0, min(samples, last)) if hasattr(wav, "read") else wav[:last]
    mel = F.fbank(_array(wav), SR, n_mels, WIN, HOP)
    if frames is not None:
      mel = np.pad(mel, ((0, frames - len(mel)), (0, 0)))
    return {**{k: v for k, v in example.items() if k != key}, to: mel}

  return fn


@op("ast_normalise")
def ast_normalise(
  mean: float = F.AUDIOSET_MEAN, std: float = F.AUDIOSET_STD, *, key: str = "fbank"
):
  """(x - mean) / (2 std), in float32: mean 0 and deviation .5 on the data they are taken of."""
  if not std > 0:
    raise OpError(f"needs std > 0, got {std}.")

  def fn(example, rng):
    x = np.asarray(take(example, key), np.float32)
    return {**example, key: (x - np.float32(mean)) / np.float32(2 * std)}

  return fn


@op("cmn")
def cmn(*, key: str = "fbank"):
  """Log-mel f32[F,M] less the mean of each mel over its frames (cepstral mean normalisation).

  What multiplies a spectrum all along, a microphone, a room or a gain, is gone (Atal 1974). It
  belongs behind the crop and before rows of padding.
  """

  def fn(example, rng):
    x = np.asarray(take(example, key), np.float32)
    return {**example, key: x - x.mean(axis=0)}

  return fn


def _array(wav):
  wav = wav.numpy() if hasattr(wav, "read") else np.asarray(wav)
  if wav.dtype.kind != "f":
    raise OpError(f"needs floats in [-1, 1], got {wav.dtype}. Put to_float before it.")
  return wav.astype(np.float32, copy=False)
