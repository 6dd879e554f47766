"""Data as tokens [B, F, D], chosen by name: audio by MDCT or patches, images by patches or DCT.

Each has the same functions and an exact inverse:
  key                       what it is for: "wav" f32[B, T, C] or "image" f32[B, H, W, C]
  shape(item)               (F, D) of the tokens of items of that shape (without B)
  analysis(x)               x -> tokens f32[B, F, D]
  synthesis(tokens, item)   tokens -> x f32[B, *item]
  mask(samples)             bool[B, T] -> bool[B, F] (audio)
All raise ValueError for shapes that do not divide.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from big_audio import config as C
from big_audio.dsp import mdct, stft


def dct_matrix(n: int) -> np.ndarray:
  """float64[n, n] of the orthonormal DCT-II: y = M @ x."""
  k, i = np.arange(n)[:, None], np.arange(n)
  m = np.sqrt(2 / n) * np.cos(np.pi / n * (i + 0.5) * k)
  m[0] /= np.sqrt(2)
  return m


def _check_rank(name, kind, item, rank):
  if len(item) != rank:
    raise ValueError(f"tokens={name}: expected {kind}, got items of shape {tuple(item)}.")


class MDCT:
  """Compressed MDCT frames sign(X)|X|^power of N = hop: F = ceil(T / N) + 1, D = N C.

  Raw MDCT of music has a kurtosis of 1400; with power .3 and one scale a bin it is 2.3.
  """

  key = "wav"

  def __init__(self, hop: int = 160, power: float = 0.3):
    self.hop, self.power = hop, power

  def shape(self, item: Sequence[int]) -> tuple[int, int]:
    """(ceil(T / hop) + 1, hop C) for item (T, C)."""
    _check_rank("mdct", "wav [T, C]", item, 2)
    return mdct.num_frames(item[0], self.hop), self.hop * item[1]

  def analysis(self, x):
    """f32[B, T, C] -> [B, F, hop C]."""
    f, d = self.shape(x.shape[1:])
    return stft.compress(mdct.mdct(x, self.hop), self.power).reshape(-1, f, d)

  def synthesis(self, tokens, item):
    """[B, F, hop C] -> f32[B, T, C] for item (T, C)."""
    f, _ = self.shape(item)
    x = stft.expand(tokens.reshape(-1, f, self.hop, item[1]), self.power)
    return mdct.imdct(x, item[0])

  def mask(self, samples):
    """Frame f covers blocks f - 1 and f of the samples."""
    blocks = -(-samples.shape[1] // self.hop)
    x = jnp.pad(samples, ((0, 0), (self.hop, (blocks + 1) * self.hop - samples.shape[1])))
    x = jnp.any(x.reshape(x.shape[0], -1, self.hop), axis=2)
    return x[:, :-1] | x[:, 1:]


class Reshape:
  """Patches of P samples: F = T / P, D = P C."""

  key = "wav"

  def __init__(self, patch: int = 128):
    self.patch = patch

  def shape(self, item: Sequence[int]) -> tuple[int, int]:
    """(T / patch, patch C) for item (T, C)."""
    _check_rank("reshape", "wav [T, C]", item, 2)
    t, p = item[0], self.patch
    if t % p:
      raise ValueError(
        f"tokens=reshape: {t} samples do not divide into patches of {p}. Crop to {t // p * p} or "
        f"pad to {-(-t // p) * p}, or use tokens=mdct, which takes any length."
      )
    return t // p, p * item[1]

  def analysis(self, x):
    """f32[B, T, C] -> [B, T / P, P C]."""
    return x.reshape(-1, *self.shape(x.shape[1:]))

  def synthesis(self, tokens, item):
    """[B, T / P, P C] -> f32[B, T, C] for item (T, C)."""
    self.shape(item)
    return tokens.reshape(-1, *item)

  def mask(self, samples):
    """A token counts if any of its samples does."""
    return jnp.any(samples.reshape(samples.shape[0], -1, self.patch), axis=2)


class Flat:
  """One token an image: F = 1, D = H W C."""

  key = "image"

  def shape(self, item: Sequence[int]) -> tuple[int, int]:
    """(1, H W C) for item (H, W, C)."""
    _check_rank("flat", "image [H, W, C]", item, 3)
    return 1, int(np.prod(item))

  def analysis(self, x):
    """f32[B, H, W, C] -> [B, 1, H W C]."""
    return x.reshape(-1, *self.shape(x.shape[1:]))

  def synthesis(self, tokens, item):
    """[B, 1, H W C] -> f32[B, H, W, C] for item (H, W, C)."""
    return tokens.reshape(-1, *item)


class Patch:
  """Square patches in reading order: F = H/P W/P, D = P P C."""

  key, name = "image", "patch"

  def __init__(self, patch: int = 4):
    self.patch = patch

  def shape(self, item: Sequence[int]) -> tuple[int, int]:
    """(H/P W/P, P P C) for item (H, W, C)."""
    _check_rank(self.name, "image [H, W, C]", item, 3)
    (h, w, c), p = item, self.patch
    if h % p or w % p:
      fits = [n for n in range(1, min(h, w) + 1) if h % n == 0 and w % n == 0]
      raise ValueError(
        f"tokens={self.name}: images of {h} x {w} do not divide into patches of {p} x {p}. "
        f"Sizes that fit: {', '.join(map(str, fits))}; or pad the images."
      )
    return h // p * (w // p), p * p * c

  def analysis(self, x):
    """f32[B, H, W, C] -> [B, F, P P C]."""
    f, d = self.shape(x.shape[1:])
    (h, w, c), p = x.shape[1:], self.patch
    x = x.reshape(-1, h // p, p, w // p, p, c)
    return self._forward(jnp.swapaxes(x, 2, 3)).reshape(-1, f, d)

  def synthesis(self, tokens, item):
    """[B, F, P P C] -> f32[B, H, W, C] for item (H, W, C)."""
    self.shape(item)
    (h, w, c), p = item, self.patch
    x = self._backward(tokens.reshape(-1, h // p, w // p, p, p, c))
    return jnp.swapaxes(x, 2, 3).reshape(-1, h, w, c)

  def _forward(self, x):
    return x

  def _backward(self, x):
    return x


class BlockDCT(Patch):
  """Orthonormal 2-D DCT-II of each patch: F = H/P W/P, D = P P C."""

  name = "block_dct"

  def __init__(self, patch: int = 4):
    super().__init__(patch)
    self._matrix = dct_matrix(patch).astype(np.float32)

  def _forward(self, x):
    return jnp.einsum("...pqc,ip,jq->...ijc", x, self._matrix, self._matrix)

  def _backward(self, x):
    return jnp.einsum("...ijc,ip,jq->...pqc", x, self._matrix, self._matrix)


class RowDCT:
  """Orthonormal DCT-II of each row of pixels: F = H, D = W C."""

  key = "image"

  def shape(self, item: Sequence[int]) -> tuple[int, int]:
    """(H, W C) for item (H, W, C)."""
    _check_rank("row_dct", "image [H, W, C]", item, 3)
    return item[0], item[1] * item[2]

  def analysis(self, x):
    """f32[B, H, W, C] -> [B, H, W C]."""
    m = dct_matrix(x.shape[2]).astype(np.float32)
    return jnp.einsum("bhwc,kw->bhkc", x, m).reshape(-1, *self.shape(x.shape[1:]))

  def synthesis(self, tokens, item):
    """[B, H, W C] -> f32[B, H, W, C] for item (H, W, C)."""
    m = dct_matrix(item[1]).astype(np.float32)
    return jnp.einsum("bhkc,kw->bhwc", tokens.reshape(-1, *item), m)


TOKENS = {
  "mdct": MDCT, "reshape": Reshape, "flat": Flat, "patch": Patch, "block_dct": BlockDCT,
  "row_dct": RowDCT,
}  # fmt: skip


def build(name: str, key: str, **kw):
  """The tokens of that name for data under `key`, with its own arguments.

  Raises:
    ValueError: unknown name or argument, or tokens of another kind of data.
  """
  cls = C.pick("config.trainer.tokens", TOKENS, name)
  if cls.key != key:
    fit = ", ".join(n for n, c in TOKENS.items() if c.key == key) or "none"
    raise ValueError(f"config.trainer.tokens={name!r} are of {cls.key}; for {key}: {fit}.")
  return C.call(f"config.trainer.tokens ({name})", cls, **kw)
