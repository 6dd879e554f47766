"""Cached log-mels: as made on the fly, split by track, with exact statistics; failures are told."""

import hashlib
import json
from collections import Counter

import numpy as np
import pytest
from ml_collections import ConfigDict

from big_audio import input_pipeline as ip
from big_audio.datasets import arrayrecord, features, tracks
from big_audio.dsp.fbank import fbank
from big_audio.tools import manifests, prepare_features
from tests.datasets.conftest import corrupt_flac, cut, own_cache, write  # noqa: F401

CHUNK = dict(secs=0.5, strategy="random", most=3, min_secs=0.1)
SMALL = dict(chunk=CHUNK, frames=50, n_mels=16, dtype="float32", jobs=2)


@pytest.fixture
def tree(tmp_path):
  """3 classes of 6 recordings of 0.3 to 2 s at 16 kHz, and one class at 8 kHz."""
  rng = np.random.default_rng(0)
  for c, place in enumerate(("a/x", "a/y", "b/x")):
    for i in range(6):
      n = int(16000 * (0.3 + 0.34 * i))
      wav = (0.02 * 3**c) * rng.standard_normal((n, 1)) * np.linspace(0.1, 1, n)[:, None]
      write(tmp_path / "in" / place / f"{i}.wav", wav, 16000 if c else 8000)
  return tmp_path / "in"


def lines(target):
  return manifests.read(target / "manifest.jsonl")


def test_records_by_hand(tree, tmp_path):
  card = prepare_features.prepare(tree, tmp_path / "out", **SMALL)
  source = tracks.Source(str(tree), split="test", sr=16000, chunk=CHUNK)
  cached = features.Source(str(tmp_path / "out"), "test")
  assert len(cached) == len(source) == card["splits"]["test"]["examples"] > 3
  assert cached.classes == source.classes == ["a/x", "a/y", "b/x"]
  for k in source.columns:
    np.testing.assert_array_equal(cached.columns[k], source.columns[k])
  for e, want in zip(cached, source):
    assert {k: e[k] for k in ("id", "label", "track", "artist")} == {
      k: want[k] for k in ("id", "label", "track", "artist")
    }
    mel = fbank(want["wav"].numpy(), n_mels=16)[:50]
    np.testing.assert_array_equal(e["fbank"][: len(mel)], mel)
    assert not e["fbank"][len(mel) :].any() and e["fbank"].shape == (50, 16)
  assert cached.split_record() == source.split_record()


@pytest.mark.parametrize("sampler", [None, dict(name="pk", p=3, k=2)])
def test_cached_and_on_the_fly_give_equal_batches(tree, tmp_path, sampler):
  prepare_features.prepare(tree, tmp_path / "out", **SMALL, shard_mb=0.01)
  assert len([*(tmp_path / "out").glob("train-*")]) > 2
  tail = "mask_fbank(3, 9)|shift_fbank(4)|ast_normalise|noise_fbank(0.03, 0.07)|keep('fbank', 'id', 'label', 'track', 'artist')"  # noqa: E501
  read = {}
  for name, spec in (
    ("fly", dict(source="tracks", dir=str(tree), sr=16000, chunk=CHUNK,
                 pp=f"fbank(50, n_mels=16, cut=True)|{tail}")),
    ("cached", dict(source="features", dir=str(tmp_path / "out"), pp=tail)),
  ):  # fmt: skip
    cfg = dict(batch_size=6, num_threads=0, data=dict(music=spec))
    if sampler:
      cfg["sampler"] = sampler
    with ip.train_batches(ConfigDict(cfg), seed=1) as batches:
      read[name] = [next(batches) for _ in range(8)]
  for a, b in zip(read["fly"], read["cached"]):
    assert a.keys() == b.keys() and a["fbank"].shape == (6, 50, 16)
    for k in a:
      np.testing.assert_array_equal(a[k], b[k])


def test_statistics_are_of_training_frames_without_padding_defects_2_and_3(tree, tmp_path):
  """The reference merged means of batches only, and divided by the deviation, not by twice it."""
  card = prepare_features.prepare(tree, tmp_path / "out", **SMALL, shard_mb=0.02,
                                  statistics="dataset")  # fmt: skip
  source = tracks.Source(str(tree), sr=16000, chunk=CHUNK)
  assert any(e["wav"].shape[0] < 8000 for e in source)  # there is padding
  x = np.concatenate([fbank(e["wav"].numpy(), n_mels=16).ravel() for e in source])
  stats = card["statistics"]["dataset"]
  assert stats["values"] == len(x)
  np.testing.assert_allclose([stats["mean"], stats["std"]], [x.mean(dtype=np.float64), x.std(dtype=np.float64)], rtol=1e-9)  # fmt: skip  # noqa: E501
  assert card["statistics"]["audioset"] == dict(mean=-4.2677393, std=4.5689974)
  spec = dict(source="features", dir=str(tmp_path / "out"), pp=card["pp"] + "|keep('fbank', 'id')")
  batches = ip.eval_batches(spec, batch_size=4)
  length = {line["id"]: line["frames"] for line in lines(tmp_path / "out")}
  seen = {i: f[: length[i]] for b in batches for i, f in zip(b["id"], b["fbank"])}
  everything = np.concatenate([f.ravel() for f in seen.values()])
  assert abs(everything.mean()) < 1e-4 and abs(everything.std() - 0.5) < 1e-4


def test_the_manifest_says_where_each_chunk_is_from(tree, tmp_path):
  card = prepare_features.prepare(tree, tmp_path / "out", **SMALL)
  rows = lines(tmp_path / "out")
  assert (
    len({r["id"] for r in rows}) == len(rows) == sum(s["examples"] for s in card["splits"].values())
  )
  for r in rows:
    assert r["sha256"] == hashlib.sha256((tree / f"{r['track_name']}.wav").read_bytes()).hexdigest()
    assert (
      r["id"] == f"{r['track_name']}@{r['start_secs'][0]:g}" or len(str(r["start_secs"][0])) > 6
    )
    assert r["track_name"].startswith(r["class_name"]) and len(r["start_secs"]) == 1
  by_track = Counter((r["track_name"], r["split"]) for r in rows)
  assert len(by_track) == 18 and max(by_track.values()) == 3  # no track in two splits
  for s in card["shards"]:
    data = (tmp_path / "out" / s["name"]).read_bytes()
    assert hashlib.sha256(data).hexdigest() == s["sha256"] and len(data) == s["bytes"]
  assert (tmp_path / "out/failed.jsonl").read_text() == ""


def test_one_example_a_recording_is_the_mean_of_its_chunks(tree, tmp_path):
  prepare_features.prepare(tree, tmp_path / "many", **SMALL)
  prepare_features.prepare(tree, tmp_path / "one", **SMALL, single_chunk=True)
  many, one = (features.Source(str(tmp_path / d)) for d in ("many", "one"))
  assert len(one) == len(set(many.columns["track"])) and len(many) > len(one)
  for e in one:
    mine = [m["fbank"] for m in many if m["track"] == e["track"]]
    np.testing.assert_allclose(e["fbank"], np.mean(mine, 0), rtol=1e-6, atol=1e-6)
  assert max(len(r["start_secs"]) for r in lines(tmp_path / "one")) == 3


def test_half_precision(tree, tmp_path):
  prepare_features.prepare(tree, tmp_path / "full", **SMALL)
  prepare_features.prepare(tree, tmp_path / "half", **{**SMALL, "dtype": "float16"})
  full, half = (features.Source(str(tmp_path / d)) for d in ("full", "half"))
  worst = max(np.abs(a["fbank"] - b["fbank"]).max() for a, b in zip(full, half))
  assert 0 < worst < 0.004 and half[0]["fbank"].dtype == np.float32
  stored = lambda d: arrayrecord.Source(f"{tmp_path}/{d}/train-*.arrayrecord")[0]["fbank"].dtype
  assert stored("half") == np.float16 and stored("full") == np.float32


def test_a_killed_run_goes_on(tree, tmp_path, monkeypatch):
  kw = dict(SMALL, shard_mb=0.01, jobs=1)
  whole = prepare_features.prepare(tree, tmp_path / "whole", **kw)
  real, calls = prepare_features._Maker.make, []

  def dies(self, item):
    calls.append(item.id)
    if len(calls) == 9:
      raise KeyboardInterrupt
    return real(self, item)

  monkeypatch.setattr(prepare_features._Maker, "make", dies)
  with pytest.raises(KeyboardInterrupt):
    prepare_features.prepare(tree, tmp_path / "out", **kw)
  assert not (tmp_path / "out/card.json").exists()
  assert not any("tmp" in p.name for p in (tmp_path / "out").iterdir())
  card = prepare_features.prepare(tree, tmp_path / "out", **kw)
  assert len(calls) < 9 + 14, "complete shards were written again"
  assert card["shards"] == whole["shards"] and card["statistics"] == whole["statistics"]
  assert lines(tmp_path / "out") == lines(tmp_path / "whole")
  with pytest.raises(ValueError, match="n_mels: there 16, now 32"):
    prepare_features.prepare(tree, tmp_path / "out", **{**kw, "n_mels": 32})


def test_damaged_files_are_listed_up_to_a_share_defect_10(tree, tmp_path):
  cut(tree / "b/x/0.wav", 20)
  corrupt_flac(tree / "b/x/bad.flac")
  write(tree / "b/x/short.wav", np.zeros((200, 1)), 16000)
  with pytest.raises(ValueError, match="2 of 19 recordings cannot be used, more than"):
    prepare_features.prepare(tree, tmp_path / "out", **SMALL)
  card = prepare_features.prepare(tree, tmp_path / "out", **SMALL, max_bad_share=0.2)
  assert card["failed"] == 2 and card["left_out"] == 1
  told = {r["id"]: r["reason"] for r in manifests.read(tmp_path / "out/failed.jsonl")}
  assert sorted(told) == ["b/x/0.wav", "b/x/bad", "b/x/short.wav"]
  assert "shorter than min_secs" in told["b/x/short.wav"]
  assert not {"b/x/0", "b/x/bad", "b/x/short"} & {r["track_name"] for r in lines(tmp_path / "out")}


def test_the_command_line(tree, tmp_path, capsys):
  out = tmp_path / "out"
  args = [str(tree), str(out), "--secs", "0.5", "--frames", "50", "--n-mels", "16",
          "--min-secs", "0.1", "--most", "2", "--chunk-strategy", "spaced"]  # fmt: skip
  prepare_features.main([*args, "--folds", "3", "--fold", "1", "--statistics", "dataset"])
  said = capsys.readouterr().out
  assert "test: " in said and 'source="features"' in said and 'pp="ast_normalise(-' in said
  card = json.loads((out / "card.json").read_text())
  assert {k: v["recordings"] for k, v in card["splits"].items()} == {
    "train": 9, "validation": 3, "test": 6,
  }  # fmt: skip
  assert (
    card["settings"]["chunk"]["strategy"] == "spaced" and card["splits"]["test"]["examples"] > 6
  )
  for more, said in (
    (["--fold", "1", "--split", "train=1"], "exclude each other"),
    (["--folds", "3"], "--folds needs --fold"),
    (["--split", "train=0.5", "--split", "train=0.5"], "names a split twice"),
    (["--label", "("], "is not a regular expression"),
    (["--frames", "20"], "do not fit into 20 frames"),
    (["--overlap", "0.5"], "its chunks|whose chunks never overlap"),
    (["--min-secs", "0.01"], "must be 0.025 or more"),
  ):
    with pytest.raises(SystemExit, match=f"prepare_features: .*({said})"):
      prepare_features.main([*args, *more])
  with pytest.raises(SystemExit, match="no such folder"):
    prepare_features.main([str(tree / "nothing"), str(out)])


def test_a_manifest_leads_nowhere_else(tree, tmp_path):
  out = tmp_path / "out"
  prepare_features.prepare(tree, out, **SMALL)
  good = lines(out)

  def refused(said, **change):
    manifests.write(out / "manifest.jsonl", [*good[:-1], {**good[-1], **change}])
    with pytest.raises(ValueError, match=said):
      features.Source(str(out), good[-1]["split"])

  refused("which is not beside it", shard="../out/" + good[-1]["shard"], row=0)
  refused("does not list the rows", row=77)
  refused("expected id, split", label="x")
  refused("not those of card.json", label=7)
  manifests.write(out / "manifest.jsonl", good[:-1])
  with pytest.raises(ValueError, match="the manifest lists"):
    features.Source(str(out), good[-1]["split"])
  manifests.write(out / "manifest.jsonl", [{**r, "id": r["id"] + "x"} for r in good])
  with pytest.raises(ValueError, match="record 0 is"):
    features.Source(str(out))[0]
  with pytest.raises(ValueError, match='no split "trains". Did you mean "train"'):
    features.Source(str(out), "trains")
  with pytest.raises(ValueError, match="cannot read manifest.jsonl"):
    features.Source(str(tree))
