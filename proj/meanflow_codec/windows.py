"""A trained codec on recordings of any length: one compiled window shape, bounded memory.

  codec = WindowCodec(open_workdir("runs/codec"))
  codes = codec.encode(wav)                              # f32[T, C] -> int32[F, G]
  wav = codec.decode(codes, samples=len(wav), nfe=1)     # f32[T, C]

A recording is cut into windows of `WINDOW` tokens at fixed places; each carries as many tokens of
context on both sides as the model can see, and only its core is kept. The same program therefore
computes every token from the same numbers, however a recording is fed in: codes and samples are
bit-equal whatever the chunks, and agree with a single pass over the whole recording up to the
rounding of differently shaped programs.
"""

import hashlib
from collections.abc import Callable, Iterator

import jax
import numpy as np

from big_audio import config as C
from big_audio import trees

WINDOW = 512  # tokens; 10 s at 50 a second


class WindowCodec:
  """Encodes and decodes with the models of a run.

  Attributes:
    sr, channels, hop: of the model: Hz, C, samples of a token.
    levels: FSQ levels of each group.
    model_hash: 16 bytes over parameters and statistics; files carry it.
  """

  def __init__(self, runner):
    if not hasattr(runner.trainer, "codec"):
      raise ValueError(
        f"{runner.workdir!r} holds no codec (trainer {runner.config.trainer.name!r})."
      )
    self._runner, self._model = runner, runner.trainer.codec
    self.sr, self.channels, self.hop = self._model.sr, self._model.channels, self._model.hop
    self.levels = tuple(tuple(g) for g in self._model.fsq_groups)
    used = {k: runner.variables[k] for k in ("params", "stats")}
    sizes = repr(C.to_dict(runner.config.models)) + repr(C.to_dict(runner.config.trainer))
    digest = hashlib.sha256((trees.sha256(used) + sizes).encode())
    self.model_hash = digest.digest()[:16]

  @property
  def has_refiner(self) -> bool:
    """False for method="ae": then nfe has to be 0."""
    return self._runner.trainer.flow is not None

  def num_tokens(self, samples: int) -> int:
    """ceil(samples / hop)."""
    return -(-samples // self.hop)

  def context(self, nfe: int | None = None) -> int:
    """Tokens of context on each side: of the encoder (None), or of the decoder with nfe steps.

    Raises:
      ValueError: the context of so many evaluations does not fit a window.
    """
    if nfe is None:
      return self._model.encoder_reach
    reach = self._model.decoder_reach
    if nfe and self.has_refiner:
      # Analysis and synthesis of the domain see up to two tokens more on each side.
      reach += nfe * self._runner.trainer.refiner.reach + 4
    if 2 * reach >= WINDOW:
      most = (WINDOW // 2 - 1 - self._model.decoder_reach - 4) // self._runner.trainer.refiner.reach
      raise ValueError(f"nfe={nfe} needs {reach} tokens of context; use at most nfe={most}.")
    return reach

  def encode_stream(
    self, read: Callable[[int, int], np.ndarray], samples: int
  ) -> Iterator[np.ndarray]:
    """Codes of a recording, window by window.

    Args:
      read: (start, n) -> f32[n, C] in [-1, 1] at `sr`; only spans inside the recording are asked.
      samples: T, its exact length.

    Yields:
      int32[<= WINDOW, G]; together ceil(T / hop) rows.
    """
    side, tokens = self.context(), self.num_tokens(samples)
    core = WINDOW - 2 * side
    for first in range(0, tokens, core):
      begin = first - side
      wav = np.zeros((WINDOW * self.hop, self.channels), np.float32)
      lo, hi = max(0, begin * self.hop), min(samples, (begin + WINDOW) * self.hop)
      span = np.asarray(read(lo, hi - lo), np.float32)
      if span.shape != (hi - lo, self.channels):
        raise ValueError(
          f"encode: expected f32[{hi - lo}, {self.channels}] for samples {lo} to {hi}, got "
          f"{list(span.shape)}."
        )
      wav[lo - begin * self.hop : hi - begin * self.hop] = span
      batch = {"wav": wav[None], "mask": self._mask(begin, tokens)}
      codes = np.asarray(self._runner.predict("encode", batch)["codes"])[0]
      yield codes[side : side + min(core, tokens - first)]

  def decode_stream(
    self, read: Callable[[int, int], np.ndarray], samples: int, *, nfe: int = 1, seed: int = 0
  ) -> Iterator[np.ndarray]:
    """Waveform of codes, window by window.

    Args:
      read: (start, n) -> int[n, G], codes of tokens start ... start + n.
      samples: exact length of the recording.
      nfe: evaluations of the refiner; 0 is the deterministic decoder.
      seed: of the noise, in [0, 2^32).

    Yields:
      f32[n, C]; together `samples` rows.
    """
    if nfe and not self.has_refiner:
      raise ValueError(f"nfe={nfe}: this run has no refiner (method='ae'). Use nfe=0.")
    if not 0 <= seed < 2**32:
      raise ValueError(f"seed must lie in [0, 2^32), got {seed}.")
    side, tokens = self.context(nfe), self.num_tokens(samples)
    core = WINDOW - 2 * side
    for first in range(0, tokens, core):
      begin = first - side
      lo, hi = max(0, begin), min(tokens, begin + WINDOW)
      codes = np.zeros((WINDOW, len(self.levels)), np.int32)
      codes[lo - begin : hi - begin] = read(lo, hi - lo)
      batch = {
        "codes": codes[None],
        "mask": self._mask(begin, tokens),
        "token": (begin + np.arange(WINDOW, dtype=np.int32))[None],
        "seed": np.asarray([seed], np.uint32),
      }
      wav = np.asarray(self._runner.predict("decode", batch, nfe=nfe)["wav"])[0]
      start = side * self.hop
      yield wav[start : start + min(core * self.hop, samples - first * self.hop)]

  def encode(self, wav: np.ndarray) -> np.ndarray:
    """f32[T, C] in [-1, 1] at `sr` -> codes int32[ceil(T / hop), G].

    Raises:
      ValueError: another number of channels.
    """
    wav = np.asarray(wav, np.float32)
    if wav.ndim != 2 or wav.shape[1] != self.channels:
      raise ValueError(f"encode: expected f32[T, {self.channels}], got {list(wav.shape)}.")
    blocks = list(self.encode_stream(lambda start, n: wav[start : start + n], len(wav)))
    return np.concatenate(blocks) if blocks else np.zeros((0, len(self.levels)), np.int32)

  def decode(self, codes: np.ndarray, samples: int, *, nfe: int = 1, seed: int = 0) -> np.ndarray:
    """Codes int[F, G] -> f32[samples, C].

    Raises:
      ValueError: a number of tokens that does not belong to so many samples, codes out of range.
    """
    codes = np.asarray(codes)
    expected = (self.num_tokens(samples), len(self.levels))
    if codes.shape != expected:
      raise ValueError(
        f"decode: expected codes {expected} for {samples} samples, got {codes.shape}."
      )
    sizes = np.array(self._model.codebook_sizes)
    if ((codes < 0) | (codes >= sizes)).any():
      raise ValueError(f"decode: codes must lie in [0, {sizes.tolist()}).")
    blocks = list(self.decode_stream(lambda s, n: codes[s : s + n], samples, nfe=nfe, seed=seed))
    return np.concatenate(blocks) if blocks else np.zeros((0, self.channels), np.float32)

  def _mask(self, begin: int, tokens: int) -> np.ndarray:
    index = begin + np.arange(WINDOW)
    return ((index >= 0) & (index < tokens))[None]


def whole(runner, wav: np.ndarray) -> dict:
  """One pass over a whole recording f32[T, C], for comparison: {"lat" [F, D], "codes" [F, G]}."""
  hop = runner.trainer.codec.hop
  pad = -len(wav) % hop
  batch = {"wav": np.pad(wav, ((0, pad), (0, 0)))[None]}
  return jax.tree.map(lambda x: np.asarray(x)[0], runner.predict("encode", batch))
