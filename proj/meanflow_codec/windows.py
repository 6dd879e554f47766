"""A trained codec on recordings of any length: one compiled window shape, bounded memory, streams.

  codec = WindowCodec(open_workdir("runs/codec"))
  codes = codec.encode(wav)                              # f32[T, C] -> int32[F, G]
  wav = codec.decode(codes, samples=len(wav), nfe=1)     # f32[T, C]

A recording is cut into windows at fixed places; each carries as many tokens of context on both
sides as the model can see, and only its core is kept. The same program therefore computes every
token from the same numbers, however a recording is fed in: codes and samples are bit-equal whatever
the chunks, and agree with a single pass over the whole recording up to the rounding of differently
shaped programs.

A stream (`stream_encoder`, `stream_decoder`) computes the same windows as soon as what they see is
there, so it is bit-equal to the whole recording done with the same `core`. `latency` says how long
it waits; a small core waits less and computes more.
"""

import functools
import hashlib
import math
from collections.abc import Callable, Iterator

import jax
import numpy as np

from big_audio import config as C
from big_audio import trees
from proj.meanflow_codec import entropy

HASHED = ("params", "stats", "codebook")
WINDOW = 512  # tokens, where no core is given; 10 s at 50 a second


class WindowCodec:
  """Encodes and decodes with the models of a run.

  Args:
    runner: of `inference.open_workdir`.
    core: tokens that a window adds; None: what fits a window of `WINDOW` tokens.
    groups: only the first groups of codes are used, for a lower rate; None: all.
    digest: `model_hash` of the same runner where it is known; None: computed when needed.

  Attributes:
    sr, channels, hop: of the model: Hz, C, samples of a token.
    levels: levels of each group in use.
    rates: numbers of groups that the model was trained for.
  """

  def __init__(
    self, runner, *, core: int | None = None, groups: int | None = None, digest: bytes | None = None
  ):
    if not hasattr(runner.trainer, "codec"):
      raise ValueError(
        f"{runner.workdir!r} holds no codec (trainer {runner.config.trainer.name!r})."
      )
    self._runner, self._model = runner, runner.trainer.codec
    self.sr, self.channels, self.hop = self._model.sr, self._model.channels, self._model.hop
    every = self._model.groups
    if not every:
      raise ValueError(f"{runner.workdir!r}: a continuous bottleneck has no codes to write.")
    if core is not None and core < 1:
      raise ValueError(f"WindowCodec: core={core}: expected a number of tokens >= 1.")
    if groups is not None and not 1 <= groups <= len(every):
      raise ValueError(f"WindowCodec: groups={groups}: this model has 1 to {len(every)} groups.")
    self.rates = range(1, len(every) + 1) if runner.trainer.dropout else (len(every),)
    if (groups or len(every)) not in self.rates:
      raise ValueError(
        f"{runner.workdir!r} was not trained for other rates than its own: train it with "
        "config.trainer.quantizer_dropout, or use all groups."
      )
    self._given_core = core
    self.levels = tuple(tuple(g) for g in every[:groups])
    self._digest = digest

  @property
  def model_hash(self) -> bytes:
    """16 bytes over parameters and statistics; files carry it."""
    if self._digest is None:
      used = {k: v for k, v in self._runner.variables.items() if k in HASHED}
      config = self._runner.config
      sizes = repr(C.to_dict(config.models)) + repr(C.to_dict(config.trainer))
      self._digest = hashlib.sha256((trees.sha256(used) + sizes).encode()).digest()[:16]
    return self._digest

  def with_groups(self, groups: int | None) -> "WindowCodec":
    """The same codec at another rate; compiled programs are shared."""
    if groups == len(self.levels):
      return self
    return WindowCodec(self._runner, core=self._given_core, groups=groups, digest=self._digest)

  @functools.cached_property
  def coder(self) -> entropy.Coder | None:
    """The range coder of the groups in use; None where the run has no prior."""
    params = self._runner.variables["params"].get("prior")
    return None if params is None else entropy.Coder(entropy.IntegerPrior(params, self.levels))

  @property
  def kbps(self) -> float:
    """Of packed codes, without header."""
    bits = sum(math.ceil(math.log2(math.prod(g))) for g in self.levels)
    return bits * self.sr / self.hop / 1000

  @property
  def has_refiner(self) -> bool:
    """False for method="ae": then nfe has to be 0."""
    return self._runner.trainer.flow is not None

  def num_tokens(self, samples: int) -> int:
    """ceil(samples / hop)."""
    return -(-samples // self.hop)

  def context(self, nfe: int | None = None) -> tuple[int, int]:
    """Tokens (before, after) that a token depends on: in the encoder (None), or decoding with nfe.

    Raises:
      ValueError: a refiner that looks at the whole window, or a context that no window holds.
    """
    if nfe is None:
      return self._model.encoder_reach
    left, right = self._model.decoder_reach
    if nfe and self.has_refiner:
      reach = self._runner.trainer.refiner.reach
      if reach is None:
        raise ValueError(
          f"{self._runner.workdir!r}: the refiner looks at whole recordings; windows need a net of "
          "finite reach (convnext1d, mlp_flow, or dit with a local window)."
        )
      # Analysis and synthesis of the domain see up to two tokens more on each side.
      left, right = left + nfe * reach + 4, right + nfe * reach + 4
    if self._given_core is None and left + right >= WINDOW:
      raise ValueError(
        f"nfe={nfe} needs {left} + {right} tokens of context, a window has {WINDOW}. Use fewer "
        "evaluations, or give a core."
      )
    return left, right

  def core(self, nfe: int | None = None) -> int:
    """Tokens that each window adds."""
    return self._given_core or WINDOW - sum(self.context(nfe))

  def latency(self, nfe: int | None = None) -> float:
    """Seconds that a stream waits at most before it gives what it was fed, computing time aside."""
    return (self.core(nfe) + self.context(nfe)[1]) * self.hop / self.sr

  def encode_window(self, first: int, wav: np.ndarray, at: int, samples: int | None) -> np.ndarray:
    """Codes of the window whose core begins at token `first`.

    Args:
      first: a multiple of `core()`.
      wav: f32[n, C], what is known of the recording from sample `at` on; it covers the window.
      samples: length of the recording; None: it goes on beyond the window.

    Returns:
      int32[<= core, k].
    """
    left, right = self.context()
    core, window = self.core(), self.core() + left + right
    begin = first - left
    end = (begin + window) * self.hop if samples is None else samples
    tokens = begin + window if samples is None else self.num_tokens(samples)
    x = np.zeros((window * self.hop, self.channels), np.float32)
    lo, hi = max(0, begin * self.hop), min(end, (begin + window) * self.hop)
    x[lo - begin * self.hop : hi - begin * self.hop] = wav[lo - at : hi - at]
    batch = {"wav": x[None], "mask": self._mask(begin, window, tokens)}
    codes = np.asarray(self._runner.predict("encode", batch)["codes"])[0]
    return codes[left : left + min(core, tokens - first), : len(self.levels)]

  def decode_window(
    self, first: int, codes: np.ndarray, at: int, samples: int | None, nfe: int, seed: int
  ) -> np.ndarray:
    """Waveform of the core that begins at token `first`; see `encode_window`.

    Args:
      codes: int[n, k], what is known of the codes from token `at` on; they cover the window.
    """
    left, right = self.context(nfe)
    core, window = self.core(nfe), self.core(nfe) + left + right
    begin = first - left
    tokens = begin + window if samples is None else self.num_tokens(samples)
    lo, hi = max(0, begin), min(tokens, begin + window)
    x = np.zeros((window, len(self.levels)), np.int32)
    x[lo - begin : hi - begin] = codes[lo - at : hi - at]
    batch = {
      "codes": x[None],
      "mask": self._mask(begin, window, tokens),
      "token": (begin + np.arange(window, dtype=np.int32))[None],
      "seed": np.asarray([seed], np.uint32),
    }
    wav = np.asarray(self._runner.predict("decode", batch, nfe=nfe)["wav"])[0]
    most = core * self.hop if samples is None else samples - first * self.hop
    return wav[left * self.hop :][: min(core * self.hop, most)]

  def encode_stream(
    self, read: Callable[[int, int], np.ndarray], samples: int
  ) -> Iterator[np.ndarray]:
    """Codes of a recording, window by window.

    Args:
      read: (start, n) -> f32[n, C] in [-1, 1] at `sr`; only spans inside the recording are asked.
      samples: T, its exact length.

    Yields:
      int32[<= core, k]; together ceil(T / hop) rows.
    """
    left, right = self.context()
    for first in range(0, self.num_tokens(samples), self.core()):
      lo = max(0, (first - left) * self.hop)
      hi = min(samples, (first + self.core() + right) * self.hop)
      span = np.asarray(read(lo, hi - lo), np.float32)
      if span.shape != (hi - lo, self.channels):
        raise ValueError(
          f"encode: expected f32[{hi - lo}, {self.channels}] for samples {lo} to {hi}, got "
          f"{list(span.shape)}."
        )
      yield self.encode_window(first, span, lo, samples)

  def decode_stream(
    self, read: Callable[[int, int], np.ndarray], samples: int, *, nfe: int = 1, seed: int = 0
  ) -> Iterator[np.ndarray]:
    """Waveform of codes, window by window.

    Args:
      read: (start, n) -> int[n, k], codes of tokens start ... start + n.
      samples: exact length of the recording.
      nfe: evaluations of the refiner; 0 is the deterministic decoder.
      seed: of the noise, in [0, 2^32).

    Yields:
      f32[n, C]; together `samples` rows.
    """
    self.check_decoding(nfe, seed)
    left, right = self.context(nfe)
    tokens = self.num_tokens(samples)
    for first in range(0, tokens, self.core(nfe)):
      lo, hi = max(0, first - left), min(tokens, first + self.core(nfe) + right)
      yield self.decode_window(first, read(lo, hi - lo), lo, samples, nfe, seed)

  def check_decoding(self, nfe: int, seed: int) -> None:
    """Raises ValueError for evaluations that the run has no refiner for, or an impossible seed."""
    if nfe and not self.has_refiner:
      raise ValueError(f"nfe={nfe}: this run has no refiner (method='ae'). Use nfe=0.")
    if not 0 <= seed < 2**32:
      raise ValueError(f"seed must lie in [0, 2^32), got {seed}.")

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
    sizes = np.array([math.prod(g) for g in self.levels])
    if ((codes < 0) | (codes >= sizes)).any():
      raise ValueError(f"decode: codes must lie in [0, {sizes.tolist()}).")
    blocks = list(self.decode_stream(lambda s, n: codes[s : s + n], samples, nfe=nfe, seed=seed))
    return np.concatenate(blocks) if blocks else np.zeros((0, self.channels), np.float32)

  def _mask(self, begin: int, window: int, tokens: int) -> np.ndarray:
    index = begin + np.arange(window)
    return ((index >= 0) & (index < tokens))[None]


def whole(runner, wav: np.ndarray) -> dict:
  """One pass over a whole recording f32[T, C], for comparison: {"lat" [F, D], "codes" [F, G]}."""
  hop = runner.trainer.codec.hop
  pad = -len(wav) % hop
  batch = {"wav": np.pad(wav, ((0, pad), (0, 0)))[None]}
  return jax.tree.map(lambda x: np.asarray(x)[0], runner.predict("encode", batch))
