"""Log-mel filter banks after Kaldi: what AST and other AudioSet models are trained on."""

from typing import Any

import numpy as np

from big_audio.dsp.mel import mel_bank
from big_audio.dsp.namespace import check_positive, constant, namespace
from big_audio.dsp.stft import frame, num_frames
from big_audio.dsp.windows import stft_window

Array = Any

# Of AudioSet's log-mels, by which AST scales its input: (x - mean) / (2 std).
AUDIOSET_MEAN, AUDIOSET_STD = -4.2677393, 4.5689974
FMIN = 20.0  # Hz, lower edge of the first filter; the last ends at sr / 2
FLOOR = 2.0**-23  # least energy of a filter
PREEMPHASIS = 0.97
_ROWS = 128  # frames that numpy works on at a time, so that what it allocates stays in the cache


def fbank(wav: Array, sr: int = 16000, n_mels: int = 128, win: int = 400, hop: int = 160) -> Array:
  """Kaldi's log-mel filter bank as AST takes it (Gong et al. 2104.01778; compute-fbank-feats).

  Of each whole frame ("snip edges"): the mean is removed, pre-emphasis x[n] - .97 x[n-1] with
  x[-1] = x[0], a symmetric Hann window, the power spectrum of an FFT of the next power of two,
  triangles in mel of peak 1, the natural logarithm. No dither, no energy, no scaling by 2^15.

  Args:
    wav: f32|f64[..., T, 1] in [-1, 1] at sr Hz.
    sr: sampling rate in Hz.
    n_mels: number of filters M.
    win: samples of a frame, 25 ms.
    hop: samples from one frame to the next, 10 ms.

  Returns:
    [..., F, M], F = 1 + (T - win) // hop, values at or above log(2^-23) = -15.9.

  Raises:
    ValueError: several channels, less than a frame, or a size below one.
  """
  xp = namespace("fbank", wav)
  check_positive("fbank", sr=sr, n_mels=n_mels, win=win, hop=hop)
  if wav.ndim < 2 or wav.shape[-1] != 1:
    raise ValueError(
      f"fbank: expected mono [..., T, 1], got shape {tuple(wav.shape)}. Take the mean over "
      "channels, as in wav.mean(-1, keepdims=True)."
    )
  if num_frames(wav.shape[-2], win, hop, "valid") == 0:
    raise ValueError(
      f"fbank: {wav.shape[-2]} samples do not fill a frame of {win}. Append silence."
    )
  n_fft = 1 << (win - 1).bit_length()
  bank = mel_bank(sr, n_fft, n_mels, fmin=FMIN, scale="kaldi", norm="none")
  frames = frame(wav[..., 0], win, hop)  # [..., F, win]
  shape = frames.shape[:-1]
  frames = frames.reshape(-1, win)
  rows = _ROWS if xp is np else len(frames)
  power = [_power(xp, frames[i : i + rows], n_fft) for i in range(0, len(frames), rows)]
  mel = xp.matmul(xp.concatenate(power), constant(bank, wav))
  return xp.log(xp.maximum(mel, FLOOR)).reshape(*shape, n_mels)


def _power(xp, frames, n_fft):
  """[F, win] -> [F, n_fft // 2 + 1]."""
  # The window is zero at its first sample, so the frame may begin at the second: a shift leaves the
  # power as it is. Pre-emphasis of the mean is .03 of it.
  window = constant(stft_window("hann", frames.shape[-1], periodic=False), frames)[1:]
  mean = frames.mean(-1, keepdims=True)
  x = frames[:, 1:] - PREEMPHASIS * frames[:, :-1] - (1 - PREEMPHASIS) * mean
  spec = xp.fft.rfft(x * window, n=n_fft, axis=-1)
  return spec.real**2 + spec.imag**2
