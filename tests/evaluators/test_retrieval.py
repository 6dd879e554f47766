"""The report of embeddings, its evaluator and files, and the baseline of mel statistics."""

import builtins
import csv
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import threadpoolctl
from matplotlib.image import imread

from big_audio import input_pipeline, sharding
from big_audio.dsp.mel import mel_bank
from big_audio.evaluators import clustering, probe, ranking, retrieval


@pytest.fixture(autouse=True)
def one_thread():
  """Small problems: two threads of BLAS would wait for each other on a busy machine."""
  with threadpoolctl.threadpool_limits(1):
    yield


NAMES = ["ambient", "drum, bass", "dub $x$"]


def cloud(tracks=18, chunks=3, noise=0.5, seed=0, first=0):
  """Chunks of tracks of 3 classes in 8 dimensions."""
  rng = np.random.default_rng(seed)
  track = np.repeat(np.arange(tracks), chunks)
  label = track % 3
  centre = np.eye(8)[:3][label] + noise * rng.standard_normal((tracks, 8))[track]
  x = centre + 0.3 * rng.standard_normal((len(track), 8))
  return ranking.Embedded(np.float32(x), label, track + first, track % 5)


class Source:
  """The items of a cloud, whose embedding a batch holds as it is."""

  def __init__(self, seed, first=0, broken=False):
    self.items = cloud(seed=seed)
    self.first, self.broken = first, broken

  def __len__(self):
    return len(self.items.label)

  def __getitem__(self, i):
    x, label, track, artist = (v[i] for v in self.items)
    x = np.full_like(x, np.nan) if self.broken and i == 0 else x
    name = f"{NAMES[label]}/träck{track + self.first}#{i}"
    return dict(x=x, label=label, track=track + self.first, artist=artist, id=name)


def run(monkeypatch, tmp_path, devices=1, train=True, predict=None, **kw):
  monkeypatch.setattr(
    input_pipeline.data_sets.sources, "build", lambda kind, where="", **given: Source(**given)
  )
  mesh = sharding.make_mesh(jax.devices()[:devices])
  predict = predict or (lambda state, batch, rng: {"embedding": 3 * batch["x"]})
  data = kw.pop("data", dict(source="x", seed=1, pp=""))
  train = dict(source="x", seed=2, first=100, pp="") if train is True else train
  evaluator = retrieval.Evaluator(
    {"embed": predict}, data=data, train_data=train, batch_size=16, mesh=mesh,
    workdir=str(tmp_path), names=NAMES, **kw,
  )  # fmt: skip
  return dict(evaluator.run({"step": jnp.int32(7)}))


def table(path):
  with open(path, newline="", encoding="utf-8") as f:
    return list(csv.reader(f))


def test_evaluator_writes_and_yields_the_report(monkeypatch, tmp_path):
  got = run(monkeypatch, tmp_path, devices=2, artists=True)
  train, test = cloud(seed=2), cloud(seed=1)
  want = retrieval.report(train, test, names=NAMES, artists=True)
  assert got.keys() == want["values"].keys()
  for k, v in want["values"].items():
    assert got[k] == pytest.approx(v, rel=1e-5), k
  folder = tmp_path / "samples" / "7"
  assert {p.name for p in folder.iterdir()} == {
    "confusion.csv", "confusion.png", "centroids.csv", "tracks.csv", "pca.png"
  }  # fmt: skip
  tracks, _ = ranking.by_track(test)
  rows = table(folder / "tracks.csv")
  assert rows[0] == ["id", "class", *NAMES] and len(rows) == 19
  assert rows[2][:2] == ["drum, bass/träck1#3", "drum, bass"]
  centres = np.stack([
    (m := ranking.by_track(train)[0].x[np.arange(18) % 3 == c].mean(0)) / np.linalg.norm(m)
    for c in range(3)
  ])  # fmt: skip
  np.testing.assert_allclose(np.array(rows[2][2:], float), centres @ tracks.x[1], atol=2e-6)
  cosine = np.array([r[1:] for r in table(folder / "centroids.csv")[1:]], float)
  np.testing.assert_allclose(cosine, centres @ centres.T, atol=2e-6)
  matrix = np.array([r[1:] for r in table(folder / "confusion.csv")[1:]], int)
  found = (tracks.x @ centres.T).argmax(1)
  assert matrix[1, 2] == np.sum((tracks.label == 1) & (found == 2)) and matrix.sum() == 18
  assert got["centroid"] == pytest.approx(np.mean(found == tracks.label))
  assert imread(folder / "pca.png").std() > 0.01


def test_report_is_made_of_its_parts():
  train, test = cloud(seed=2), cloud(seed=1)
  values = retrieval.report(train, test, names=NAMES, level="chunk", seed=3)["values"]
  assert values["items"] == values["queries"] == 54
  for k, v in {**ranking.rank(test), **clustering.scores(test.x, test.label, seed=3)}.items():
    assert values[k] == pytest.approx(v)
  for k in (1, 5):
    found = ranking.knn(train.x, train.label, test.x, k)
    assert values[f"knn{k}"] == np.mean(found == test.label)
  found, c = probe.linear(
    ranking.unit(train.x), train.label, train.track, ranking.unit(test.x), seed=3
  )
  assert values["probe"] == np.mean(found == test.label) and values["probe_c"] == c
  alone = retrieval.report(None, test, names=NAMES)["values"]
  assert alone["items"] == 18 and "knn1" not in alone and "nmi" in alone
  by_class = [alone[f"class/{n}/triplet_accuracy"] for n in NAMES]
  assert np.mean(by_class) == pytest.approx(alone["triplet_accuracy"])  # classes of equal size


def test_own_track_is_no_neighbour():
  """Tracks are far apart but for their own chunks, which say nothing of their class."""
  rng = np.random.default_rng(0)
  track = np.repeat(np.arange(40), 3)
  x = rng.standard_normal((40, 30))[track] + 0.01 * rng.standard_normal((120, 30))
  items = ranking.Embedded(x, track % 2, track)
  values = retrieval.report(None, items, names="ab", level="chunk", measures=["ranking"])["values"]
  assert 0.2 < values["p1"] < 0.8 and abs(values["triplet_accuracy"] - 0.5) < 0.1


def test_trash_and_what_is_no_number_are_wrong_but_counted(monkeypatch, tmp_path):
  kw = dict(measures=["ranking", "knn", "centroid"], level="chunk", prefix="a_")
  whole = run(monkeypatch, tmp_path, **kw)
  broken = run(monkeypatch, tmp_path, data=dict(source="x", seed=1, broken=True, pp=""), **kw)
  assert broken["queries"] == whole["queries"] and broken["centroid"] <= whole["centroid"]
  assert broken["triplet_accuracy"] < whole["triplet_accuracy"]
  assert (tmp_path / "samples" / "7" / "a_pca.png").exists()
  train, test = cloud(seed=2), cloud(seed=1)
  label = np.where(test.track == 0, -1, test.label)
  found = retrieval.report(train, test._replace(label=label), names=NAMES)
  kept = retrieval.report(
    train, ranking.Embedded(*(v[test.track > 0] for v in test)), names=NAMES
  )  # fmt: skip
  assert found["values"]["items"] == 18 and found["values"]["left_out"] == 1
  for k in ("knn1", "centroid", "probe", "nmi", "silhouette"):
    assert found["values"][k] == pytest.approx(kept["values"][k])
  assert found["confusion"].sum() == 17 and found["similarity"].shape == (18, 3)


def test_what_is_no_number_is_wrong_for_the_probe():
  train, test = cloud(seed=2), cloud(seed=1)
  x = test.x.copy()
  x[test.track == test.track[0]] = np.nan
  kw = dict(names=NAMES, measures=["probe"], level="chunk")
  whole = retrieval.report(train, test, **kw)["values"]["probe"]
  broken = retrieval.report(train, test._replace(x=x), **kw)["values"]["probe"]
  share = float(np.mean(test.track == test.track[0]))
  assert whole - share - 1e-9 <= broken <= min(whole, 1 - share) + 1e-9


def test_the_probe_keeps_artists_apart_only_where_it_is_told_to(monkeypatch):
  groups = []
  real = retrieval.probe.linear

  def linear(x, y, group, test, **kw):
    groups.append(group.tolist())
    return real(x, y, group, test, **kw)

  monkeypatch.setattr(retrieval.probe, "linear", linear)
  train, test = cloud(seed=2), cloud(seed=1)
  kw = dict(names=NAMES, measures=["probe"], level="chunk")
  retrieval.report(train, test, **kw)
  retrieval.report(train, test, artists=True, **kw)
  assert groups == [train.track.tolist(), train.artist.tolist()]
  assert groups[0] != groups[1]


def test_umap_where_it_is_installed(monkeypatch, tmp_path):
  seen = {}

  class UMAP:
    def __init__(self, **kw):
      seen.update(kw)

    def fit_transform(self, x):
      return x[:, :2]

  monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=UMAP))
  path = retrieval.picture(str(tmp_path), cloud(), NAMES)
  assert path.endswith("umap.png") and (tmp_path / "umap.png").exists()
  assert seen == dict(n_neighbors=15, min_dist=0.1, metric="cosine", random_state=42)
  real = builtins.__import__

  def missing(name, *a, **kw):
    if name == "umap":
      raise ImportError(name)
    return real(name, *a, **kw)

  monkeypatch.setattr(builtins, "__import__", missing)
  at, kind = retrieval.plane(cloud().x)
  assert kind == "pca"
  unit = ranking.unit(cloud().x)
  values = np.sort(np.linalg.eigvalsh(np.cov(unit.T)))[::-1]
  np.testing.assert_allclose(at.var(0, ddof=1), values[:2], rtol=1e-6)


def test_what_does_not_fit(monkeypatch, tmp_path):
  with pytest.raises(ValueError, match='"ranking"'):
    run(monkeypatch, tmp_path, measures=["rankings"])
  with pytest.raises(ValueError, match="train_data"):
    run(monkeypatch, tmp_path, train=None, measures=["knn"])
  with pytest.raises(ValueError, match="output of the model: there is no 'embedding'"):
    run(monkeypatch, tmp_path, predict=lambda s, b, r: {"embedding_": b["x"]})
  with pytest.raises(ValueError, match="in data and in train_data"):
    run(monkeypatch, tmp_path, train=dict(source="x", seed=1, pp=""))
  with pytest.raises(ValueError, match="no 'track'"):
    run(monkeypatch, tmp_path, data=dict(source="x", seed=1, pp="drop('track')"))
  with pytest.raises(ValueError, match="classes 0 to 1"):
    retrieval.report(None, cloud(), names="ab")
  with pytest.raises(ValueError, match="level"):
    retrieval.report(None, cloud(), names=NAMES, level="tracks")


def test_mel_statistics_by_the_definition():
  rng = np.random.default_rng(0)
  waves = [np.float32(0.1 * rng.standard_normal((n, 1))) for n in (8000, 3000, 40)]
  got = retrieval.mel_statistics(waves, 8000)
  assert got.shape == (3, 128) and np.isfinite(got).all()
  window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(256) / 256)
  wav = np.pad(waves[0][:, 0], 128)
  frames = np.stack([wav[i : i + 256] * window for i in range(0, 8001, 64)])
  mel = mel_bank(8000, 256, 64).T @ np.abs(np.fft.rfft(frames, axis=1)).T
  log = np.log10(np.maximum(mel, 1e-3))
  np.testing.assert_allclose(got[0, :64], log.mean(1), atol=1e-4)
  np.testing.assert_allclose(got[0, 64:], log.std(1), atol=1e-4)
  train, test = retrieval.standardised(got[:2], got[2:])
  np.testing.assert_allclose(train.mean(0), 0, atol=1e-4)
  varies = got[:2].std(0) > 1e-6
  np.testing.assert_allclose(train.std(0)[varies], 1, atol=1e-4)
  np.testing.assert_allclose(
    test[0][varies], ((got[2] - got[:2].mean(0)) / got[:2].std(0))[varies], rtol=1e-4
  )
  assert not train[:, ~varies].any() and not test[:, ~varies].any()
  with pytest.raises(ValueError, match="wave 0"):
    retrieval.mel_statistics([np.zeros((0, 1))], 8000)
