"""The 1797 handwritten digits that scikit-learn ships: 8 x 8 pixels, no download."""

import functools

import numpy as np

from big_audio.datasets import splits as splits_lib

SPLITS = {"train": 0.7, "validation": 0.1, "test": 0.2}


class Source:
  """Digits as {"image": f32[8,8,1] in [-1,1], "label": int in [0,10), "id": str}."""

  def __init__(self, split: str = "train"):
    """Picks a split: train (70 %), validation (10 %), test (20 %) by a hash of the index, or all.

    "codec" and "embed" are two halves of train, for models and for the embedder that judges them.

    Raises:
      ValueError: there is no such split.
    """
    self._images, self._labels = _load()
    ids = [f"digits/{i}" for i in range(len(self._labels))]
    self._chosen = splits_lib.choose(ids, split, SPLITS, where="digits")

  def __len__(self) -> int:
    return len(self._chosen)

  def __getitem__(self, i: int) -> dict:
    n = self._chosen[i]
    return {"image": self._images[n], "label": int(self._labels[n]), "id": f"digits/{n}"}


@functools.cache
def _load():
  from sklearn.datasets import load_digits

  data = load_digits()
  # 17 levels, 0 to 16.
  return data.images.astype(np.float32)[..., None] / 8 - 1, data.target.astype(np.int32)
