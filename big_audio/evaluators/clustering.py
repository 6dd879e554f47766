"""k-means of embeddings against true classes. scikit-learn is imported inside the functions."""

import numpy as np

from big_audio.evaluators import ranking

_SILHOUETTE = 5000  # items that its N^2 distances are computed of


def scores(
  x: np.ndarray, label: np.ndarray, *, seed: int = 0, starts: int = 10
) -> dict[str, float]:
  """Agreement of k-means (k = classes that occur) with true labels, and their silhouette.

  Args:
    x: f32[N,D]; rows are normalised, so that distances follow cosines.
    label: int[N]; items without a class (-1) are left out.
    seed: of the starts, and of the sample for the silhouette.
    starts: of k-means, the best of which counts.

  Returns:
    nmi, ari, ami; purity: share of items of the largest class of their cluster; silhouette: mean
    over items (at most 5000, drawn) of (b - a) / max(a, b), a the mean cosine distance to the own
    true class and b to the nearest other, in [-1, 1].

  Raises:
    ValueError: fewer than two classes, or as many as items.
  """
  from sklearn import cluster, metrics

  label = np.asarray(label)
  x = ranking.unit(x)
  here = (label >= 0) & np.isfinite(x).all(axis=1)
  x, label = x[here], label[here]
  classes = np.unique(label)
  if len(classes) < 2 or len(classes) >= len(label):
    raise ValueError(
      f"clustering: expected items of at least 2 classes, more than classes; got {len(classes)} "
      f"classes of {len(label)} items."
    )
  found = cluster.KMeans(len(classes), n_init=starts, random_state=seed).fit_predict(x)
  return dict(
    nmi=float(metrics.normalized_mutual_info_score(label, found)),
    ari=float(metrics.adjusted_rand_score(label, found)),
    ami=float(metrics.adjusted_mutual_info_score(label, found)),
    purity=purity(label, found),
    silhouette=float(
      metrics.silhouette_score(
        x, label, metric="cosine", sample_size=min(len(x), _SILHOUETTE), random_state=seed
      )
    ),
  )


def purity(label: np.ndarray, found: np.ndarray) -> float:
  """Share of items that have the most frequent label of their cluster."""
  _, label = np.unique(label, return_inverse=True)
  clusters, found = np.unique(found, return_inverse=True)
  table = np.zeros((len(clusters), label.max() + 1), np.int64)
  np.add.at(table, (found, label), 1)
  return float(table.max(axis=1).sum() / len(label))
