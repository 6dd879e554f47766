"""Ranks against pytorch-metric-learning, sklearn and loops; ties, NaN, tracks and artists."""

import functools
import itertools

import numpy as np
import pytest
from sklearn import metrics, neighbors

from big_audio.evaluators import ranking as R
from tests.evaluators import ranking_golden

I = ranking_golden.inputs()
QUERIES = R.Embedded(I["x"], I["label"], np.arange(150))
REFS = R.Embedded(I["refs"], I["ref_label"], 1000 + np.arange(200))


@functools.cache
def golden(live):
  if live:
    pytest.importorskip("torch")
    pytest.importorskip("pytorch_metric_learning")
    return ranking_golden.compute(**I)
  return dict(np.load(ranking_golden.FILE))


@pytest.mark.parametrize("live", [False, True], ids=["stored", "live"])
def test_values_of_pytorch_metric_learning(live):
  want = golden(live)
  for name, refs in (("own", None), ("refs", REFS)):
    got = R.rank(QUERIES, refs)
    pairs = dict(p1="precision_at_1", r_precision="r_precision",
                 map_r="mean_average_precision_at_r")  # fmt: skip
    for ours, theirs in pairs.items():
      np.testing.assert_allclose(got[ours], want[f"{name}/{theirs}"], atol=1e-5)


def loops(items, *, artists=False, k=5):
  """Every measure by its definition; ties and NaN are wrong."""
  x = np.float64(items.x)
  x /= np.linalg.norm(x, axis=1, keepdims=True)
  n, out, right, total, gaps, left = len(x), [], 0, 0, 0.0, 0
  for i in range(n):
    js = [j for j in range(n) if items.track[j] != items.track[i]]
    if artists and items.artist[i] >= 0:
      js = [j for j in js if items.artist[j] != items.artist[i]]
    rel = {j for j in js if items.label[j] == items.label[i]}
    if not rel or items.label[i] < 0:
      left += 1
      continue
    js.sort(key=lambda j: (-(x[i] @ x[j]), j in rel))
    hit = [j in rel for j in js]
    r = len(rel)
    precision = [sum(hit[: m + 1]) / (m + 1) for m in range(len(hit))]
    dcg = sum(h / np.log2(m + 2) for m, h in enumerate(hit[:10]))
    ideal = sum(1 / np.log2(m + 2) for m in range(min(r, 10)))
    out.append([hit[0], sum(hit[:r]) / r, sum(p * h for p, h in zip(precision[:r], hit[:r])) / r,
                any(hit[:k]), dcg / ideal])  # fmt: skip
    for p, n_ in itertools.product(rel, [j for j in js if j not in rel]):
      d = x[i] @ x[p] - x[i] @ x[n_]
      right, total, gaps = right + (d > 0), total + 1, gaps + d
  p1, rp, map_r, recall, ndcg = np.mean(out, axis=0)
  return {"triplet_accuracy": right / total, "gap": gaps / total, "p1": p1, "r_precision": rp,
          "map_r": map_r, f"recall@{k}": recall, "ndcg10": ndcg, "queries": len(out),
          "left_out": left}  # fmt: skip


@pytest.mark.parametrize("artists", [False, True])
def test_tracks_artists_and_trash_by_loops(artists):
  rng = np.random.default_rng(1)
  track = rng.integers(0, 30, 60)
  label = rng.integers(-1, 4, 30)[track]
  artist = rng.integers(-1, 6, 30)[track]
  x = rng.standard_normal((5, 8))[label] + rng.standard_normal((60, 8))
  items = R.Embedded(np.float32(x), label, track, artist)
  want = loops(items, artists=artists)
  for block in (7, 128):
    got = R.rank(items, artists=artists, recall_at=(5,), block=block)
    assert got.keys() == want.keys()
    np.testing.assert_allclose(list(got.values()), list(want.values()), rtol=1e-9)
  assert want["left_out"] > 0
  classes = R.by_class(R.ranks(items, artists=artists), label)
  for c, (accuracy, gap) in classes.items():
    # Queries of one class: the others take part as references only.
    kept = np.where(label == c, label, -1)
    alone = R.rank(items._replace(label=kept), items, artists=artists)
    assert (accuracy, gap) == pytest.approx((alone["triplet_accuracy"], alone["gap"]))


def test_ndcg_of_sklearn():
  s = R.unit(I["x"]) @ R.unit(I["refs"]).T
  relevant = I["label"][:, None] == I["ref_label"]
  want = metrics.ndcg_score(relevant, s, k=10)
  assert R.rank(QUERIES, REFS)["ndcg10"] == pytest.approx(want)


def test_triplet_accuracy_is_the_area_under_the_curve():
  """Within one query the share of right triplets is the ROC AUC of its similarities."""
  s = R.unit(I["x"]) @ R.unit(I["refs"]).T
  table = R.ranks(QUERIES, REFS)
  want = [metrics.roc_auc_score(I["ref_label"] == l, row) for l, row in zip(I["label"], s)]
  np.testing.assert_allclose(table.right / table.triplets, want, rtol=1e-9)


def test_all_alike_is_wrong():
  for scale in (1.0, 1e30):
    alike = R.Embedded(np.full((40, 33), scale, np.float32), np.arange(40) % 2, np.arange(40))
    got = R.rank(alike, recall_at=(5,))
    assert got["triplet_accuracy"] == got["p1"] == got["map_r"] == got["recall@5"] == 0
    assert abs(got["gap"]) < 1e-12


def test_no_number_is_wrong():
  rng = np.random.default_rng(0)
  label = np.arange(40) % 2
  x = np.float32(np.eye(2)[label] + 0.01 * rng.random((40, 2)))
  items = R.Embedded(x, label, np.arange(40))
  good = R.rank(items)
  assert good["triplet_accuracy"] == good["map_r"] == good["ndcg10"] == 1
  for value in (np.nan, np.inf):
    bad = x.copy()
    bad[3] = value
    table = R.ranks(items._replace(x=bad))
    own = table.query == 3
    assert all(v[own] == 0 for v in table.scores.values()) and table.right[own] == 0
    # For the others it is the last of the relevant, or the first of the wrong.
    others = [i for i in table.query if i != 3 and label[i] == label[3]]
    assert table.scores["p1"][others].min() == 1 and table.scores["map_r"][others].max() < 1
    wrong = label[table.query] != label[3]
    assert table.scores["p1"][wrong].max() == 0
    assert np.all(table.right[wrong] == 19 * 19)  # 19 positives, 20 negatives, one of them NaN
  nothing = R.ranks(items._replace(x=np.full_like(x, np.nan), label=np.zeros(40, int)))
  assert len(nothing.query) == 40 and not any(v.any() for v in nothing.scores.values())


def test_nothing_to_count():
  got = R.rank(R.Embedded(I["x"], np.arange(150), np.arange(150)))
  assert got["queries"] == 0 and got["left_out"] == 150 and np.isnan(got["map_r"])
  got = R.rank(R.Embedded(I["x"], I["label"], np.zeros(150, int)))
  assert got["queries"] == 0


def test_a_sample_of_the_queries_keeps_all_references():
  whole, part = R.ranks(QUERIES, REFS), R.ranks(QUERIES, REFS, sample=40, seed=2)
  assert len(part.query) == 40 and part.query.tolist() == sorted(set(part.query.tolist()))
  for name, values in part.scores.items():
    np.testing.assert_array_equal(values, whole.scores[name][part.query])
  np.testing.assert_array_equal(part.right, whole.right[part.query])
  assert R.ranks(QUERIES, REFS, sample=40, seed=3).query.tolist() != part.query.tolist()


def test_top_by_sorting():
  x = np.float32(np.round(I["x"], 0))  # ties
  items = R.Embedded(x, I["label"], np.arange(150) // 3, np.arange(150) // 30)
  unit = R.unit(x)
  for artists in (False, True):
    for i, places, cosines in R.top(items, k=7, artists=artists, block=13):
      s = unit @ unit[i]
      own = items.artist if artists else items.track
      js = [j for j in range(150) if own[j] != own[i] and np.isfinite(s[j])]
      np.testing.assert_allclose(cosines, sorted(s[js])[::-1][:7], atol=1e-12)
      assert all(own[j] != own[i] for j in places)
      assert len(set(places)) == (7 if np.isfinite(unit[i]).all() else 0)
      np.testing.assert_allclose(s[places], cosines, atol=1e-12)
  assert all(len(p) == 147 for _, p, _ in R.top(items._replace(x=I["x"]), k=1000))


@pytest.mark.parametrize("k", [1, 5])
def test_knn_of_sklearn(k):
  found = R.knn(I["refs"], I["ref_label"], I["x"], k)
  model = neighbors.KNeighborsClassifier(k, metric="cosine", algorithm="brute")
  want = model.fit(I["refs"], I["ref_label"])
  votes = want.predict_proba(I["x"])
  clear = np.sort(votes, 1)[:, -1] > np.sort(votes, 1)[:, -2]
  assert clear.sum() > 100
  np.testing.assert_array_equal(found[clear], want.predict(I["x"])[clear])
  assert np.all(votes[np.arange(150), found] == votes.max(1))
  assert R.knn(I["refs"], I["ref_label"], np.full((1, 12), np.nan), k).tolist() == [-1]
  with pytest.raises(ValueError, match="k <= 200"):
    R.knn(I["refs"], I["ref_label"], I["x"], 201)


def test_knn_votes_by_similarity():
  at = lambda *a: np.stack([np.cos(a), np.sin(a)], 1)
  x = at(0.3, 0.5, 0.2, 0.6, 1.0)
  assert R.knn(x, [1, 1, 0, 0, 2], at(0.0), 4).tolist() == [1]  # .3 and .5 beside .2 and .6
  assert R.knn(x, [1, 1, 0, 0, 2], at(0.0), 1).tolist() == [0]


def test_centroids():
  centres = R.centroids(I["x"], np.where(I["label"] == 2, -1, I["label"]), 6)
  unit = I["x"] / np.linalg.norm(I["x"], axis=1, keepdims=True)
  for c in (0, 1, 3):
    mean = unit[I["label"] == c].mean(0)
    np.testing.assert_allclose(centres[c], mean / np.linalg.norm(mean), rtol=1e-5)
  assert np.isnan(centres[2]).all()
  x = np.concatenate([I["x"], np.full((1, 12), np.nan)])
  found = R.nearest_centroid(centres, x)
  want = neighbors.NearestCentroid().fit(centres[[0, 1, 3, 4, 5]], [0, 1, 3, 4, 5]).predict(unit)
  np.testing.assert_array_equal(found[:-1], want)
  assert found[-1] == -1 and not np.any(found == 2)
  matrix = R.confusion(np.append(I["label"], 0), found, 6)
  np.testing.assert_array_equal(matrix, metrics.confusion_matrix(I["label"], want, labels=range(6)))


def test_track_embeddings():
  track = np.array([7, 7, 3, 9, 3, 7])
  x = np.float32(np.random.default_rng(0).standard_normal((6, 4)))
  items = R.Embedded(x, np.array([1, 1, 0, 2, 0, 1]), track, np.array([5, 5, 6, 5, 6, 5]))
  got, first = R.by_track(items)
  assert got.track.tolist() == [7, 3, 9] and first.tolist() == [0, 2, 3]
  assert got.label.tolist() == [1, 0, 2] and got.artist.tolist() == [5, 6, 5]
  unit = x / np.linalg.norm(x, axis=1, keepdims=True)
  mean = unit[track == 7].mean(0)
  np.testing.assert_allclose(got.x[0], mean / np.linalg.norm(mean), rtol=1e-5)
  with pytest.raises(ValueError, match="track 3 has several labels"):
    R.by_track(items._replace(label=np.array([1, 1, 0, 2, 1, 1])))


def test_shapes_are_checked():
  with pytest.raises(ValueError, match="shapes"):
    R.rank(R.Embedded(I["x"], I["label"][:9], np.arange(150)))
  with pytest.raises(ValueError, match="12 dimensions, references 5"):
    R.rank(QUERIES, REFS._replace(x=I["refs"][:, :5]))
  with pytest.raises(ValueError, match="artist"):
    R.rank(QUERIES, artists=True)
