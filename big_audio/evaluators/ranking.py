"""How well neighbours by cosine share a class: ranks, triplets, nearest items and centroids. numpy.

The query's own track is never a neighbour, nor, where asked, anything of its artist. A tie counts
as wrong, so that embeddings which are all alike get 0 and not chance; a similarity that is no
number counts as wrong too.

Similarities are float64 matrices of `block` queries by N references, never N by N. 100 000 items of
512 numbers need 1.5 GB at most, and about 15 ms a query on one core: `sample` bounds the queries.
"""

from typing import NamedTuple

import numpy as np

TIE = 1e-9  # what float64 similarities of equal embeddings may differ by
_RECALL_AT = (1, 5, 10)
_NDCG = 10


class Embedded(NamedTuple):
  """Embeddings of N items and what they are of.

  Attributes:
    x: f32[N,D]; only directions matter.
    label: int[N], classes from 0; -1 belongs to no class: a neighbour that is wrong for all.
    track: int[N], which recording an item is cut from.
    artist: int[N], -1 where unknown; None: unknown for all.
  """

  x: np.ndarray
  label: np.ndarray
  track: np.ndarray
  artist: np.ndarray | None = None


class Ranks(NamedTuple):
  """One row for each query that is counted.

  Attributes:
    query: i64[Q], its place among the queries.
    scores: {name: f64[Q]} of p1, r_precision, map_r, recall@k and ndcg10.
    right, triplets: i64[Q], triplets with the positive nearer, and all of them.
    gap: f64[Q], the sum of d_an - d_ap over its triplets.
    left_out: queries without a class, or without a relevant item left.
  """

  query: np.ndarray
  scores: dict[str, np.ndarray]
  right: np.ndarray
  triplets: np.ndarray
  gap: np.ndarray
  left_out: int


def unit(x: np.ndarray) -> np.ndarray:
  """f64[N,D] rows of length 1; a row of zeros or with a value that is not finite becomes NaN."""
  x = np.asarray(x, np.float64)
  with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
    scale = np.abs(x).max(axis=1, keepdims=True, initial=0)  # squares of large values overflow
    x = x / scale
    out = x / np.sqrt(np.sum(x**2, axis=1, keepdims=True))
  return np.where(np.isfinite(out).all(axis=1, keepdims=True), out, np.nan)


def ranks(
  queries: Embedded, refs: Embedded | None = None, *, artists: bool = False,
  recall_at: tuple[int, ...] = _RECALL_AT, sample: int | None = None, seed: int = 0,
  block: int = 128,
) -> Ranks:  # fmt: skip
  """Measures of the ranking of all references for each query.

  With R relevant references (of the query's label) at places i = 1, 2, ...: p1 = rel_1;
  r_precision = share of relevant ones in the first R; map_r = 1/R sum_{i<=R} rel_i P@i (Musgrave
  et al. 2020, arXiv:2003.08505, section 3.2); recall@k = whether one is in the first k, as in
  metric learning; ndcg10 = sum_{i<=10} rel_i / log2(i+1) over its largest value.

  Args:
    queries: whose neighbours are looked for.
    refs: where; None: among the queries.
    artists: leaves out references of the query's artist as well.
    recall_at: values of k.
    sample: at most so many queries, drawn with `seed`; each has all its references.
    block: queries at a time.

  Returns:
    Ranks; of no query where no relevant reference is left for any.

  Raises:
    ValueError: shapes that disagree; artists that are not known.
  """
  where = "ranking"
  queries = _checked(where, queries, artists)
  own = queries if refs is None else _checked(where, refs, artists)
  if queries.x.shape[1] != own.x.shape[1]:
    raise ValueError(
      f"{where}: queries have {queries.x.shape[1]} dimensions, references {own.x.shape[1]}."
    )
  chosen = np.flatnonzero(queries.label >= 0)
  if sample is not None and len(chosen) > sample:
    chosen = np.sort(np.random.default_rng(seed).choice(chosen, sample, replace=False))
  x = unit(queries.x)
  y = x if refs is None else unit(own.x)
  rows, kept = [], []
  for start in range(0, len(chosen), block):
    part = chosen[start : start + block]
    similar = x[part] @ y.T  # [b,N]
    for i, s in zip(part, similar, strict=True):
      usable = own.track != queries.track[i]
      if artists and queries.artist[i] >= 0:
        usable &= own.artist != queries.artist[i]
      relevant = own.label == queries.label[i]
      row = _of_query(s[usable & relevant], s[usable & ~relevant], recall_at)
      if row is not None:
        kept.append(i)
        rows.append(row)
  names = ["p1", "r_precision", "map_r", *(f"recall@{k}" for k in recall_at), f"ndcg{_NDCG}"]
  table = np.array([r[0] for r in rows], np.float64).reshape(len(rows), len(names))
  counts = np.array([r[1] for r in rows], np.int64).reshape(len(rows), 2)
  return Ranks(
    query=np.array(kept, np.int64),
    scores=dict(zip(names, table.T, strict=True)),
    right=counts[:, 0],
    triplets=counts[:, 1],
    gap=np.array([r[2] for r in rows], np.float64),
    left_out=int(np.sum(queries.label < 0)) + len(chosen) - len(rows),
  )


def _of_query(relevant, others, recall_at):
  """(scores, (right, triplets), gap) of one query's similarities; None without a relevant one."""
  n, m = len(relevant), len(others)
  if not n:
    return None
  gap = float(m * np.sum(relevant, dtype=np.float64) - n * np.sum(others, dtype=np.float64))
  worst = np.where(np.isnan(relevant), -np.inf, relevant)
  hits = np.sort(worst)[::-1]
  misses = np.sort(np.where(np.isnan(others), np.inf, others))
  # A miss that is as similar comes first. Against what is no number every miss does.
  nearer = m - np.searchsorted(misses, hits - TIE, side="left")
  place = np.arange(n) + nearer  # of the j-th relevant item, from 0
  first = place < n
  gain = 1 / np.log2(place[place < _NDCG] + 2)
  ideal = np.sum(1 / np.log2(np.arange(min(n, _NDCG)) + 2))
  # A place that only what is no number can take is no hit.
  real = np.isfinite(hits)
  scores = [
    place[0] == 0 and real[0],
    np.sum(first & real) / n,
    np.sum(((np.arange(n) + 1) / (place + 1))[first & real]) / n,
    *(place[0] < k and real[0] for k in recall_at),
    np.sum(gain[: np.sum(real)]) / ideal,
  ]
  right = int(np.sum((m - nearer)[real]))
  return scores, (right, n * m), gap


def rank(queries: Embedded, refs: Embedded | None = None, **settings) -> dict[str, float]:
  """Means over queries of `ranks`, which takes the settings.

  Returns:
    triplet_accuracy P(d_ap < d_an) over all triplets, gap the mean of d_an - d_ap over them, the
    mean of each score, queries (counted), left_out. NaN where nothing is counted.
  """
  return means(ranks(queries, refs, **settings))


def means(table: Ranks) -> dict[str, float]:
  """What `rank` returns, of a table."""
  total = int(table.triplets.sum())
  nan = float("nan")
  return dict(
    triplet_accuracy=float(table.right.sum() / total) if total else nan,
    gap=float(table.gap.sum() / total) if total else nan,
    **{k: float(v.mean()) if len(v) else nan for k, v in table.scores.items()},
    queries=len(table.query),
    left_out=table.left_out,
  )


def by_class(table: Ranks, label: np.ndarray) -> dict[int, tuple[float, float]]:
  """{class: (triplet accuracy, mean gap)} of the classes with triplets; label int[N] of queries."""
  classes, out = np.asarray(label)[table.query], {}
  for c in np.unique(classes):
    here = classes == c
    if total := int(table.triplets[here].sum()):
      out[int(c)] = (float(table.right[here].sum() / total), float(table.gap[here].sum() / total))
  return out


def top(
  queries: Embedded, refs: Embedded | None = None, *, k: int, artists: bool = False,
  block: int = 128,
):  # fmt: skip
  """The k most similar references of each query, without its own track.

  Args:
    queries, refs, artists, block: as of `ranks`; labels are not looked at.
    k: at most so many.

  Yields:
    (place of the query, i64[<=k] places of references, f64[<=k] cosines), the most similar first,
    equal ones in the order of the references. References that are no number are left out.
  """
  queries = _checked("ranking", queries, artists)
  own = queries if refs is None else _checked("ranking", refs, artists)
  x = unit(queries.x)
  y = x if refs is None else unit(own.x)
  for start in range(0, len(x), block):
    similar = x[start : start + block] @ y.T
    for i, s in enumerate(similar, start):
      usable = (own.track != queries.track[i]) & np.isfinite(s)
      if artists and queries.artist[i] >= 0:
        usable &= own.artist != queries.artist[i]
      places = np.flatnonzero(usable)
      places = places[_largest(s[places], k)]
      yield i, places, s[places]


def _largest(values, k):
  """Places of the k largest, the largest first, equal ones in their order."""
  if k < len(values):
    least = np.partition(values, len(values) - k)[len(values) - k]
    above = np.flatnonzero(values > least)
    places = np.concatenate([above, np.flatnonzero(values == least)[: k - len(above)]])
    places.sort()
  else:
    places = np.arange(len(values))
  return places[np.argsort(-values[places], kind="stable")]


def knn(train_x: np.ndarray, train_y: np.ndarray, x: np.ndarray, k: int = 1) -> np.ndarray:
  """The class that most of the k nearest training items have.

  Equal votes go to the class whose votes are more similar in sum, then to the smaller number.

  Args:
    train_x: f32[N,D]; train_y: int[N], classes from 0.
    x: f32[M,D].
    k: neighbours, at most N.

  Returns:
    i64[M]; -1 where x is no number.

  Raises:
    ValueError: k out of range, training items that are not finite or without a class.
  """
  train_x, train_y, x = unit(train_x), np.asarray(train_y, np.int64), unit(x)
  if not 1 <= k <= len(train_x) or len(train_y) != len(train_x):
    raise ValueError(f"knn: expected 1 <= k <= {len(train_x)} training items with labels, got {k}.")
  if not np.isfinite(train_x).all() or train_y.min() < 0:
    raise ValueError("knn: training items must be finite and have a class.")
  out, n = np.full(len(x), -1, np.int64), int(train_y.max()) + 1
  for start in range(0, len(x), 128):
    for i, s in enumerate(x[start : start + 128] @ train_x.T, start):
      if np.isfinite(s).all():
        near = _largest(s, k)
        votes = np.bincount(train_y[near], minlength=n)
        similar = np.bincount(train_y[near], weights=s[near], minlength=n)
        best = np.flatnonzero(votes == votes.max())
        out[i] = best[np.argmax(similar[best])]
  return out


def centroids(x: np.ndarray, label: np.ndarray, classes: int) -> np.ndarray:
  """f64[K,D]: normalised mean of the unit embeddings of each class; NaN of a class without any.

  Args:
    x: f32[N,D].
    label: int[N]; -1 is left out.
    classes: K.
  """
  x, label = unit(x), np.asarray(label)
  sums = np.zeros((classes, x.shape[1]))
  np.add.at(sums, label[label >= 0], x[label >= 0])
  return unit(sums)


def nearest_centroid(centres: np.ndarray, x: np.ndarray) -> np.ndarray:
  """i64[M]: the class of the most similar centroid (not those that are NaN); -1 if x is NaN."""
  similar = unit(x) @ np.asarray(centres, np.float64).T
  found = np.where(np.isnan(similar), -np.inf, similar).argmax(axis=1)
  return np.where(np.isfinite(similar).any(axis=1), found, -1)


def confusion(true: np.ndarray, found: np.ndarray, classes: int) -> np.ndarray:
  """i64[K,K] counts, true by found; items for which nothing was found (-1) are in no column."""
  true, found = np.asarray(true), np.asarray(found)
  matrix, there = np.zeros((classes, classes), np.int64), found >= 0
  np.add.at(matrix, (true[there], found[there]), 1)
  return matrix


def by_track(items: Embedded) -> tuple[Embedded, np.ndarray]:
  """(one item a track, in the order in which they come: the normalised mean of its unit
  embeddings; i64[T], the place of its first item).

  Raises:
    ValueError: items of one track with several labels or artists.
  """
  items = _checked("by_track", items, False)
  tracks, first, inverse = np.unique(items.track, return_index=True, return_inverse=True)
  for what, values in (("labels", items.label), ("artists", items.artist)):
    if values is not None and (mixed := values != values[first][inverse]).any():
      track = items.track[np.flatnonzero(mixed)[0]]
      raise ValueError(f"by_track: track {track} has several {what}; ids of tracks must be unique.")
  sums = np.zeros((len(tracks), items.x.shape[1]))
  np.add.at(sums, inverse, unit(items.x))
  order = np.argsort(first)
  first = first[order]
  artist = None if items.artist is None else items.artist[first]
  return Embedded(unit(sums[order]), items.label[first], items.track[first], artist), first


def _checked(where, items, artists):
  x = np.asarray(items.x)
  rest = [None if v is None else np.asarray(v) for v in items[1:]]
  if x.ndim != 2 or any(v is not None and v.shape != x.shape[:1] for v in rest):
    shapes = [None if v is None else v.shape for v in (x, *rest)]
    raise ValueError(
      f"{where}: expected x [N,D] and label, track and artist [N], got shapes {shapes}."
    )
  if artists and rest[2] is None:
    raise ValueError(f"{where}: artists=True needs the artist of each item.")
  return Embedded(x, *rest)
