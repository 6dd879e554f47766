"""How embeddings of held-out tracks group by class: neighbours, centroids, clusters, a probe.

  evals.test = dict(type="retrieval", data=..., train_data=..., batch_size=32, log_steps=500)

`report` computes all numbers from arrays, for the evaluator and for command lines alike. The row to
compare with is the same report of `standardised` `mel_statistics`.
"""

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from big_audio import config as C
from big_audio import input_pipeline
from big_audio.evaluators import clustering, common, frechet, plots, probe, ranking
from big_audio.evaluators.ranking import Embedded

MEASURES = ("ranking", "classes", "clusters", "knn", "centroid", "probe")
OF_TRAINING = ("knn", "centroid", "probe")
LEVELS = ("track", "chunk")
_ID_BYTES = 512


def report(
  train: Embedded | None, test: Embedded, *, names: Sequence[str],
  measures: Sequence[str] | None = None, level: str = "track", artists: bool = False,
  sample: int | None = None, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
  """All measures of the embeddings of test items.

  Args:
    train: items that neighbours, centroids and the probe are taken from; None: without these.
    test: items that are judged, among each other and against those of `train`.
    names: of the classes, in the order of their numbers.
    measures: of `MEASURES`; None: all that the data allow.
    level: "track": chunks of a track are averaged first; "chunk": each is an item, and its own
      track is left out of its neighbours.
    artists: leaves out the query's artist as well, and keeps artists apart in the probe's folds.
    sample: at most so many queries of `ranking` (drawn with `seed`).
    seed: also of clusters and the folds of the probe.

  Returns:
    values: {row: float}: items; of ranking triplet_accuracy, gap, p1, r_precision, map_r,
      recall@k, ndcg10, queries, left_out; of classes class/<name>/{triplet_accuracy,gap}; of
      clusters nmi, ari, ami, purity, silhouette; of knn knn1 and knn5 (5 or as many as there are);
      centroid; probe and probe_c. Accuracies count items with a class; what is no number is wrong.
    items: the judged Embedded, and first: i64[N], the place of each in `test`.
    With centroid: centroids f64[K,D], centroid_cosine f64[K,K], similarity f64[N,K] of items and
      centroids, confusion i64[K,K].

  Raises:
    ValueError: an unknown measure or level, measures of training items without any, a class
      number beyond the names, no items.
  """
  where = "evaluators.retrieval"
  measures = chosen(where, measures, train is not None)
  C.pick(f"{where}: level", dict.fromkeys(LEVELS), level)
  for what, items in (("test", test), ("train", train)):
    if items is not None and (not len(items.label) or np.max(items.label) >= len(names)):
      top = np.max(items.label, initial=-1)
      raise ValueError(
        f"{where}: expected {what} items of classes 0 to {len(names) - 1}, got {len(items.label)} "
        f"items of classes up to {top}."
      )
  first = np.arange(len(test.label))
  if level == "track":
    test, first = ranking.by_track(test)
    train = None if train is None else ranking.by_track(train)[0]
  values: dict[str, float] = {"items": float(len(test.label))}
  out: dict[str, Any] = dict(values=values, items=test, first=first)
  if {"ranking", "classes"} & set(measures):
    table = ranking.ranks(test, artists=artists, sample=sample, seed=seed)
  if "ranking" in measures:
    values.update({k: float(v) for k, v in ranking.means(table).items()})
  if "classes" in measures:
    for c, (accuracy, gap) in ranking.by_class(table, test.label).items():
      values[f"class/{names[c]}/triplet_accuracy"] = accuracy
      values[f"class/{names[c]}/gap"] = gap
  if "clusters" in measures:
    values.update(clustering.scores(test.x, test.label, seed=seed))
  if any(m in OF_TRAINING for m in measures):
    _against(train, test, names, measures, artists, seed, out)
  return out


def _against(train, test, names, measures, artists, seed, out):
  """Adds what is learnt from training items."""
  values = out["values"]
  known = train.label >= 0
  train_x, train_y = train.x[known], train.label[known]
  judged = test.label >= 0
  x, label = test.x[judged], test.label[judged]
  right = lambda found: float(np.mean(found == label)) if len(label) else float("nan")
  if "knn" in measures:
    for k in sorted({1, min(5, len(train_x))}):
      values[f"knn{k}"] = right(ranking.knn(train_x, train_y, x, k))
  if "centroid" in measures:
    centres = ranking.centroids(train_x, train_y, len(names))
    found = ranking.nearest_centroid(centres, x)
    values["centroid"] = right(found)
    out.update(
      centroids=centres,
      centroid_cosine=centres @ centres.T,
      similarity=ranking.unit(test.x) @ centres.T,
      confusion=ranking.confusion(label, found, len(names)),
    )
  if "probe" in measures:
    whole = lambda x: np.isfinite(x).all(axis=1)
    unit, seen = ranking.unit(x), ranking.unit(train_x)
    group = (train.artist if artists else train.track)[known][whole(seen)]
    found = np.full(len(unit), -1)  # what is no number is wrong
    found[whole(unit)], values["probe_c"] = probe.linear(
      seen[whole(seen)], train_y[whole(seen)], group, unit[whole(unit)], seed=seed
    )
    values["probe"] = right(found)


def chosen(where: str, measures: Sequence[str] | None, trained: bool) -> tuple[str, ...]:
  """The measures that are computed; raises ValueError where one is unknown or has no data."""
  if measures is None:
    return tuple(m for m in MEASURES if trained or m not in OF_TRAINING)
  for m in measures:
    C.pick(f"{where}: measures", dict.fromkeys(MEASURES), m)
    if m in OF_TRAINING and not trained:
      raise ValueError(f"{where}: {m!r} needs training items; give train_data.")
  return tuple(measures)


def mel_statistics(waves: Sequence[np.ndarray], sr: int, *, n_mels: int = 64) -> np.ndarray:
  """Mean and standard deviation over time of log-mels: the plain features of a baseline.

  Args:
    waves: f32[T,C] in [-1,1] at sr Hz, each of any length.
    sr: Hz.
    n_mels: M.

  Returns:
    f32[N,2M] (means, then deviations), to be standardised by `standardised`.

  Raises:
    ValueError: a wave without samples or with another shape.
  """
  rows = []
  for i, wav in enumerate(waves):
    wav = np.asarray(wav, np.float32)
    if wav.ndim != 2 or not wav.size:
      raise ValueError(f"mel_statistics: wave {i}: expected [T,C] with samples, got {wav.shape}.")
    mel = frechet.log_mel_frames(wav, sr, n_mels=n_mels)
    rows.append(np.concatenate([mel.mean(axis=0), mel.std(axis=0)]))
  return np.array(rows, np.float32).reshape(len(rows), 2 * n_mels)


def standardised(train: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
  """Each [N,D] less the mean of `train`, by its deviation; what is constant there becomes 0."""
  mean, std = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
  scale = np.where(std > 1e-6, 1 / np.where(std > 1e-6, std, 1), 0)
  return [(x - mean) * scale for x in (train, *others)]


class Evaluator:
  """The report of a data set; writes samples/<step>/<prefix>{confusion,centroids,tracks,umap}.

  confusion.csv and .png: true by nearest centroid; centroids.csv: their cosines; tracks.csv: every
  item with its class and its cosine with each centroid; umap.png (pca.png where umap-learn is not
  installed): the items in the plane.

  Args:
    predict: needs fn: (state, batch, rng) -> {key: f32[B,D]}.
    data: a data set of the config whose batches hold label, track, artist (with artists) and id;
      batch_size: rows of a batch.
    mesh: of the run; workdir: where samples/ lies.
    pp: in place of the data sets' own.
    fn, key: which function of `predict`, and which of its outputs.
    also: {another output: its measures}, such as dict(features=["knn", "probe"]); computed in the
      same pass, their rows are <output>/<measure>.
    train_data: a data set with training items.
    names: of the classes; None: those of the source, or numbers where it has none.
    level, measures, artists, sample, seed: of `report`.
    picture: whether to draw the items in the plane.
    limit: only the first `limit` items of either data set.
    prefix: of the file names, where one run has several of these evaluators.

  Raises:
    ValueError: see `report`; a batch without label, track or the embedding; data that share items.
  """

  def __init__(
    self, predict, *, data, batch_size, mesh, workdir, pp=None, aux=(), fn="embed",
    train_data=None, key="embedding", names=None, level="track", measures=None, artists=False,
    picture=True, sample=None, limit=None, prefix="", seed=0, also=None,
  ):  # fmt: skip
    where = "evaluators.retrieval"
    self._predict = C.pick(f"{where}: fn", predict, fn)
    C.pick(f"{where}: level", dict.fromkeys(LEVELS), level)
    self._kw = dict(
      measures=chosen(where, measures, train_data is not None), level=level, artists=artists,
      sample=sample, seed=seed,
    )  # fmt: skip
    self._mesh, self._workdir, self._prefix = mesh, workdir, prefix
    self._key, self._picture = key, picture
    self._also = {k: chosen(where, m, train_data is not None) for k, m in (also or {}).items()}
    self._names = names or input_pipeline.class_names(data)
    if train_data is not None:
      _check_pair(C.to_dict(data), C.to_dict(train_data))
    self._test = common.reader(data, pp, batch_size, limit)
    self._train = train_data and common.reader(train_data, pp, batch_size, limit)

  def run(self, state) -> Iterator[tuple[str, float]]:
    """Yields the values of `report`."""
    tests, ids = self._embed(state, self._test)
    trains: dict = {}
    if self._train:
      trains, seen = self._embed(state, self._train)
      if shared := sorted(set(ids) & set(seen)) or self._shared_tracks(tests, trains):
        raise ValueError(
          f"evaluators.retrieval: {len(shared)} items are in data and in train_data, such as "
          f"{shared[0]!r}; what is judged must not be known."
        )
    test, train = tests[self._key], trains.get(self._key)
    labels = np.concatenate([test.label, *([train.label] if train else [])])
    names = self._names or [str(i) for i in range(int(labels.max(initial=-1)) + 1)]
    found = report(train, test, names=names, **self._kw)
    if jax.process_index() == 0:
      folder = os.path.join(self._workdir, "samples", str(int(jax.device_get(state["step"]))))
      write(folder, found, [ids[i] for i in found["first"]], names, prefix=self._prefix)
      if self._picture:
        picture(folder, found["items"], names, prefix=self._prefix)
    yield from found["values"].items()
    for key, measures in self._also.items():
      kw = {**self._kw, "measures": measures}
      more = report(trains.get(key), tests[key], names=names, **kw)["values"]
      yield from ((f"{key}/{name}", value) for name, value in more.items())

  def _shared_tracks(self, tests, trains) -> list[int]:
    """Numbers of tracks of which both sets have chunks; they number alike, see `_check_pair`."""
    return sorted(set(tests[self._key].track.tolist()) & set(trains[self._key].track.tolist()))

  def _embed(self, state, batches) -> tuple[dict[str, Embedded], list[str]]:
    rows: dict[str, list[np.ndarray]] = {}
    for batch, host in common.device_batches(batches, self._mesh):
      out = self._predict(state, batch, jax.random.key(0))
      keys = (self._key, *self._also)
      for key in keys:
        C.pick("evaluators.retrieval: output of the model", out, key)
      for name in ("label", "track", *(["artist"] if self._kw["artists"] else []), "id"):
        if name not in host:
          raise ValueError(
            f"evaluators.retrieval: the batch has no {name!r}, only {', '.join(host)}; keep it at "
            "the end of pp."
          )
      part = {k: batch[k] for k in ("label", "track", "artist", "_mask") if k in batch}
      part |= {"id": _bytes(host["id"]), **{f"x/{k}": out[k] for k in keys}}
      part = common.gather(part)
      for k, v in part.items():
        rows.setdefault(k, []).append(np.asarray(v)[part["_mask"] > 0])
    if not rows:
      raise ValueError("evaluators.retrieval: the data set has no items.")
    all_rows = {k: np.concatenate(v) for k, v in rows.items()}
    ids = [bytes(row).rstrip(b"\0").decode(errors="replace") for row in all_rows["id"]]
    items = [all_rows[k].astype(np.int64) for k in ("label", "track")]
    of = lambda k: Embedded(np.float32(all_rows[f"x/{k}"]), *items, all_rows.get("artist"))
    return {k: of(k) for k in keys}, ids


def _check_pair(data, train_data):
  """Raises ValueError where labels and tracks of two data sets do not mean the same."""
  place = lambda d: {k: d.get(k) for k in ("source", "dir", "list")}
  names = [input_pipeline.class_names(d) for d in (data, train_data)]
  if "source" not in data or place(data) != place(train_data) or names[0] != names[1]:
    raise ValueError(
      "evaluators.retrieval: data and train_data must be splits of one data set, with the same "
      f"classes: {place(data)}, {place(train_data)}."
    )


def _bytes(ids):
  """u8[B,512], so that names travel between processes like numbers; longer ones keep their end."""
  out = np.zeros((len(ids), _ID_BYTES), np.uint8)
  for row, name in zip(out, ids, strict=True):
    raw = str(name).encode(errors="replace")[-_ID_BYTES:]
    row[: len(raw)] = np.frombuffer(raw, np.uint8)
  return out


def write(folder: str, found: Mapping[str, Any], ids, names, *, prefix: str = "") -> None:
  """Writes confusion.csv and .png, centroids.csv and tracks.csv of a report with centroids.

  Args:
    folder: made where it is missing.
    found: of `report`.
    ids: a name for each of its items.
    names: of the classes.
    prefix: of the file names.
  """
  os.makedirs(folder, exist_ok=True)
  if "centroids" not in found:
    return
  path = lambda name: os.path.join(folder, f"{prefix}{name}")
  plots.confusion(path("confusion.png"), found["confusion"], names, title="nearest centroid")
  label = found["items"].label
  for name, head, left, matrix in (
    ("confusion", ["true \\ found"], [names], found["confusion"]),
    ("centroids", ["cosine"], [names], np.round(found["centroid_cosine"], 6)),
    ("tracks", ["id", "class"], [ids, [names[c] if c >= 0 else "" for c in label]],
     np.round(found["similarity"], 6)),
  ):  # fmt: skip
    with open(path(f"{name}.csv"), "w", newline="", encoding="utf-8", errors="replace") as f:
      rows = csv.writer(f)
      rows.writerow([*head, *names])
      rows.writerows([*row, *values.tolist()] for *row, values in zip(*left, matrix, strict=True))


def plane(x: np.ndarray) -> tuple[np.ndarray, str]:
  """(f32[N,2], "umap" or "pca"): unit embeddings in the plane.

  UMAP with 15 neighbours, min_dist 0.1, cosine and seed 42; where umap-learn is not installed, or
  there are too few items for it, the two first principal components, which the name says.
  """
  x = ranking.unit(x)
  try:
    import umap
  except ImportError:
    umap = None
  if umap is not None and len(x) > 16:
    made = umap.UMAP(n_neighbors=15, min_dist=0.1, metric="cosine", random_state=42)
    return np.asarray(made.fit_transform(x)), "umap"
  centred = x - x.mean(axis=0)
  vectors = np.linalg.svd(centred, full_matrices=False)[2]
  flat = centred @ vectors[:2].T
  return np.pad(flat, ((0, 0), (0, 2 - flat.shape[1]))), "pca"


def picture(folder: str, items: Embedded, names, *, prefix: str = "") -> str:
  """Draws the items in the plane, a colour for each class: <prefix>umap.png or <prefix>pca.png.

  Items whose embedding is no number are left out; the title tells how many.

  Returns:
    the path.
  """
  there = np.isfinite(items.x).all(axis=1)
  at, kind = plane(items.x[there]) if there.any() else (np.zeros((0, 2)), "pca")
  lost = int(np.sum(~there))
  title = f"{kind.upper()} of {len(at)} items" + (f", {lost} are no number" if lost else "")
  path = os.path.join(folder, f"{prefix}{kind}.png")
  plots.scatter(path, at, items.label[there], names, title=title)
  return path
