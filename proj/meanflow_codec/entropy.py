"""Range coding of codes with the trained prior, in integers.

The prior (models/code_prior.py) gives each symbol's probability from the symbols before it. Encoder
and decoder have to agree on it to the last bit on every machine, which floating point does not
promise (EnCodec's files suffered from it). So its weights are rounded to integers, once, and all
that follows is integer arithmetic, held in float64, where it is exact as long as every value stays
below 2^53. The range coder is `constriction`'s.

Blocks of frames (see bitstream.py) know nothing of each other: bounded memory, and a reader need
not begin at the start.
"""

import decimal
import functools

import numpy as np

from big_audio.nn.quantize import join_symbols, split_codes

IN_BITS, MIX_BITS, ACT_BITS = 12, 10, 8  # fractional bits of weights and activations
MAX_ACT = float(1 << 20)
TOTAL = 1 << 16  # of the integer frequencies of a symbol
_FLOOR = 14  # nats below the likeliest symbol: no logit lies lower


@functools.cache
def exp_table() -> np.ndarray:
  """int64[n]: round(2^20 exp(-i / 2^ACT_BITS)); decimal, because libm's exp differs by machine."""
  with decimal.localcontext(decimal.Context(prec=40)):
    step = decimal.Decimal(-1) / (1 << ACT_BITS)
    values = [(step * i).exp() * (1 << 20) for i in range((_FLOOR << ACT_BITS) + 1)]
    return np.array([int(v.to_integral_value()) for v in values], np.int64)


def _shift(x, bits):
  return np.floor(x / (1 << bits))


class IntegerPrior:
  """The prior of a run, in integers.

  Args:
    params: parameters of models/code_prior.py.
    groups: levels of each group of codes in use: all of the model's, or the first of them.
  """

  def __init__(self, params, groups):
    self.groups = tuple(tuple(g) for g in groups)
    self.sizes = np.array([n for g in self.groups for n in g])
    d = self._d = len(self.sizes)  # at a lower rate fewer than the model has: a prefix
    fixed = lambda x, bits: np.rint(np.asarray(x, np.float64) * (1 << bits))
    upper, strict = np.triu(np.ones((d, d))), np.triu(np.ones((d, d)), 1)
    w = fixed(params["hidden_in"][:, :d, :, :d], IN_BITS)  # [context + 1, D, n, D, U]
    self.context, self._n, self._u = w.shape[0] - 1, w.shape[2], w.shape[4]
    out = fixed(params["out_in"][:, :d, :, :d], IN_BITS)
    w[0] *= strict[:, None, :, None]
    out[0] *= strict[:, None, :, None]
    # Hidden units and logits that a symbol adds to, side by side: [context + 1, D, n, D, U + n].
    self._add = np.concatenate([w, out], axis=-1)
    bias = [fixed(params[k][:d], IN_BITS) for k in ("hidden_bias", "out_bias")]
    self._bias = np.concatenate(bias, axis=-1)  # [D, U + n]
    self._mix = (
      fixed(params["hidden_mix"][:d, :, :d], MIX_BITS) * upper[:, None, :, None]
    )  # [D, U, D, U]
    self._out = fixed(params["out"][:d], MIX_BITS)  # [D, U, n]
    self._absent = np.arange(self._n) >= self.sizes[:, None]  # [D, n]

  def _frequencies(self, logits, absent):
    """Logits [..., n] with ACT_BITS -> int64 that sum to TOTAL; symbols that exist get >= 1."""
    logits = np.where(absent, -np.inf, logits)
    below = np.minimum(logits.max(-1, keepdims=True) - logits, _FLOOR << ACT_BITS).astype(np.int64)
    weight = np.where(absent, 0, exp_table()[below])
    count = (~absent).sum(-1, keepdims=True)
    freq = weight * (TOTAL - count) // weight.sum(-1, keepdims=True) + ~absent
    best = freq.argmax(-1)[..., None]
    rest = TOTAL - freq.sum(-1, keepdims=True)
    np.put_along_axis(freq, best, np.take_along_axis(freq, best, -1) + rest, -1)
    return freq

  def frequencies(self, symbols):
    """int64[F, D, n] for known symbols int[F, D]: what an encoder needs."""
    frames, d, u = len(symbols), self._d, self._u
    total = np.broadcast_to(self._bias, (frames, d, u + self._n)).copy()
    for p in range(self.context + 1):
      for i in range(d):
        total[p:] += self._add[p, i][symbols[: max(frames - p, 0), i]]
    hidden = np.clip(_shift(total[..., :u], IN_BITS - ACT_BITS), 0, MAX_ACT)  # [F, D, U]
    flat = hidden.reshape(frames, d * u) @ self._mix.reshape(d * u, d * u)
    hidden = np.clip(hidden + _shift(flat, MIX_BITS).reshape(hidden.shape), 0, MAX_ACT)
    logits = _shift(np.einsum("fju,jun->fjn", hidden, self._out), MIX_BITS)
    logits += _shift(total[..., u:], IN_BITS - ACT_BITS)
    return self._frequencies(logits, self._absent)

  def decode_frames(self, frames, take):
    """Symbols int32[frames, D]; `take(frequencies int64[n])` gives the next one."""
    d, u = self._d, self._u
    out = np.zeros((frames, d), np.int32)
    rows = np.arange(d)
    for f in range(frames):
      total = self._bias.copy()
      for p in range(1, min(self.context, f) + 1):
        total += self._add[p, rows, out[f - p]].sum(0)
      mixed = np.zeros((d, u))
      for j in range(d):
        first = np.clip(_shift(total[j, :u], IN_BITS - ACT_BITS), 0, MAX_ACT)
        mixed += (first @ self._mix[j].reshape(u, -1)).reshape(d, u)
        hidden = np.clip(first + _shift(mixed[j], MIX_BITS), 0, MAX_ACT)
        logits = _shift(hidden @ self._out[j], MIX_BITS)
        logits += _shift(total[j, u:], IN_BITS - ACT_BITS)
        symbol = take(self._frequencies(logits, self._absent[j]))
        out[f, j] = symbol
        total += self._add[0, j, symbol]
    return out

  def bits(self, codes) -> float:
    """Bits of codes int[F, G] as one block, before the coder rounds up to words."""
    symbols = split_codes(np.asarray(codes), self.groups)
    freq = np.take_along_axis(self.frequencies(symbols), symbols[..., None], -1)
    return float(-np.log2(freq / TOTAL).sum())


def _library():
  try:
    import constriction
  except ImportError:
    raise ValueError(
      "Range-coded files need the package constriction: pip install constriction."
    ) from None
  return constriction.stream


def _model(stream, freq=None):
  # Multiples of 2^-16 are exact in float32; nothing is left for the library to round.
  if freq is None:
    return stream.model.Categorical(perfect=False)
  return stream.model.Categorical((freq / TOTAL).astype(np.float32), perfect=False)


class Coder:
  """Range coder of one model's codes.

  Args:
    prior: an `IntegerPrior`.

  Attributes:
    levels: of each group of codes.
  """

  def __init__(self, prior: IntegerPrior):
    self._prior, self.levels = prior, prior.groups

  def encode(self, codes: np.ndarray) -> bytes:
    """Codes int[F, G] of one block -> bytes, a multiple of four."""
    stream = _library()
    symbols = split_codes(np.asarray(codes, np.int32), self._prior.groups)
    freq = self._prior.frequencies(symbols)
    encoder = stream.queue.RangeEncoder()
    encoder.encode(
      symbols.reshape(-1).astype(np.int32), _model(stream),
      (freq / TOTAL).astype(np.float32).reshape(-1, freq.shape[-1]),
    )  # fmt: skip
    return encoder.get_compressed().astype("<u4").tobytes()

  def decode(self, data: bytes, frames: int) -> np.ndarray:
    """Bytes of `encode` -> codes int32[frames, G].

    Raises:
      ValueError: the bytes are no whole words, or do not end where the frames do.
    """
    if len(data) % 4:
      raise ValueError(f"expected whole words of 4 bytes, got {len(data)} bytes.")
    stream = _library()
    decoder = stream.queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))
    try:
      symbols = self._prior.decode_frames(frames, lambda freq: decoder.decode(_model(stream, freq)))
    except AssertionError as e:  # how the library says that no encoder wrote these words
      raise ValueError(f"its words are no range code: {e}") from None
    if (symbols >= self._prior.sizes).any():
      raise ValueError("its words decode to symbols that do not exist.")
    if not decoder.maybe_exhausted():
      raise ValueError(f"{len(data)} bytes hold more than {frames} frames.")
    return join_symbols(symbols, self._prior.groups).astype(np.int32)
