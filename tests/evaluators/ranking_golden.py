"""Values of pytorch-metric-learning 2.9 for `big_audio.evaluators.ranking`.

`ranking_golden.npz` beside this file holds what `compute` gave; it is written again by

  python -m tests.evaluators.ranking_golden
"""

import pathlib

import numpy as np

FILE = pathlib.Path(__file__).with_name("ranking_golden.npz")


def inputs():
  """x f32[150,12], refs f32[200,12], labels of 6 classes of unequal sizes."""
  rng = np.random.default_rng(3)
  centres = rng.standard_normal((6, 12))
  share = np.array([1, 2, 3, 4, 5, 6]) / 21
  draw = lambda n: rng.choice(6, n, p=share)
  cloud = lambda l: np.float32(centres[l] + 1.3 * rng.standard_normal((len(l), 12)))
  label, ref_label = draw(150), draw(200)
  return dict(x=cloud(label), label=label, refs=cloud(ref_label), ref_label=ref_label)


def compute(x, label, refs, ref_label):
  """{name: value} of pytorch-metric-learning; raises ImportError without it."""
  import torch
  from pytorch_metric_learning import distances
  from pytorch_metric_learning.utils import accuracy_calculator, inference

  calculator = accuracy_calculator.AccuracyCalculator(
    include=("precision_at_1", "r_precision", "mean_average_precision_at_r"),
    k="max_bin_count",
    knn_func=inference.CustomKNN(distances.CosineSimilarity()),
  )
  t = torch.from_numpy
  own = calculator.get_accuracy(t(x), t(label))
  other = calculator.get_accuracy(t(x), t(label), t(refs), t(ref_label))
  return {f"{where}/{k}": v for where, d in (("own", own), ("refs", other)) for k, v in d.items()}


if __name__ == "__main__":
  np.savez_compressed(FILE, **compute(**inputs()))
