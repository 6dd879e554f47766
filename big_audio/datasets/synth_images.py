"""Sounds -> pictures of VIMH data sets: dB spectrograms in 8 bits, and planes of their envelopes.

A picture's rows are frequencies (row 0 the lowest), its columns frames. Everything is done for a
batch at once and for each sound by itself.
"""

import functools
from dataclasses import dataclass

import numpy as np

from big_audio.dsp.namespace import check_choice, check_positive
from big_audio.dsp.stft import frame, num_frames
from big_audio.dsp.windows import stft_window

LONGEST = 2**16  # samples of a frame, or from one to the next
FLOOR = 1e-10  # of magnitudes: -200 dB
TYPES = ("stft", "mel")
WINDOWS = {"rectangular": "boxcar", "hann": "hann", "hamming": "hamming", "blackman": "blackman"}
TEMPORAL_BOX, SPECTRAL_BOX = 5, 7  # columns and rows over which envelopes are averaged


@dataclass(frozen=True)
class Spectrogram:
  """How a sound becomes a picture.

  Attributes:
    type: "stft" (bins 1..H, without the constant) or "mel" (H bands).
    n_fft: samples of a frame.
    n_window: samples of the window, which is symmetric and has zeros around it up to n_fft.
    hop: samples from one frame to the next; the first starts at sample 0.
    window: a key of WINDOWS.
    freq_min: lowest frequency of the mel bank, Hz.
    freq_max_ratio: its highest by sr/2.
  """

  type: str = "stft"
  n_fft: int = 80
  n_window: int = 80
  hop: int = 80
  window: str = "rectangular"
  freq_min: float = 40.0
  freq_max_ratio: float = 0.9

  def check(self, where: str, height: int, width: int, total: int, sr: float) -> None:
    """Raises ValueError unless sounds of `total` samples fill pictures of height x width."""
    for key in ("freq_min", "freq_max_ratio"):
      value = getattr(self, key)
      if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:
        raise ValueError(f"{where}: {key}={value!r:.60}: expected a number.")
    check_choice(f"{where}: type", self.type, TYPES)
    check_choice(f"{where}: window", self.window, WINDOWS)
    check_positive(where, n_fft=self.n_fft, n_window=self.n_window, hop=self.hop, height=height,
                   width=width)  # fmt: skip
    for key in ("n_fft", "hop"):
      if getattr(self, key) > LONGEST:
        raise ValueError(f"{where}: {key}={getattr(self, key)!r:.20}: expected {LONGEST} or less.")
    if self.n_window > self.n_fft:
      raise ValueError(f"{where}: n_window={self.n_window} exceeds n_fft={self.n_fft}.")
    bins = self.n_fft // 2
    if self.type == "stft" and height > bins:
      raise ValueError(
        f"{where}: height={height}, but n_fft={self.n_fft} has {bins} bins above the constant. "
        f"Use height={bins} or less, or n_fft={2 * height} or more."
      )
    frames = num_frames(max(total, self.n_fft), self.n_fft, self.hop, "valid")
    if width > frames:
      raise ValueError(
        f"{where}: width={width}, but {total} samples ({total / sr:g} s) have {frames} frames with "
        f"n_fft={self.n_fft}, hop={self.hop}. Use width={frames} or less, or "
        f"{self.samples(width) / sr:g} s of sound."
      )
    if self.type == "mel":
      if not 0 <= self.freq_min < self.freq_max_ratio * sr / 2 <= sr / 2:
        raise ValueError(
          f"{where}: expected 0 <= freq_min < freq_max_ratio sr/2 <= sr/2 = {sr / 2:g} Hz, got "
          f"{self.freq_min:g} and {self.freq_max_ratio:g} sr/2."
        )
      if height > self.n_fft:
        raise ValueError(f"{where}: {height} mel bands of n_fft={self.n_fft}: too many.")
      empty = np.nonzero(~np.isfinite(mel_bank(self, height, sr)).all(axis=0))[0]
      if len(empty):
        raise ValueError(
          f"{where}: band {empty[0]} of {height} mel bands lies between two bins of "
          f"n_fft={self.n_fft}. Use a larger n_fft or fewer bands."
        )

  def samples(self, width: int) -> int:
    """Samples that the first `width` frames cover."""
    return self.n_fft + (width - 1) * self.hop


@functools.lru_cache(maxsize=16)
def mel_bank(spec: Spectrogram, bands: int, sr: float) -> np.ndarray:
  """Triangles at equal distances on the scale 1127 ln(1 + f/700), linear in fractional bins.

  Returns:
    f64[bins, bands], bins up to the highest frequency; each band sums to 1 (nan if no bin lies in
    it).
  """
  top = spec.freq_max_ratio * sr / 2
  mels = np.linspace(*(1127 * np.log1p(np.array([spec.freq_min, top]) / 700)), bands + 2)
  peaks = 700 * np.expm1(mels / 1127) * spec.n_fft / sr
  bins = min(spec.n_fft // 2 + 1, int(np.ceil(top * spec.n_fft / sr)))
  x, left, centre, right = np.arange(bins)[:, None], peaks[:-2], peaks[1:-1], peaks[2:]
  bank = np.maximum(np.minimum((x - left) / (centre - left), (x - right) / (centre - right)), 0)
  with np.errstate(invalid="ignore"):
    bank = bank / bank.sum(axis=0)
  bank.setflags(write=False)
  return bank


def decibels(wav: np.ndarray, spec: Spectrogram, height: int, width: int, sr: float) -> np.ndarray:
  """20 log10 of magnitudes |rfft| / sqrt(n_fft), at least FLOOR.

  Args:
    wav: f32|f64[B,T]; zeros follow if it is shorter than a frame. In a sound that goes on, the
      first spec.samples(width) samples are enough.

  Returns:
    f[B,H,W], the dtype of wav.

  Raises:
    ValueError: too few frames or bins for the picture.
  """
  spec.check("synth_images", height, width, wav.shape[1], sr)
  if wav.shape[1] < spec.n_fft:
    wav = np.pad(wav, ((0, 0), (0, spec.n_fft - wav.shape[1])))
  window = stft_window(WINDOWS[spec.window], spec.n_window, periodic=False)
  before = (spec.n_fft - spec.n_window) // 2
  window = np.pad(window, (before, spec.n_fft - spec.n_window - before)).astype(wav.dtype)
  frames = frame(wav, spec.n_fft, spec.hop)[:, :width]  # [B,W,n_fft]
  root = np.sqrt(spec.n_fft).astype(wav.dtype)
  mags = np.abs(np.fft.rfft(frames * window, axis=-1)) / root
  if spec.type == "mel":
    bank = mel_bank(spec, height, sr).astype(wav.dtype)
    mags = np.matmul(mags[..., : len(bank)], bank)
  else:
    mags = mags[..., 1 : height + 1]
  return (20 * np.log10(np.maximum(mags, np.asarray(FLOOR, wav.dtype)))).swapaxes(1, 2)


def to_bytes(db: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """f[B,...] -> (u8 of the same shape, f32[B,2] lowest and highest value of each item).

  255 (x - lo) / (hi - lo), rounded, a half to the even; what is constant becomes 0.
  """
  axes = tuple(range(1, db.ndim))
  lo, hi = db.min(axis=axes, keepdims=True), db.max(axis=axes, keepdims=True)
  out = np.round((db - lo) / np.where(hi > lo, hi - lo, 1) * 255).astype(np.uint8)
  return out, np.stack([lo.reshape(-1), hi.reshape(-1)], axis=1).astype(np.float32)


def envelopes(
  images: np.ndarray,
  scale: np.ndarray,
  *,
  temporal: bool,
  spectral: bool,
  normalize: bool = False,
  joint_scaling: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
  """Planes of 8-bit pictures: the picture, its course over time, its course over frequency.

  Args:
    images: u8[B,H,W].
    scale: f32[B,2], dB range of each picture.
    temporal: a plane of the sums of columns, averaged over 5 neighbours (zeros beyond the edges),
      the same in all rows.
    spectral: a plane of the means of rows, averaged over 7, the same in all columns.
    normalize: divide the picture by both courses (whichever planes are asked for).
    joint_scaling: as NSMT scales: one range for all planes of an item, cut to 8 bits instead of
      rounded, and that range in place of the dB range. The sums are so much larger than the rest
      that they leave the picture a dozen levels. Otherwise each plane has its own range, and the
      dB range stays.

  Returns:
    (u8[B,C,H,W], f32[B,2]).
  """
  shape = images.shape
  x = images.astype(np.float32)
  course = _box(x.sum(axis=1), TEMPORAL_BOX)[:, None, :]
  profile = _box(x.mean(axis=2), SPECTRAL_BOX)[:, :, None]
  if normalize:
    tiny = np.float32(1e-10)
    x = x / (course + tiny) / (profile + tiny)
  wanted = [x] + [course] * temporal + [profile] * spectral
  planes = np.stack([np.broadcast_to(p, shape) for p in wanted], axis=1)
  if not joint_scaling:
    flat = planes.reshape(-1, *shape[1:])
    return to_bytes(flat)[0].reshape(planes.shape), scale
  lo, hi = (f(planes, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
  share = (planes - lo) / np.where(hi > lo, hi - lo, 1)
  out = np.where(hi > lo, share * np.float32(255), np.float32(128)).astype(np.uint8)
  return out, np.stack([lo.reshape(-1), hi.reshape(-1)], axis=1).astype(np.float32)


def _box(x, size):
  """Running mean of f32[B,N] with zeros beyond the edges; what is shorter than the box stays."""
  if x.shape[1] < size:
    return x
  padded = np.pad(x, ((0, 0), (size // 2, size // 2)))
  weight = np.float32(1 / size)
  return sum(padded[:, i : i + x.shape[1]] * weight for i in range(size))
