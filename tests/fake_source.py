"""Sources for tests; a module of its own, so that worker processes can import it."""

import numpy as np

from big_audio.datasets.errors import DecodeError


class Source:
  """`n` ramps of `samples` samples at 100 Hz; items listed in `broken` cannot be decoded."""

  def __init__(self, n=20, samples=50, broken=(), offset=0, ragged=False):
    self.n, self.samples, self.broken = n, samples, tuple(broken)
    self.offset, self.ragged = offset, ragged

  def __len__(self):
    return self.n

  def __getitem__(self, i):
    if not 0 <= i < self.n:
      raise IndexError(i)
    if i in self.broken:
      raise DecodeError(f"item {i} is broken")
    samples = self.samples + (i if self.ragged else 0)
    wav = (np.arange(samples, dtype=np.float32) + 1000 * (i + self.offset))[:, None]
    return {"wav": wav, "sr": 100, "id": f"id{i + self.offset}", "label": i + self.offset}
