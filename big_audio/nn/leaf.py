"""LEAF, a learnable front end of waves (Zeghidour et al. 2101.08596): [B, T, C] -> [B, F, M, C].

Complex Gabor filters that start on a mel scale, their squared modulus, a Gaussian average that
moves by `hop` samples, and compression by PCEN or a logarithm. Its advantage over fixed mel filters
is disputed (Schlüter and Gutenbrunner 2207.05508).

Bounds of parameters are those of the published implementation, applied in the forward pass; the
gradient goes through them (straight-through), or a parameter at its bound could never return.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from big_audio.dsp.mel import hz_to_mel, mel_to_hz

_HALF = np.sqrt(2 * np.log(2))  # deviations from a Gaussian's peak to its half


def gabor_init(
  filters: int, sr: float, fmin: float, fmax: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Gabor filters like `filters` triangles equally spaced in mel (HTK).

  Magnitudes are half as large where the root of the triangle is (the triangles are of power): on
  3/4 of its base.

  Args:
    filters: M.
    sr: Hz.
    fmin, fmax: ends of the first and the last triangle, Hz.

  Returns:
    Centre frequencies in radians a sample, deviations of the envelopes in samples, and the
    half-magnitude bandwidths in Hz; each f64[M].

  Raises:
    ValueError: not 0 <= fmin < fmax <= sr / 2.
  """
  if not 0 <= fmin < fmax <= sr / 2:
    raise ValueError(
      f"leaf: expected 0 <= fmin < fmax <= sr / 2 = {sr / 2:g} Hz, got fmin={fmin:g}, "
      f"fmax={fmax:g}."
    )
  edges = np.linspace(hz_to_mel(fmin, "htk"), hz_to_mel(fmax, "htk"), filters + 2)
  edges = mel_to_hz(edges, "htk")
  band = 0.75 * (edges[2:] - edges[:-2])
  return 2 * np.pi * edges[1:-1] / sr, _HALF * sr / (np.pi * band), band


def gabor(centre: jax.Array, width: jax.Array, win: int) -> tuple[jax.Array, jax.Array]:
  """Real and imaginary parts of exp(i centre t - t^2 / (2 width^2)) / (sqrt(2 pi) width).

  Args:
    centre: f32[M], radians a sample.
    width: f32[M], samples.
    win: taps, odd; t = 0 in the middle.

  Returns:
    Two f32[win, M]; the response at the centre frequency is 1 where the envelope fits.
  """
  t = np.arange(win, dtype=np.float32)[:, None] - win // 2
  envelope = jnp.exp(-0.5 * (t / width) ** 2) / (np.sqrt(2 * np.pi) * width)
  return envelope * jnp.cos(t * centre), envelope * jnp.sin(t * centre)


def pcen(x, alpha, delta, root, smooth, floor: float = 1e-6) -> jax.Array:
  """Per-channel energy normalisation (Wang et al. 1607.05666, eq. 1 and 2).

  m_0 = x_0, m_f = (1 - smooth) m_{f-1} + smooth x_f,
  y = (x / (floor + m)^alpha + delta)^(1 / root) - delta^(1 / root).

  Args:
    x: f32[B, F, M] >= 0.
    alpha, delta, root, smooth: f32[M] or numbers.
    floor: keeps silence from being amplified.

  Returns:
    f32[B, F, M].
  """
  smooth = jnp.broadcast_to(smooth, x.shape)
  keep = (1 - smooth).at[:, 0].set(0)
  new = (smooth * x).at[:, 0].set(x[:, 0])
  join = lambda a, b: (a[0] * b[0], a[1] * b[0] + b[1])
  _, m = jax.lax.associative_scan(join, (keep, new), axis=1)
  return (x / (floor + m) ** alpha + delta) ** (1 / root) - delta ** (1 / root)


class Leaf(nn.Module):
  """The front end.

  Attributes:
    sr: Hz.
    filters: M.
    win: taps of the filters and of the average, odd; None: 25 ms.
    hop: samples between frames; None: 10 ms.
    fmin, fmax: Hz, ends of the initial filters; fmax=None: .975 of sr / 2.
    compress: "pcen" or "log".
    floor: least energy that counts.
  """

  sr: int
  filters: int = 40
  win: int | None = None
  hop: int | None = None
  fmin: float = 60.0
  fmax: float | None = None
  compress: str = "pcen"
  floor: float = 1e-6

  @nn.compact
  def __call__(self, wav: jax.Array) -> jax.Array:
    """wav f32[B, T, C] in [-1, 1] at sr -> f32[B, ceil(T / hop), M, C]; low frequencies first.

    Frame f is centred at sample f * hop; zeros stand around the wave. A sine of amplitude 1 has an
    energy of 1/4. "log" maps energies from the floor to 1 to [-1, 1].

    Raises:
      ValueError: another rank, an even win, an unknown compression, or frequencies out of order.
    """
    if wav.ndim != 3:
      raise ValueError(f"leaf: expected waves [B, T, C], got shape {wav.shape}.")
    win = int(0.025 * self.sr) // 2 * 2 + 1 if self.win is None else self.win
    hop = round(0.01 * self.sr) if self.hop is None else self.hop
    if win % 2 == 0 or win < 3 or hop < 1:
      raise ValueError(f"leaf: expected an odd win >= 3 and a hop >= 1, got {win} and {hop}.")
    if self.compress not in ("pcen", "log"):
      raise ValueError(f'leaf: expected compress to be "pcen" or "log", got {self.compress!r}.')
    batch, samples, channels = wav.shape
    x = jnp.moveaxis(wav, 2, 1).reshape(batch * channels, samples, 1)
    x = self._pool(self._filter(x, win), win, hop)  # [B C, F, M]
    if self.compress == "pcen":
      at = functools.partial(self._bounded, shape=(self.filters,))
      x = pcen(
        x,
        at("alpha", 0.96, -np.inf, 1.0),
        at("delta", 2.0, 1e-3, np.inf),  # its root has no derivative at zero
        at("root", 2.0, 1.0, np.inf),
        at("smooth", 0.04, 0.0, 1.0),
        self.floor,
      )
    else:
      x = 1 - 2 * jnp.log(jnp.maximum(x, self.floor)) / np.log(self.floor)
    return jnp.moveaxis(x.reshape(batch, channels, *x.shape[1:]), 1, 3)

  def _bounded(self, name, start, lo, hi, shape):
    """A parameter that is clipped going forward only."""
    p = self.param(name, lambda _: jnp.broadcast_to(jnp.asarray(start, jnp.float32), shape))
    return p + jax.lax.stop_gradient(jnp.clip(p, lo, hi) - p)

  def _filter(self, x, win):
    """f32[N, T, 1] -> energies f32[N, T, M] of the complex filters' outputs."""
    fmax = 0.975 * self.sr / 2 if self.fmax is None else self.fmax
    centre, width, _ = gabor_init(self.filters, self.sr, self.fmin, fmax)
    at = functools.partial(self._bounded, shape=(self.filters,))
    centre = at("centre", centre, 0.0, np.pi)
    # A bandwidth at half magnitude of pi / 2 down to 2 pi / win radians a sample.
    width = at("width", width, 4 * _HALF / np.pi, win * _HALF / np.pi)
    kernel = jnp.concatenate(gabor(centre, width, win), axis=1)[:, None]  # [win, 1, 2 M]
    y = jax.lax.conv_general_dilated(
      x, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC")
    )
    return jnp.sum(jnp.square(y.reshape(*y.shape[:2], 2, self.filters)), axis=2)

  def _pool(self, x, win, hop):
    """f32[N, T, M] -> f32[N, ceil(T / hop), M]: Gaussian means around every `hop`-th sample."""
    t = np.linspace(-1, 1, win, dtype=np.float32)[:, None]
    width = self._bounded("pool", 0.4, 2 / win, 0.5, (self.filters,))
    w = jnp.exp(-0.5 * (t / width) ** 2)
    w = w / jnp.sum(w, axis=0)  # [win, M]
    # Sums over blocks of `hop` samples: no grouped convolution, which is slow on a CPU.
    n, samples, _ = x.shape
    frames, parts = -(-samples // hop), -(-win // hop)
    w = jnp.pad(w, ((0, parts * hop - win), (0, 0))).reshape(parts, hop, -1)
    total = (frames - 1 + parts) * hop
    x = jnp.pad(x, ((0, 0), (win // 2, max(0, total - samples - win // 2)), (0, 0)))[:, :total]
    x = x.reshape(n, frames - 1 + parts, hop, -1)
    return sum(jnp.einsum("nfhm,hm->nfm", x[:, j : j + frames], w[j]) for j in range(parts))
