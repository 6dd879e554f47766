"""The domains in which a refiner may work: waveform <-> compressed frames, one row a token.

Each has the same three functions and knows which tokens belong to the clip:
  num_rows(F)                   rows for F tokens
  analysis(wav)                 f32[B, F * hop, C] -> rows f32[B, R, D], side (what synthesis needs)
  synthesis(rows, side, mask)   rows -> f32[B, F * hop, C]
  align(x)                      per-token features [B, F, E] -> per-row features [B, R, E']
Music's raw MDCT has a kurtosis of 1400; with |X|^.3 and one scale a bin it is 2.3, fit for a flow.
"""

import jax.numpy as jnp

from big_audio import config as C
from big_audio.dsp import mdct, stft
from big_audio.dsp.windows import stft_window


def overlap_add(spec, n_fft: int, hop: int, mask=None, sub: int = 1):
  """Least-squares inverse STFT that knows which frames belong to the clip.

  Args:
    spec: c64[B, F, C, n_fft // 2 + 1]; frame f is centred on the middle of hop f ("same" padding).
    n_fft, hop: samples.
    mask: bool[B, F / sub] or None; frames outside it count as absent, as beyond the clip's edges.
    sub: frames of one entry of the mask.

  Returns:
    f32[B, F * hop, C].
  """
  window = jnp.asarray(stft_window("hann", n_fft), jnp.float32)
  frames = jnp.fft.irfft(jnp.moveaxis(spec, 2, 1), n=n_fft, axis=-1) * window  # [B, C, F, n_fft]
  here = jnp.ones(spec.shape[:2]) if mask is None else jnp.repeat(mask, sub, axis=1)
  here = here.astype(frames.dtype)[:, None, :, None]
  left, length = (n_fft - hop) // 2, spec.shape[1] * hop
  wav = stft.overlap_add(frames * here, hop)[..., left : left + length]
  envelope = stft.overlap_add(window**2 * here, hop)[..., left : left + length]
  wav = jnp.moveaxis(wav / jnp.maximum(envelope, 1e-3), 1, 2)
  # What spills over the clip's ends must not be heard by whoever analyses the wave again.
  return wav if mask is None else wav * jnp.repeat(mask, sub * hop, axis=1)[..., None]


def straddle(x):
  """Per-token features [B, F, E] -> [B, F + 1, 2 E]: row f has those of tokens f - 1 and f.

  What a frame that covers both may know; there are zeros beyond the edges.
  """
  x = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
  return jnp.concatenate([x[:, :-1], x[:, 1:]], axis=-1)


class _STFT:
  """What the two STFT domains share."""

  def __init__(self, hop: int, channels: int, sub: int, power: float):
    self.hop, self.channels, self.sub, self.power = hop // sub, channels, sub, power
    self.n_fft = 4 * self.hop
    self.bins = self.n_fft // 2 + 1

  def num_rows(self, tokens: int) -> int:
    """One row a token."""
    return tokens

  def align(self, x):
    """Rows are tokens."""
    return x

  def _spec(self, wav):
    spec = stft.stft(wav, self.n_fft, self.hop, padding="same", pad_mode="constant")
    return jnp.moveaxis(spec, -1, -2)  # [B, F sub, C, K]

  def _rows(self, x):
    return x.reshape(x.shape[0], x.shape[1] // self.sub, -1)

  def _frames(self, rows, *shape):
    return rows.reshape(rows.shape[0], rows.shape[1] * self.sub, self.channels, *shape, self.bins)


class Magnitude(_STFT):
  """Compressed STFT magnitudes; the side information is the phase (the decoder's own)."""

  def __init__(self, hop: int, channels: int = 1, sub: int = 2, power: float = 0.3):
    super().__init__(hop, channels, sub, power)
    self.dim = sub * channels * self.bins

  def analysis(self, wav):
    """-> |X|^power [B, F, D], unit phases c64[B, F sub, C, K]."""
    spec = self._spec(wav)
    square = spec.real**2 + spec.imag**2
    rows = self._rows((square + 1e-10) ** (self.power / 2))
    return rows, spec / jnp.sqrt(square + 1e-10)

  def synthesis(self, rows, side, mask=None):
    """Magnitudes below zero count as zero."""
    x = jnp.maximum(self._frames(rows), 1e-4)
    return overlap_add(x ** (1 / self.power) * side, self.n_fft, self.hop, mask, self.sub)


class ComplexSTFT(_STFT):
  """STFT with compressed magnitude and its own phase, as real and imaginary part."""

  def __init__(self, hop: int, channels: int = 1, sub: int = 2, power: float = 0.3):
    super().__init__(hop, channels, sub, power)
    self.dim = 2 * sub * channels * self.bins

  def analysis(self, wav):
    """-> [B, F, D], no side information."""
    spec = self._spec(wav)
    a, b = stft.compress_pair(spec.real, spec.imag, self.power)
    return self._rows(jnp.stack([a, b], axis=-2)), ()

  def synthesis(self, rows, side, mask=None):
    """Exact inverse of `analysis` on consistent frames, least squares on others."""
    x = self._frames(rows, 2)
    a, b = stft.expand_pair(x[..., 0, :], x[..., 1, :], self.power)
    return overlap_add(a + 1j * b, self.n_fft, self.hop, mask, self.sub)


class MDCT:
  """Compressed MDCT frames of N = hop: row f covers tokens f - 1 and f, so there is one more."""

  def __init__(self, hop: int, channels: int = 1, sub: int = 1, power: float = 0.3):
    if sub != 1:
      raise ValueError(f"config.trainer.domain: MDCT rows have sub=1, got {sub}.")
    self.hop, self.channels, self.power = hop, channels, power
    self.dim = hop * channels

  def num_rows(self, tokens: int) -> int:
    """F + 1."""
    return tokens + 1

  def align(self, x):
    """Row f sees what tokens f - 1 and f know (zeros beyond the edges)."""
    return straddle(x)

  def analysis(self, wav):
    """-> [B, F + 1, D], no side information."""
    x = stft.compress(mdct.mdct(wav, self.hop), self.power)
    return x.reshape(*x.shape[:2], -1), ()

  def synthesis(self, rows, side, mask=None):
    """Exact inverse of `analysis`; silence outside the mask."""
    x = stft.expand(rows.reshape(*rows.shape[:2], self.hop, self.channels), self.power)
    wav = mdct.imdct(x, (rows.shape[1] - 1) * self.hop)
    return wav if mask is None else wav * jnp.repeat(mask, self.hop, axis=1)[..., None]


DOMAINS = {"mdct": MDCT, "stft": ComplexSTFT, "magnitude": Magnitude}


def build(name: str, **kw):
  """The domain of `config.trainer.domain`; raises ValueError with the nearest names."""
  return C.pick("config.trainer.domain", DOMAINS, name)(**kw)
