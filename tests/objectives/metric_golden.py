"""Values of pytorch-metric-learning 2.9 for the losses and miners of `big_audio.objectives`.

`metric_golden.npz` beside this file holds what `compute` gave; it is written again by

  python -m tests.objectives.metric_golden
"""

import pathlib

import numpy as np

FILE = pathlib.Path(__file__).with_name("metric_golden.npz")
CLASSES = 5


def inputs():
  """x f32[24,16] and refs f32[40,16] of unit length around 5 centres, their labels, proxies."""
  rng = np.random.default_rng(7)
  centres = rng.standard_normal((CLASSES, 16))
  label, ref_label = rng.permutation(np.arange(24) % CLASSES), rng.integers(0, CLASSES, 40)
  cloud = lambda l: centres[l] + 1.1 * rng.standard_normal((len(l), 16))
  unit = lambda x: (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
  x, refs = unit(cloud(label)), unit(cloud(ref_label))
  proxies = rng.standard_normal((CLASSES, 16)).astype(np.float32)
  return dict(x=x, label=label, refs=refs, ref_label=ref_label, proxies=proxies)


def compute(x, label, refs, ref_label, proxies):
  """{name: array} of pytorch-metric-learning; raises ImportError without it."""
  import torch
  from pytorch_metric_learning import distances, losses, miners, reducers
  from pytorch_metric_learning.miners import distance_weighted_miner as dw

  t = torch.from_numpy
  x, label, refs, ref_label = t(x), t(label), t(refs), t(ref_label)
  cos, mean = distances.CosineSimilarity(), reducers.MeanReducer()
  out = {}

  def value(name, loss, miner=None):
    """Value, gradient, and the value against references."""
    own = x.clone().requires_grad_()
    got = loss(own, label, miner(own, label) if miner else None)
    got.backward()
    out[name], out[f"{name}_grad"] = got.detach().numpy(), own.grad.numpy()
    if name != "proxy_anchor":
      chosen = miner(x, label, refs, ref_label) if miner else None
      out[f"{name}_refs"] = loss(x, label, chosen, refs, ref_label).detach().numpy()

  value("triplet_all", losses.TripletMarginLoss(0.3, distance=cos))
  hard = miners.BatchHardMiner(distance=cos)
  value("triplet_hard", losses.TripletMarginLoss(0.3, distance=cos, reducer=mean), hard)
  ms = miners.MultiSimilarityMiner(0.1)
  value("multi_similarity", losses.MultiSimilarityLoss(2, 50, 0.5), ms)
  value("supcon", losses.SupConLoss(0.1))
  value("ntxent", losses.NTXentLoss(0.1))
  anchor = losses.ProxyAnchorLoss(CLASSES, 16, margin=0.1, alpha=32)
  anchor.proxies.data = t(proxies)
  value("proxy_anchor", anchor)

  out["hard"] = np.stack([i.numpy() for i in hard(x, label)])
  semi = miners.TripletMarginMiner(0.3, "semihard", distance=cos)
  out["semihard"] = np.stack([i.numpy() for i in semi(x, label)])
  a1, p, a2, n = (i.numpy() for i in ms(x, label))
  out["ms_pos"], out["ms_neg"] = np.stack([a1, p]), np.stack([a2, n])

  seen = []
  draw = dw.lmu.get_random_triplet_indices
  dw.lmu.get_random_triplet_indices = lambda *a, weights=None, **kw: (
    seen.append(weights) or draw(*a, weights=weights, **kw)
  )
  try:
    miners.DistanceWeightedMiner(cutoff=0.5, nonzero_loss_cutoff=1.4)(x, label)
  finally:
    dw.lmu.get_random_triplet_indices = draw
  out["distance_weights"] = seen[0].numpy()
  return out


if __name__ == "__main__":
  np.savez_compressed(FILE, **compute(**inputs()))
