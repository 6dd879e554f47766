"""MDCT and inverse of a batch of music-length clips: ours, a matrix product, scipy, torch."""

import importlib.util

import jax
import numpy as np
import scipy.fft

from big_audio.dsp import mdct as M
from big_audio.dsp.windows import mdct_window
from big_audio.tools import timing

BATCH, SECS, SR = 8, 10, 44100


def run(rounds: int) -> list[timing.Row]:
  """Forward and inverse at N = 1024, 128 and 64; every candidate is checked against ours first."""
  rows = []
  for hop in (1024, 128, 64):
    rows += _run(hop, rounds)
  return rows


def _run(hop: int, rounds: int) -> list[timing.Row]:
  length = SECS * SR
  wav = np.random.default_rng(0).standard_normal((BATCH, length, 1)).astype(np.float32)
  coef = M.mdct(wav, hop)
  wav_dev, coef_dev = jax.device_put(wav), jax.device_put(coef)
  ours = {
    method: (
      jax.jit(lambda x, method=method: M.mdct(x, hop, method=method)),
      jax.jit(lambda x, method=method: M.imdct(x, length, method=method)),
    )
    for method in ("fft", "matmul")
  }
  forward = {f"ours, {m}": (lambda f=f: f(wav_dev)) for m, (f, _) in ours.items()}
  inverse = {f"ours, {m}": (lambda g=g: g(coef_dev)) for m, (_, g) in ours.items()}
  forward["scipy DCT-IV, numpy fold"] = lambda: _scipy_mdct(wav, hop)
  inverse["scipy DCT-IV, numpy fold"] = lambda: _scipy_imdct(coef, length)
  if importlib.util.find_spec("torch"):
    forward["torch"], inverse["torch"] = _torch(wav, coef, length)
  else:
    forward["torch"] = inverse["torch"] = "torch is not installed"
  for want, candidates in ((coef, forward), (wav, inverse)):
    for name, fn in candidates.items():
      if callable(fn) and not np.allclose(np.asarray(fn()), want, atol=1e-3):
        raise ValueError(f"bench mdct: {name!r} computes something else than big_audio.dsp.mdct.")
  what = f"{BATCH} x {SECS} s at {SR} Hz, N={hop}"
  rows = timing.interleaved(forward, rounds, group=f"MDCT, {what}")
  return rows + timing.interleaved(inverse, rounds, group=f"inverse, {what}")


def _scipy_mdct(wav: np.ndarray, hop: int) -> np.ndarray:
  frames, h = M.num_frames(wav.shape[1], hop), hop // 2
  x = np.pad(wav[..., 0], ((0, 0), (hop, frames * hop - wav.shape[1])))
  x = x.reshape(len(x), frames + 1, hop)
  w = mdct_window("sine", hop).astype(np.float32)
  p, q = x[:, :-1] * w[:hop], x[:, 1:] * w[hop:]
  u = np.concatenate(
    [-q[..., h - 1 :: -1] - q[..., h:], p[..., :h] - p[..., : h - 1 : -1]], axis=-1
  )
  return scipy.fft.dct(u, type=4, norm="ortho")[..., None]


def _scipy_imdct(coef: np.ndarray, length: int) -> np.ndarray:
  hop = coef.shape[-2]
  h = hop // 2
  u = scipy.fft.dct(coef[..., 0], type=4, norm="ortho")
  w = mdct_window("sine", hop).astype(np.float32)
  u1, u2 = u[:, :-1, :h], u[:, 1:, h:]
  out = np.empty((len(u), u.shape[1] - 1, hop), np.float32)
  out[..., :h] = u2 * w[:h] - u1[..., ::-1] * w[hop : hop + h]
  out[..., h:] = -u2[..., ::-1] * w[h:hop] - u1 * w[hop + h :]
  return out.reshape(len(u), -1)[:, :length, None]


def _torch(wav: np.ndarray, coef: np.ndarray, length: int):
  import torch

  hop = coef.shape[-2]
  h = hop // 2
  frames = coef.shape[1]
  w = torch.from_numpy(mdct_window("sine", hop).astype(np.float32))
  twiddle = torch.from_numpy(M.dct4_twiddle(hop).astype(np.complex64))
  x = torch.from_numpy(wav[..., 0])
  c = torch.from_numpy(coef[..., 0])

  def dct4(u):
    z = torch.complex(u[..., 0::2], u.flip(-1)[..., 0::2]) * twiddle
    z = torch.fft.fft(z) * twiddle
    return torch.stack([z.real, -z.imag.flip(-1)], -1).reshape(u.shape)

  def forward():
    blocks = torch.nn.functional.pad(x, (hop, frames * hop - length)).reshape(BATCH, -1, hop)
    p, q = blocks[:, :-1] * w[:hop], blocks[:, 1:] * w[hop:]
    u = torch.cat([-q[..., :h].flip(-1) - q[..., h:], p[..., :h] - p[..., h:].flip(-1)], -1)
    return dct4(u)[..., None].numpy()

  def inverse():
    u = dct4(c)
    u1, u2 = u[:, :-1, :h], u[:, 1:, h:]
    left = u2 * w[:h] - u1.flip(-1) * w[hop : hop + h]
    right = -u2.flip(-1) * w[h:hop] - u1 * w[hop + h :]
    return torch.cat([left, right], -1).reshape(BATCH, -1)[:, :length, None].numpy()

  return forward, inverse
