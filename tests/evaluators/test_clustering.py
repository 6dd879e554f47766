"""Agreement of clusters with classes, and the linear probe: known cases and sklearn by hand."""

import numpy as np
import pytest
import threadpoolctl
from sklearn import linear_model, metrics

from big_audio.evaluators import clustering, probe, ranking


@pytest.fixture(autouse=True)
def one_thread():
  """Small problems: two threads of BLAS would wait for each other on a busy machine."""
  with threadpoolctl.threadpool_limits(1):
    yield


def blobs(n=90, classes=3, noise=0.1, seed=0, dims=6):
  rng = np.random.default_rng(seed)
  label = np.arange(n) % classes
  centres = np.eye(dims)[:classes]
  return np.float32(centres[label] + noise * rng.standard_normal((n, dims))), label


def test_clusters_that_are_the_classes():
  x, label = blobs()
  got = clustering.scores(x, label)
  for name in ("nmi", "ari", "ami", "purity"):
    assert got[name] == pytest.approx(1)
  want = metrics.silhouette_score(x, label, metric="cosine")
  assert got["silhouette"] == pytest.approx(want, rel=1e-5) and want > 0.8
  scaled = clustering.scores(x * np.random.default_rng(1).uniform(0.1, 9, (90, 1)), label)
  assert scaled == pytest.approx(got, rel=1e-4)  # only directions count


def test_silhouette_is_of_true_labels_and_chance_is_corrected():
  x, label = blobs()
  shuffled = np.random.default_rng(0).permutation(label)
  got = clustering.scores(x, shuffled)
  assert abs(got["ari"]) < 0.1 and abs(got["ami"]) < 0.1 and got["silhouette"] < 0.05
  with_trash = clustering.scores(
    np.concatenate([x, -x[:9]]), np.concatenate([label, np.full(9, -1)])
  )
  assert with_trash == pytest.approx(clustering.scores(x, label))


def test_purity_by_hand():
  assert clustering.purity([0, 0, 1, 1, 2, 2], [5, 5, 5, 3, 3, 3]) == pytest.approx(4 / 6)


def test_what_cannot_be_clustered():
  x, label = blobs()
  with pytest.raises(ValueError, match="1 classes"):
    clustering.scores(x, np.zeros(90, int))
  with pytest.raises(ValueError, match="0 classes"):
    clustering.scores(np.full_like(x, np.nan), label)


def test_items_that_are_no_number_are_left_out_of_clusters():
  x, label = blobs()
  broken = x.copy()
  broken[::9] = np.nan
  here = np.arange(len(x)) % 9 > 0
  assert clustering.scores(broken, label) == clustering.scores(x[here], label[here])


def test_probe_is_a_standardised_logistic_regression():
  x, label = blobs(noise=0.6)
  x = x * np.float32([1, 100, 1, 1, 1e-3, 1]) + 5
  group = np.arange(90) // 2
  label = label[group]
  test, _ = blobs(60, noise=0.6, seed=1)
  test = test * np.float32([1, 100, 1, 1, 1e-3, 1]) + 5
  found, c = probe.linear(x, label, group, test)
  assert c in probe.STRENGTHS
  x, test = np.float64(x), np.float64(test)
  z = (x - x.mean(0)) / x.std(0)
  model = linear_model.LogisticRegression(C=c, max_iter=2000).fit(z, label)
  np.testing.assert_array_equal(found, model.predict((test - x.mean(0)) / x.std(0)))


def test_probe_does_not_share_groups_between_folds():
  """Noise that tells the track but not the class: within tracks it would look perfect."""
  rng = np.random.default_rng(0)
  group = np.repeat(np.arange(30), 3)
  label = rng.integers(0, 2, 30)[group]
  x = rng.standard_normal((30, 30))[group] + 0.01 * rng.standard_normal((90, 30))
  _, c = probe.linear(x, label, group, x, folds=3)
  _, leaky = probe.linear(x, label, np.arange(90), x, folds=3)
  assert leaky > c  # folds with the same tracks choose to learn them by heart


def test_what_cannot_be_probed():
  x, label = blobs(9)
  with pytest.raises(ValueError, match="one track only"):
    probe.linear(x, label, np.where(label == 1, 0, np.arange(9)), x)
  with pytest.raises(ValueError, match="not finite"):
    probe.linear(x, label, np.arange(9), np.full_like(x, np.nan))
  assert ranking.unit(x).dtype == np.float64
