"""Reconstruction losses on waves and their spectra, one number per example.

Every spectrum is taken with zeros beyond the edges and frames centred on multiples of a quarter of
the window (MDCT: half); a frame counts if its centre lies inside the mask. So an example padded to
a longer batch costs exactly what it costs alone. Gradients are finite at silence; in training they
flow into `pred` alone, `target` is data.

Powers are exp(p log x), because XLA's `pow` and its gradient take half of the time on a CPU.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from big_audio.dsp import mdct
from big_audio.dsp.mel import mel_bank
from big_audio.dsp.stft import windowed_frames

MEL_WINDOWS = (128, 256, 512, 1024, 2048)
MELS = (16, 32, 64, 80, 80)
STFT_WINDOWS = (128, 256, 512, 1024)
LOUDNESS_WINDOWS = (256,)
MULTI_SCALE_WINDOWS = (2048, 1024, 512, 256, 128, 64)
MDCT_WINDOWS = (128, 512, 2048)
WEIGHTS = {"wave": 12.0, "mel": 1.0, "stft": 1.0, "loudness": 2.0}
TERMS = (*WEIGHTS, "mdct")
_POWER_EPS = 1e-9  # of |X|^2 with a window of unit energy: 90 dB below a full-scale noise


def wave_l1(pred: jax.Array, target: jax.Array, mask: jax.Array | None = None) -> jax.Array:
  """Mean absolute difference of samples.

  Args:
    pred: f32[B, T, C].
    target: f32[B, T, C].
    mask: bool[B, T], true where there is signal; default everywhere.

  Returns:
    f32[B]; 0 for an example without signal.

  Raises:
    ValueError: shapes disagree.
  """
  _check("wave_l1", pred, target, mask)
  return _mean(jnp.mean(jnp.abs(pred - target), -1), mask)


def mel_l1(
  pred: jax.Array,
  target: jax.Array,
  sr: int,
  *,
  windows: Sequence[int] = MEL_WINDOWS,
  mels: Sequence[int] = MELS,
  floor: float = 1e-5,
  mask: jax.Array | None = None,
) -> jax.Array:
  """Multi-scale mel loss: mean over windows of |log10(mel + floor) - log10(mel' + floor)|.

  Args:
    pred: f32[B, T, C] in [-1, 1] at sr Hz.
    target: f32[B, T, C].
    sr: sampling rate in Hz.
    windows: STFT windows (Hann) in samples; the hop is a quarter.
    mels: filters for each window (Slaney scale and normalisation, on magnitudes).
    floor: added to the mel magnitudes, of a Hann window that sums to half its length.
    mask: bool[B, T].

  Returns:
    f32[B].

  Raises:
    ValueError: shapes or lengths disagree, or a window cannot resolve that many filters.
  """
  _check("mel_l1", pred, target, mask)
  if len(windows) != len(mels):
    raise ValueError(f"mel_l1: {len(windows)} windows but {len(mels)} numbers of mels.")
  x, y = spectra(pred, windows, mask), spectra(target, windows, mask)
  return _mel(x, y, sr, dict(zip(windows, mels, strict=True)), floor, mask)


def stft_l1(
  pred: jax.Array,
  target: jax.Array,
  *,
  windows: Sequence[int] = STFT_WINDOWS,
  power: float = 0.3,
  mask: jax.Array | None = None,
) -> jax.Array:
  """Multi-scale compressed magnitudes: mean over windows of ||X|^p - |X'|^p|.

  Windows have unit energy, so that all scales weigh alike: white noise of deviation s has
  magnitudes of about s in each.

  Args:
    pred: f32[B, T, C].
    target: f32[B, T, C].
    windows: STFT windows (Hann) in samples; the hop is a quarter.
    power: p.
    mask: bool[B, T].

  Returns:
    f32[B].

  Raises:
    ValueError: shapes disagree.
  """
  _check("stft_l1", pred, target, mask)
  x, y = spectra(pred, windows, mask), spectra(target, windows, mask)
  return _stft(x, y, windows, power, mask)


def multi_scale_spectral(
  pred: jax.Array,
  target: jax.Array,
  *,
  windows: Sequence[int] = MULTI_SCALE_WINDOWS,
  mask: jax.Array | None = None,
) -> jax.Array:
  """Multi-scale magnitudes (Engel et al. 2020, DDSP, eq. 4, linear part): mean of ||X| - |X'||.

  Plain Hann windows: long ones, whose magnitudes are larger, weigh more than in `stft_l1`.

  Args:
    pred: f32[B, T, C].
    target: f32[B, T, C].
    windows: STFT windows in samples; the hop is a quarter.
    mask: bool[B, T].

  Returns:
    f32[B].

  Raises:
    ValueError: shapes disagree.
  """
  _check("multi_scale_spectral", pred, target, mask)
  x, y = spectra(pred, windows, mask), spectra(target, windows, mask)
  total = 0.0
  for w in windows:
    plain = np.sqrt(3 * w / 8)  # what `spectra` divides by
    total += plain * _frame_mean(jnp.abs(jnp.sqrt(x[w]) - jnp.sqrt(y[w])), w // 4, mask)
  return total / len(windows)


def loudness_l1(
  pred: jax.Array,
  target: jax.Array,
  sr: int,
  *,
  windows: Sequence[int] = LOUDNESS_WINDOWS,
  bands: int = 24,
  power: float = 0.23,
  excess: float = 2.0,
  mask: jax.Array | None = None,
) -> jax.Array:
  """Loudness per band: |N - N'| with N = (band power)^0.23 (Zwicker), excess weighted more.

  What a codec adds is heard as a separate stream, what it leaves out is not (the asymmetry of
  PESQ, ITU-T P.862, 10.2.10).

  Args:
    pred: f32[B, T, C] in [-1, 1] at sr Hz.
    target: f32[B, T, C].
    sr: sampling rate in Hz.
    windows: STFT windows (Hann, unit energy) in samples; the hop is a quarter.
    bands: mel filters of peak 1 in each window.
    power: exponent of loudness.
    excess: weight of what pred has more than target; the rest has weight 1.
    mask: bool[B, T].

  Returns:
    f32[B].

  Raises:
    ValueError: shapes disagree, or a window cannot resolve that many bands.
  """
  _check("loudness_l1", pred, target, mask)
  x, y = spectra(pred, windows, mask), spectra(target, windows, mask)
  return _loudness(x, y, sr, windows, bands, power, excess, mask)


def mdct_l1(
  pred: jax.Array,
  target: jax.Array,
  *,
  windows: Sequence[int] = MDCT_WINDOWS,
  power: float = 0.3,
  mask: jax.Array | None = None,
) -> jax.Array:
  """Multi-scale compressed MDCT: mean over windows of |sign(X)|X|^p - sign(X')|X'|^p|.

  Unlike magnitudes, coefficients tell phases apart. The transform is orthonormal: noise of
  deviation s has coefficients of deviation s at all scales. Below 90 dB under full scale the power
  law turns into a line, whose slope at zero is 10^(4.5 (1 - p)).

  Args:
    pred: f32[B, T, C].
    target: f32[B, T, C].
    windows: 2N samples each (sine), multiples of 4; the hop is N.
    power: p.
    mask: bool[B, T].

  Returns:
    f32[B].

  Raises:
    ValueError: shapes disagree, or an odd hop.
  """
  _check("mdct_l1", pred, target, mask)
  if mask is not None:
    pred, target = (jnp.where(mask[..., None], s, 0) for s in (pred, target))
  total = 0.0
  for w in windows:
    a, b = (_compressed_mdct(s.astype(jnp.float32), w, power) for s in (pred, target))
    total += _frame_mean(jnp.abs(a - b), w // 2, mask)
  return total / len(windows)


def _compressed_mdct(wav, window, power):
  if window % 4:
    raise ValueError(f"mdct_l1: expected windows that are multiples of 4, got {window}.")
  hop = window // 2
  # Frame f is centred on sample f hop; one behind the end, of a rest of a hop, is left out.
  x = mdct.mdct(wav, hop)[:, : wav.shape[1] // hop + 1]
  x = jnp.moveaxis(x, -1, 1)  # [B, C, F, N]
  return x * jnp.exp((power - 1) / 2 * jnp.log(x**2 + _POWER_EPS))


def reconstruction(
  pred: jax.Array,
  target: jax.Array,
  sr: int,
  *,
  weights: Mapping[str, float] = WEIGHTS,
  mel_windows: Sequence[int] = MEL_WINDOWS,
  mels: Sequence[int] = MELS,
  stft_windows: Sequence[int] = STFT_WINDOWS,
  loudness_windows: Sequence[int] = LOUDNESS_WINDOWS,
  mdct_windows: Sequence[int] = MDCT_WINDOWS,
  bands: int = 24,
  floor: float = 1e-5,
  power: float = 0.3,
  excess: float = 2.0,
  mask: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Weighted sum of the losses above; each spectrum is computed once.

  Args:
    pred: f32[B, T, C] in [-1, 1] at sr Hz.
    target: f32[B, T, C].
    sr: sampling rate in Hz.
    weights: of `TERMS`; a loss that is absent, or has the weight 0, is not computed.
    mel_windows: see `mel_l1`.
    mels: see `mel_l1`.
    stft_windows: see `stft_l1`.
    loudness_windows: see `loudness_l1`.
    mdct_windows: see `mdct_l1`.
    bands: see `loudness_l1`.
    floor: see `mel_l1`.
    power: see `stft_l1` and `mdct_l1`.
    excess: see `loudness_l1`.
    mask: bool[B, T].

  Returns:
    total f32[B], and the unweighted parts {name: f32[B]} that were computed.

  Raises:
    ValueError: an unknown weight, one below 0, or none above; see the parts for the rest.
  """
  _check("reconstruction", pred, target, mask)
  # In one order, whatever that of a config: sums are then equal to the bit.
  names = [name for name in TERMS if weights.get(name, 0)]
  if set(weights) - set(TERMS) or not names or min(weights.values()) < 0:
    raise ValueError(
      f"reconstruction: expected weights >= 0 for some of {sorted(TERMS)}, one of them above 0, "
      f"got {dict(weights)}."
    )
  if len(mel_windows) != len(mels):
    raise ValueError(f"reconstruction: {len(mel_windows)} mel_windows but {len(mels)} mels.")
  used = {"mel": mel_windows, "stft": stft_windows, "loudness": loudness_windows}
  windows = sorted({w for name in names if name in used for w in used[name]})
  x, y = spectra(pred, windows, mask), spectra(target, windows, mask)
  terms = {
    "wave": lambda: wave_l1(pred, target, mask),
    "mel": lambda: _mel(x, y, sr, dict(zip(mel_windows, mels, strict=True)), floor, mask),
    "stft": lambda: _stft(x, y, stft_windows, power, mask),
    "loudness": lambda: _loudness(x, y, sr, loudness_windows, bands, 0.23, excess, mask),
    "mdct": lambda: mdct_l1(pred, target, windows=mdct_windows, power=power, mask=mask),
  }
  parts = {name: terms[name]() for name in names}
  return sum(weights[name] * parts[name] for name in names), parts


def spectra(
  wav: jax.Array, windows: Sequence[int], mask: jax.Array | None = None
) -> dict[int, jax.Array]:
  """Power spectra {window: f32[B, C, F, K]} with unit-energy Hann windows, F = 1 + T // hop."""
  if mask is not None:
    wav = jnp.where(mask[..., None], wav, 0)
  wav = wav.astype(jnp.float32)
  out = {}
  for w in windows:
    if w % 4:
      raise ValueError(f"spectra: expected windows that are multiples of 4, got {w}.")
    frames = windowed_frames(wav, w, w // 4, pad_mode="constant")
    spec = jnp.fft.rfft(frames * np.float32(np.sqrt(8 / 3 / w)))  # a Hann window has energy 3w/8
    out[w] = spec.real**2 + spec.imag**2 + _POWER_EPS
  return out


def _mel(x, y, sr, mels, floor, mask):
  total = 0.0
  for w, m in mels.items():
    # Back to magnitudes of a plain Hann window, in which `floor` is given.
    bank = _bank("mel_l1", sr, w, m, "slaney") * np.sqrt(3 * w / 8)
    log = [jnp.log(jnp.sqrt(s[w]) @ bank.astype(np.float32) + floor) for s in (x, y)]
    total += _frame_mean(jnp.abs(log[0] - log[1]), w // 4, mask)
  return total / (np.log(10) * len(mels))


def _stft(x, y, windows, power, mask):
  total = 0.0
  for w in windows:
    a, b = (jnp.exp(power / 2 * jnp.log(s[w])) for s in (x, y))
    total += _frame_mean(jnp.abs(a - b), w // 4, mask)
  return total / len(windows)


def _loudness(x, y, sr, windows, bands, power, excess, mask):
  total = 0.0
  for w in windows:
    bank = _bank("loudness_l1", sr, w, bands, "none").astype(np.float32)
    a, b = (jnp.exp(power * jnp.log(s[w] @ bank)) for s in (x, y))
    diff = a - b
    total += _frame_mean(jnp.maximum(excess * diff, -diff), w // 4, mask)
  return total / len(windows)


def _bank(where: str, sr: int, window: int, n_mels: int, norm: str) -> np.ndarray:
  bank = mel_bank(sr, window, n_mels, norm=norm)
  if np.all(bank.sum(0) > 0):
    return bank
  fits = max(m for m in range(1, n_mels) if np.all(mel_bank(sr, window, m).sum(0) > 0))
  raise ValueError(
    f"{where}: a window of {window} samples at {sr} Hz leaves some of {n_mels} mel filters without "
    f"a bin. Use at most {fits}, or a longer window."
  )


def _frame_mean(value: jax.Array, hop: int, mask: jax.Array | None) -> jax.Array:
  """[B, C, F, ...] -> [B], over the frames whose centre is inside the mask."""
  value = jnp.mean(value, (1, 3))  # [B,F]
  if mask is None:
    return jnp.mean(value, 1)
  # Frame f is centred between samples f hop - 1 and f hop: the frame at the end still counts.
  centre = np.maximum(np.arange(value.shape[1]) * hop - 1, 0)
  return _mean(value, mask[:, centre])


def _mean(value: jax.Array, mask: jax.Array | None) -> jax.Array:
  if mask is None:
    return jnp.mean(value, 1)
  weight = mask.astype(jnp.float32)
  return jnp.sum(jnp.where(mask, value, 0), 1) / jnp.maximum(jnp.sum(weight, 1), 1)


def _check(where: str, pred: jax.Array, target: jax.Array, mask: jax.Array | None) -> None:
  if pred.ndim != 3 or pred.shape != target.shape:
    raise ValueError(
      f"{where}: expected pred and target [B, T, C] alike, got {pred.shape} and {target.shape}."
    )
  if mask is not None and mask.shape != pred.shape[:2]:
    raise ValueError(f"{where}: expected mask {pred.shape[:2]}, got {mask.shape}.")
