"""A length-independent neural codec for waveforms: 50 or so tokens a second, each a few FSQ codes.

Features: MDCT, MDST and log-power input, ConvNeXt-1D encoder and mirror decoder, FSQ, a head that
predicts complex STFT frames or MDCT frames (gain and phase, as Vocos 2306.00814). Nothing looks at
the whole clip: no statistics over time, a finite reach, and frames outside `mask` count as zeros.
So a window with `reach` frames of context on both sides gives the codes and samples of the clip.

Token i stands for samples [i hop, (i+1) hop); a clip of T samples has ceil(T / hop) tokens.
"""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict

from big_audio import config as C
from big_audio.dsp import mdct, stft
from big_audio.dsp.windows import mdct_window
from big_audio.models.frames import overlap_add, straddle
from big_audio.nn.conv1d import ConvNeXt, receptive_reach
from big_audio.nn.quantize import FSQ
from big_audio.nn.rvq import RVQ, Continuous

# Powers below it are silence; it keeps the logarithm and its gradient finite.
LOG_FLOOR = 1e-7
HEADS = ("stft", "mdct")
QUANTIZERS = {"fsq": FSQ, "rvq": RVQ, "continuous": Continuous}


class Model(nn.Module):
  """The codec.

  Attributes:
    sr: sampling rate, Hz.
    hop: samples of a token, even.
    channels: C.
    quantizer: dict(name="fsq", levels=[...]), or name="rvq" or "continuous" with the attributes of
      `nn.quantize` and `nn.rvq`.
    width: of encoder and decoder.
    enc_depth, dec_depth: their numbers of blocks.
    expansion, kernel, norm, causal: of the blocks, see `nn.conv1d.ConvNeXtBlock`. A causal codec
      looks ahead no further than its transforms overlap, for streams.
    dtype: compute type of the blocks ("bfloat16"); parameters and transforms are float32.
    head_type: "stft": complex frames, overlapping four times; "mdct": real frames, overlapping
      twice, with as many coefficients as samples. (linen keeps the name `head` for the layer.)
    sub: frames a token in the head; their hop is hop / sub, their window 4 (MDCT: 2) of their hops.
    power: exponent of the compressed MDCT and MDST in the input.
    variant: unused, every size is a keyword.
  """

  sr: int
  hop: int = 160
  channels: int = 1
  quantizer: Mapping[str, Any] = FrozenDict(name="fsq", levels=((8, 5, 5, 5),) * 3)
  width: int = 256
  enc_depth: int = 4
  dec_depth: int = 6
  expansion: float = 3
  kernel: int = 7
  norm: str = "none"
  causal: bool = False
  dtype: str | None = None
  head_type: str = "stft"
  sub: int = 2
  power: float = 0.3
  variant: str | None = None

  def setup(self):
    if self.hop % (2 * self.sub):
      raise ValueError(f"codec: hop={self.hop} must be a multiple of 2 * sub = {2 * self.sub}.")
    kw = dict(expansion=self.expansion, kernel=self.kernel, norm=self.norm, causal=self.causal)
    kw["dtype"] = self.dtype and jnp.dtype(self.dtype)
    self.quant = self._quantizer()
    self.enc_in = nn.Dense(self.width)
    self.encoder = ConvNeXt(self.enc_depth, **kw)
    # Of a frame, over channels: keeps latents where the quantiser's bound has a slope.
    self.enc_norm = nn.RMSNorm()
    self.enc_out = nn.Dense(self.quant.in_dim)
    self.dec_in = nn.Dense(self.width)
    self.decoder = ConvNeXt(self.dec_depth, **kw)
    if self.head_type not in HEADS:
      raise ValueError(
        f"config.models.codec.head_type={self.head_type!r} is unknown. "
        f"{C.nearest(self.head_type, HEADS)}"
      )
    self.head = nn.Dense(self.sub * self.channels * 3 * self.bins)

  @property
  def n_fft(self) -> int:
    """Length of the head's STFT frames, in samples."""
    return 4 * self.hop // self.sub

  @property
  def bins(self) -> int:
    """Bins of the head's frames."""
    return self.hop // self.sub if self.head_type == "mdct" else self.n_fft // 2 + 1

  @property
  def encoder_reach(self) -> tuple[int, int]:
    """Tokens (before, after) a token that its code depends on."""
    return self._reach(self.enc_depth, 1)

  @property
  def decoder_reach(self) -> tuple[int, int]:
    """Tokens (before, after) a token that its samples depend on."""
    # STFT: the last of a token's frames ends 1.5 / sub tokens behind it. MDCT: a row of frames
    # knows its token and the one before it.
    return self._reach(self.dec_depth, 1 if self.head_type == "mdct" else math.ceil(1.5 / self.sub))

  def _reach(self, depth, more):
    one = receptive_reach(depth, self.kernel)
    return (2 * one + more, more) if self.causal else (one + more, one + more)

  def _quantizer(self, **kw):
    args = {**C.to_dict(self.quantizer), **kw}
    make = C.pick("config.models.codec.quantizer.name", QUANTIZERS, args.pop("name", "fsq"))
    return C.call("config.models.codec.quantizer", make, **args)

  @property
  def groups(self) -> tuple[tuple[int, ...], ...]:
    """Levels of each group of codes; a plain codebook of n codes is (n,)."""
    return self._quantizer(parent=None).groups

  @property
  def codebook_sizes(self) -> tuple[int, ...]:
    """Number of codes of each group."""
    return self._quantizer(parent=None).codebook_sizes

  @property
  def latent_dim(self) -> int:
    """D of quantised latents."""
    return self._quantizer(parent=None).dim

  def bits_per_token(self, groups: int | None = None) -> int:
    """Bits of a token in the file, of the first `groups`: whole bits for each of them."""
    return sum(math.ceil(math.log2(n)) for n in self.codebook_sizes[:groups])

  def num_tokens(self, samples: int) -> int:
    """ceil(samples / hop)."""
    return -(-samples // self.hop)

  def features(self, wav):
    """Encoder input, before normalisation.

    Args:
      wav: f32[B, T, C] in [-1, 1] at `sr`; T a multiple of hop.

    Returns:
      f32[B, F, 3 * hop * C]: compressed MDCT and MDST, log power; windows are centred on tokens.
    """
    b, t, c = wav.shape
    if t % self.hop or c != self.channels:
      raise ValueError(
        f"codec: expected wav [B, n * {self.hop}, {self.channels}], got {tuple(wav.shape)}."
      )
    side = self.hop // 2
    x = jnp.pad(jnp.moveaxis(wav, -1, -2), ((0, 0), (0, 0), (side, side)))
    frames = stft.frame(x, 2 * self.hop, self.hop)  # [B, C, F, 2 hop]
    frames = frames * jnp.asarray(mdct_window("sine", self.hop), wav.dtype)
    a, s = mdct.frame_mdct(frames), mdct.frame_mdst(frames)
    log_power = jnp.log(a**2 + s**2 + LOG_FLOOR)
    parts = [stft.compress(a, self.power), stft.compress(s, self.power), log_power]
    out = jnp.concatenate(parts, axis=-1)  # [B, C, F, 3 hop]
    return jnp.moveaxis(out, 1, 2).reshape(b, t // self.hop, -1)

  def encode(self, wav, stats, mask=None):
    """Latents before the quantiser.

    Args:
      wav: f32[B, T, C] in [-1, 1]; T a multiple of hop, zeros outside the clip.
      stats: {"mean", "std"}: f32[3 * hop * C] of `features` on training data.
      mask: bool[B, F], tokens inside the clip; None: all.

    Returns:
      f32[B, F, D].
    """
    x = (self.features(wav) - stats["mean"]) / stats["std"]
    x = self.encoder(self.enc_in(x), mask).astype(jnp.float32)
    return self.enc_out(self.enc_norm(x))

  def quantize(self, lat, **kw):
    """f32[B, F, D'] -> `Quantised`; keywords as in `quantise` of the quantiser."""
    return self.quant.quantise(lat, **kw)

  def one_hot(self, lat, codes, pull=0.0):
    """Symbols of latents before the quantiser as f32[B, F, D, n], for models/code_prior.py.

    See `nn.quantize.FSQ.one_hot` for `pull`, which needs an FSQ.
    """
    if isinstance(self.quant, FSQ):
      return self.quant.one_hot(lat, pull)
    return jax.nn.one_hot(codes, max(self.codebook_sizes))

  def from_codes(self, codes):
    """Codes int32[B, F, k] of the first k groups -> quantised latents f32[B, F, D]."""
    return self.quant.from_codes(codes)

  def decode(self, lat, mask=None):
    """Quantised latents -> waveform.

    Args:
      lat: f32[B, F, D] in [-1, 1].
      mask: bool[B, F], tokens inside the clip; None: all.

    Returns:
      (wav f32[B, F * hop, C], features f32[B, F, width] for a refiner).
    """
    feats = self.decoder(self.dec_in(lat), mask).astype(jnp.float32)
    return self.synthesis(self.head(self._rows(feats, mask)), mask), feats

  def _rows(self, feats, mask):
    """Decoder features [B, F, width] -> what the head sees of them."""
    if self.head_type == "stft":
      return feats
    # Row i holds the MDCT frame across tokens i - 1 and i and the frames inside of token i; it
    # knows both tokens. F + 1 rows cover F tokens to their very edges.
    here = feats if mask is None else jnp.where(mask[..., None], feats, 0.0)
    return straddle(here)

  def synthesis(self, raw, mask=None):
    """Head outputs -> waveform.

    Args:
      raw: f32[B, R, sub * C * 3 * bins]: log gain, and a phase as a 2-vector. R = F for the STFT;
        F + 1 for the MDCT, of whose last row only the first frame is used.
      mask: bool[B, F], tokens inside the clip; None: all.

    Returns:
      f32[B, F * hop, C], zeros outside the mask.
    """
    b, rows = raw.shape[:2]
    raw = raw.reshape(b, rows * self.sub, self.channels, 3, self.bins)
    gain = jnp.exp(jnp.minimum(raw[..., 0, :], 8.0))
    re, im = raw[..., 1, :], raw[..., 2, :]
    # Unit phase; the floor keeps the derivative finite where both are zero.
    unit = jax.lax.rsqrt(re**2 + im**2 + 1e-8)
    if self.head_type == "mdct":
      return self._inverse_mdct(gain * (re * unit), rows - 1, mask)
    spec = gain * jax.lax.complex(re * unit, im * unit)
    return overlap_add(spec, self.n_fft, self.hop // self.sub, mask, self.sub)

  def _inverse_mdct(self, x, tokens, mask):
    """Gain times the cosine of the phase: the real part of an MCLT [B, R sub, C, bins] -> wav."""
    frames = jnp.moveaxis(x[:, : tokens * self.sub + 1], 2, 3)  # [B, F sub + 1, bins, C]
    # A gain of 1 is then about as loud as in the STFT, whose inverse divides by its length.
    wav = mdct.imdct(frames * self.hop**-0.5, tokens * self.hop)
    return wav if mask is None else wav * jnp.repeat(mask, self.hop, axis=1)[..., None]

  def __call__(self, wav, stats):
    """Touches every parameter: for init."""
    q = self.quantize(self.encode(wav, stats))
    out, feats = self.decode(q.lat)
    return out, q.codes, feats
