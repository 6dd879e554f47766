"""Recordings with classes: what a track is, how it is cut, and what keeps splits apart."""

import json
import pickle
import re
from collections import Counter

import numpy as np
import pytest

from big_audio import input_pipeline as ip
from big_audio.datasets import build, splits
from big_audio.datasets.chunks import Chunks
from big_audio.datasets.tracks import Source
from tests.datasets.conftest import cut, tone, write


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
  """2 genres, 3 sub-genres, 6 tracks of 1 to 2 s each; titles are the same in all of them."""
  folder = tmp_path_factory.mktemp("music")
  for place in ("techno/hard", "techno/deep", "house/deep"):
    for i in range(6):
      write(folder / place / f"title {i}.wav", tone(1 + i / 5))
  return folder


def test_labels_are_folders_and_equal_titles_stay_apart_defect_10(tree):
  s = Source(str(tree), split="all")
  assert s.classes == ["house/deep", "techno/deep", "techno/hard"]
  assert len(s) == len(s.tracks) == 18 and s.tracks[0] == "house/deep/title 0"
  assert len(set(s.columns["track"])) == 18
  e = s[7]
  assert e["id"] == "techno/deep/title 1" and e["label"] == 1 and e["sr"] == 8000
  assert s.tracks[e["track"]] == e["id"] and e["artist"] == e["track"]
  np.testing.assert_allclose(e["wav"].numpy(), tone(1.2), atol=1e-4)
  assert {k: v.dtype.name for k, v in s.columns.items()} == dict.fromkeys(s.columns, "int32")
  assert set(s.columns) == {"label", "track", "artist"}


def test_two_files_of_one_name_are_refused_defect_10(tree, tmp_path):
  for name in ("a/x.wav", "a/x.flac", "b/x.wav"):
    write(tmp_path / name)
  with pytest.raises(ValueError, match=r'"a/x.flac" and "a/x.wav" are one track'):
    Source(str(tmp_path))


def test_numbers_are_the_same_in_all_splits(tree):
  whole, seen = Source(str(tree), split="all"), {}
  for split in ("train", "validation", "test"):
    s = Source(str(tree), split=split)
    assert s.classes == whole.classes and s.tracks == whole.tracks
    for e in s:
      assert e["id"] not in seen
      seen[e["id"]] = e["label"], e["track"], e["artist"]
  assert seen == {e["id"]: (e["label"], e["track"], e["artist"]) for e in whole}


def test_splits_are_by_track_never_by_chunk_defect_1(tree):
  """The reference split triplets of chunks, so that chunks of one track were on both sides."""
  chunk = dict(secs=0.3, strategy="sequential", most=None, min_secs=0)
  tracks = {}
  for split in ("train", "validation", "test"):
    s = Source(str(tree), split=split, chunk=chunk)
    assert len(s) > 2 * len(set(s.columns["track"]))
    tracks[split] = set(s.columns["track"].tolist())
    assert set(s.columns["label"]) == {0, 1, 2}
  assert not tracks["train"] & tracks["test"] and not tracks["train"] & tracks["validation"]
  assert sum(map(len, tracks.values())) == 18


def test_the_split_does_not_depend_on_how_recordings_are_cut(tree):
  whole = Source(str(tree)).split_record()
  s = Source(str(tree), split="test", chunk=dict(secs=1.5, short="skip"))
  assert s.split_record() == whole
  assert s.excluded and all("shorter than a chunk of 1.5 s" in r for r in s.excluded.values())


def test_flat_folders_by_expressions(tmp_path):
  for digit in "01":
    for speaker in ("ann", "bob", "cyd"):
      for i in range(4):
        write(tmp_path / f"{digit}_{speaker}_{i}.wav")
  s = Source(str(tmp_path), split="all", label=r"^(\d)_", artist=r"^\d_([a-z]+)_")
  assert s.classes == ["0", "1"] and s.artists == ["ann", "bob", "cyd"]
  assert Counter(zip(*(s.columns[k].tolist() for k in ("label", "artist")))) == {
    (c, a): 4 for c in (0, 1) for a in range(3)
  }
  speakers = [
    {s.artists[a] for a in Source(str(tmp_path), split=n, label=r"^(\d)_",
                                  artist=r"^\d_([a-z]+)_").columns["artist"]}
    for n in ("train", "validation", "test")
  ]  # fmt: skip
  assert sorted(map(len, speakers)) == [1, 1, 1] and len(set.union(*speakers)) == 3
  with pytest.raises(ValueError, match="lie in no folder.*Give label"):
    Source(str(tmp_path))
  with pytest.raises(ValueError, match="label=.*must have one group"):
    Source(str(tmp_path), label=r"^\d_")


LIST = """path,label,artist,track,split,fold,title
a.wav,x,ann,,train,0,A
b.wav,x,ann,,train,1,B
c1.wav,x,bob,c,test,2,C
c2.wav,x,bob,c,test,2,C
d.wav,y,,,train,0,D
e.wav,y,cyd,,train,1,E
f.wav,y,dan,,test,2,F
"""


@pytest.fixture
def listed(tmp_path):
  for name in ("a", "b", "c1", "c2", "d", "e", "f", "unlisted"):
    write(tmp_path / f"{name}.wav")
  (tmp_path / "list.csv").write_text(LIST)
  return tmp_path / "list.csv"


def test_a_list_with_tracks_artists_splits_and_folds(listed):
  s = Source(list=str(listed), splits="split")
  assert [e["id"] for e in s] == ["a", "b", "d", "e"]
  assert s.tracks == ["a", "b", "c", "d", "e", "f"]
  assert s.artists == ["(d)", "ann", "bob", "cyd", "dan"]
  assert s.split_record() == {"test": ["c", "f"], "train": ["a", "b", "d", "e"]}
  both = Source(list=str(listed), split="test", splits="split")
  assert [e["id"] for e in both] == ["c1", "c2", "f"] and both.columns["track"].tolist() == [
    2,
    2,
    5,
  ]
  by_fold = dict(fold=2, validation=0)
  assert Source(list=str(listed), splits=by_fold).split_record() == s.split_record()
  with pytest.raises(ValueError, match='has a column "split"'):
    Source(list=str(listed))


@pytest.mark.parametrize(
  "row,said",
  [
    ("../a.wav,x,,,,,", r'line 9: path "../a.wav": expected one below'),
    ("/etc/a.wav,x,,,,,", "expected one below"),
    ("a.wav,x,,,,,", '"a.wav" is listed twice'),
    ("unlisted.wav,,,,,,", '"unlisted.wav" has no label'),
    ("gone.wav,x,,,,,", "1 of 8 paths are not below .*gone.wav"),
    ("unlisted.wav,y,bob,c,test,2,", 'track "c" has several labels'),
  ],
)
def test_rows_that_cannot_be_used(listed, row, said):
  listed.write_text(LIST + row + "\n")
  with pytest.raises(ValueError, match=said):
    Source(list=str(listed), splits="split")


def test_other_lists_that_cannot_be_used(listed):
  with pytest.raises(ValueError, match="columns of the list"):
    Source(list=str(listed), label="(.)")
  with pytest.raises(ValueError, match="expected dir, list"):
    Source()
  listed.write_text("file,label\na.wav,x\n")
  with pytest.raises(ValueError, match='no column "path", only file, label'):
    Source(list=str(listed))


@pytest.mark.parametrize(
  "given,n",
  [
    (None, {"train": 12, "validation": 3, "test": 3}),
    ({"train": 0.5, "test": 0.5}, {"train": 9, "test": 9}),
    ({"train": "[0-3].wav$", "test": "[45].wav$"}, {"train": 12, "test": 6}),
    (dict(fold=1, folds=3), {"train": 9, "validation": 3, "test": 6}),
  ],
)
def test_kinds_of_splits_and_their_record(tree, tmp_path, given, n):
  record = Source(str(tree), splits=given).split_record()
  assert {k: len(v) for k, v in record.items()} == n
  assert json.loads(json.dumps(record)) == record
  stored = tmp_path / "x.json"
  for content in (record, {"music": record}):
    stored.write_text(json.dumps(content))
    assert Source(str(tree), split="test", splits=str(stored)).split_record() == record


def test_every_fold_is_the_test_once(tree):
  tests = [
    Source(str(tree), splits=dict(fold=f, folds=3), split_seed=4).split_record()["test"]
    for f in range(3)
  ]
  assert sorted(t for tracks in tests for t in tracks) == Source(str(tree)).tracks


def test_splits_that_cannot_be_used(tree, tmp_path):
  (tmp_path / "bad.json").write_text(json.dumps({"train": ["nowhere/x"]}))
  (tmp_path / "twice.json").write_text(
    json.dumps({"train": ["techno/deep/title 1"], "test": ["techno/deep/title 1"]})
  )
  for given, said in (
    (str(tmp_path / "bad.json"), "names 1 unknown tracks: nowhere/x"),
    (str(tmp_path / "twice.json"), "is in train and test"),
    (str(tmp_path / "none.json"), "cannot read"),
    ("split", 'the list has no column "split"'),
    ("splits", "expected shares, rules"),
    (dict(fold=1), 'column "fold" has to be a number'),
    (dict(fold=1, fold_count=3), "it takes fold, folds, validation"),
    ({"train": 0.5}, "add up to 1"),
  ):
    with pytest.raises(ValueError, match=said):
      Source(str(tree), splits=given)
  with pytest.raises(ValueError, match='no split "valid". There are test, train, validation'):
    Source(str(tree), split="valid")


def test_trash_belongs_to_no_class(tree, tmp_path):
  for i in range(4):
    write(tmp_path / "noise" / f"kind{i}" / "x.wav")
  for place in ("a", "b"):
    for i in range(5):
      write(tmp_path / place / f"{i}.wav")
  s = Source(str(tmp_path), split="all", trash="noise")
  assert s.classes == ["a", "b"]
  assert Counter(s.columns["label"].tolist()) == {-1: 4, 0: 5, 1: 5}
  with pytest.raises(ValueError, match='trash="nose" has no tracks'):
    Source(str(tmp_path), trash="nose")


def test_too_little_to_train_on(tmp_path):
  for i in range(5):
    write(tmp_path / "a" / f"{i}.wav")
  with pytest.raises(ValueError, match="expected 2 classes or more, got a"):
    Source(str(tmp_path))
  for i in range(3):
    write(tmp_path / "b" / f"{i}.wav")
  with pytest.raises(ValueError, match=r'2 tracks or more of each class.*"b" \(1\)'):
    Source(str(tmp_path))
  assert len(Source(str(tmp_path), split="test")) == 2  # which needs no more than one


def test_unreadable_recordings_are_listed_defect_10(tree, tmp_path, capsys):
  for place in ("a", "b"):
    for i in range(5):
      write(tmp_path / place / f"{i}.wav")
  cut(tmp_path / "a/0.wav", 20)
  cut(tmp_path / "a/1.wav", 44)
  s = Source(str(tmp_path), split="all")
  assert set(s.excluded) == {"a/0.wav", "a/1.wav"} and s.excluded["a/1.wav"] == "empty"
  assert "2 of 10 files left out: a/0.wav" in capsys.readouterr().err


def naive_starts(room, length, k):
  """All placements of k chunks without overlap, by trying every tuple."""
  import itertools

  return [
    t for t in itertools.combinations(range(room - length + 1), k)
    if all(b - a >= length for a, b in itertools.pairwise(t))
  ]  # fmt: skip


def test_sequential_and_spaced_starts_defect_4():
  seq = lambda **kw: Chunks(secs=1, strategy="sequential", **kw).starts(105, 10, 10, "x").tolist()
  assert seq(most=None) == [*range(0, 100, 10)]
  assert seq(most=3) == [0, 10, 20]
  assert seq(most=None, overlap=0.5) == [*range(0, 96, 5)]
  assert seq(most=None, edge_secs=3) == [30, 40, 50, 60]
  assert seq(most=2, edge_secs=4.9) == [0, 10]  # no chunk fits between: up to the ends
  spaced = lambda k, n=105: Chunks(secs=1, strategy="spaced", most=k).starts(n, 10, 10, "x")
  assert spaced(1).tolist() == [47] and spaced(2).tolist() == [0, 95]
  assert spaced(3).tolist() == [0, 47, 95]
  assert spaced(50).tolist() == np.linspace(0, 95, 10).astype(int).tolist()
  assert spaced(5, 10).tolist() == spaced(5, 4).tolist() == [0]


def test_random_starts_are_uniform_over_all_placements_defect_4():
  room, length, k = 13, 4, 2
  every = naive_starts(room, length, k)
  chunks = Chunks(secs=4, strategy="random", most=k)
  n = 200 * len(every)
  got = Counter(tuple(chunks.starts(room, length, 1, f"t{i}").tolist()) for i in range(n))
  assert sorted(got) == every and len(every) == 21
  assert all(abs(c - 200) < 5 * 14 for c in got.values())  # 5 sigma


def test_random_starts_of_hours_are_drawn_at_once_defect_4():
  """The reference listed every sample position: minutes a track."""
  import tracemalloc

  chunks = Chunks(secs=10, strategy="random", most=3, edge_secs=15)
  tracemalloc.start()
  starts = chunks.starts(10 * 3600 * 44100, 441_000, 44100, "long")
  assert tracemalloc.get_traced_memory()[1] < 1e5
  tracemalloc.stop()
  assert len(starts) == 3 and (np.diff(starts) >= 441_000).all() and starts[0] >= 15 * 44100
  again = Chunks(secs=10, strategy="random", most=3, edge_secs=15, seed=1)
  assert (again.starts(10 * 3600 * 44100, 441_000, 44100, "long") != starts).all()
  assert Chunks(secs=1, most=9).starts(35, 10, 10, "x").shape == (3,)


def test_chunks_are_spans_of_their_recording(tmp_path):
  wav = np.random.default_rng(0).uniform(-0.5, 0.5, (16000, 1)).astype(np.float32)
  for place in ("a", "b"):
    for i in range(3):
      write(tmp_path / place / f"{i}.wav", wav[: 16000 - 4000 * i], subtype="FLOAT")
  s = Source(str(tmp_path), split="all", chunk=dict(secs=0.75, strategy="spaced", most=2))
  assert [e["id"] for e in s][:4] == ["a/0@0", "a/0@1.25", "a/1@0", "a/1@0.75"]
  assert s.starts_secs[1] == 1.25 and s.path(1) == tmp_path / "a/0.wav"
  np.testing.assert_array_equal(s[1]["wav"].numpy(), wav[10000:16000])
  assert s.columns["track"].tolist() == [0, 0, 1, 1, 2, 3, 3, 4, 4, 5]


def test_resampled_chunks_have_the_length_that_was_asked_for(tree):
  for secs in (0.3, 0.33333, 0.512):
    for sr in (16000, 11025, 6000):
      s = Source(str(tree), split="all", sr=sr, chunk=dict(secs=secs, min_secs=0))
      want = round(secs * sr)
      assert all(want <= e["wav"].shape[0] < want + max(2, sr / 8000) for e in s)
      assert s[0]["wav"].numpy().shape == s[0]["wav"].shape


def test_all_needs_no_splits(tmp_path):
  write(tmp_path / "a" / "1.wav")
  s = Source(str(tmp_path), split="all")
  assert len(s) == 1 and s.split_record() == {}
  with pytest.raises(ValueError, match='"a" has 1 tracks for 2 splits'):
    Source(str(tmp_path), split="all", splits={"train": 0.5, "test": 0.5})


def test_short_recordings(tree, capsys):
  pad = Source(str(tree), split="all", chunk=dict(secs=1.5, strategy="sequential", most=3))
  assert pad[0]["id"] == "house/deep/title 0@0" and pad[0]["wav"].shape == (8000, 1)
  assert len(pad) == 18 and not pad.excluded
  skip = Source(str(tree), split="all", chunk=dict(secs=1.5, short="skip"))
  assert len(skip) == 9 and len(skip.excluded) == 9
  least = Source(str(tree), split="all", chunk=dict(secs=0.1, min_secs=1.5))
  assert set(least.excluded.values()) == {
    f"{s} s, shorter than min_secs=1.5" for s in ("1.00", "1.20", "1.40")
  }
  capsys.readouterr()
  Source(str(tree), split="all", chunk=dict(secs=1, edge_secs=0.45))
  assert "15 too short for edge_secs=0.45, used to their ends" in capsys.readouterr().err
  with pytest.raises(ValueError, match="no recording is long enough"):
    Source(str(tree), split="all", chunk=dict(secs=60, short="skip"))


def test_long_recordings_are_told(tmp_path, capsys):
  for place in ("a", "b"):
    for i in range(2):
      write(tmp_path / place / f"{i}.wav", np.zeros((601 if i else 2, 1)), 1)
  Source(str(tmp_path), split="all", chunk=dict(secs=1))
  assert "2 above 600 s: a/1.wav, b/1.wav" in capsys.readouterr().err


@pytest.mark.parametrize(
  "chunk,said",
  [
    (dict(sec=1), 'setting of chunk "sec" is unknown. Did you mean "secs"'),
    (dict(strategy="sequence"), 'strategy "sequence" is unknown. Did you mean "sequential"'),
    (dict(short="cut"), "Expected pad, skip"),
    (dict(secs=0), "expected secs > 0"),
    (dict(most=0), "most >= 1"),
    (dict(strategy="spaced", overlap=0.5), 'needs strategy="sequential"'),
  ],
)
def test_chunk_settings_that_cannot_be_used(tree, chunk, said):
  with pytest.raises(ValueError, match=said):
    Source(str(tree), chunk=chunk)


def test_it_is_built_by_name_batched_and_pickled(tree):
  spec = dict(
    source="tracks", dir=str(tree), sr=4000, chunk=dict(secs=0.5, most=2),
    pp="crop(secs=0.5)|keep('wav', 'label', 'track', 'artist', 'id')",
  )  # fmt: skip
  with ip.train_batches(_cfg(spec), seed=0) as batches:
    batch = next(batches)
  assert batch["wav"].shape == (4, 2000, 1) and batch["track"].dtype == np.int32
  assert all(re.fullmatch(r"\w+/\w+/title \d@[\d.]+", i) for i in batch["id"])
  s = build.build("tracks", dir=str(tree))
  again = pickle.loads(pickle.dumps(s))
  assert [e["id"] for e in again] == [e["id"] for e in s]


def _cfg(spec):
  from ml_collections import ConfigDict

  return ConfigDict(dict(batch_size=4, num_threads=0, data=dict(a=spec)))


@pytest.mark.parametrize(
  "change", [dict(splits={"train": 0.5, "test": 0.5}), dict(split_seed=1), dict(artist="x"),
             dict(label="(.)"), dict(trash="noise")],
)  # fmt: skip
def test_evaluation_data_must_be_cut_like_the_training_data(change):
  train = dict(source="tracks", dir="a", chunk=dict(secs=1))
  splits.check_cut(train, dict(train, split="test", chunk=dict(secs=2), split_seed=0), "here")
  splits.check_cut(train, dict(train, split="test", dir="b", **change), "here")
  for a, b in ((train, dict(train, **change)), (dict(train, **change), train)):
    with pytest.raises(ValueError, match=f"here: {next(iter(change))}=.*share items"):
      splits.check_cut(a, b, "here")


def test_a_run_keeps_its_splits_and_refuses_others(tree, tmp_path):
  config = _cfg(dict(source="tracks", dir=str(tmp_path / "music")))
  for place in ("a", "b"):
    for i in range(6):
      write(tmp_path / "music" / place / f"{i}.wav")
  claim = lambda **kw: ip.claim_splits(config, str(tmp_path), write=True, **kw)
  claim(begun=False)
  stored = json.loads((tmp_path / "splits.json").read_text())
  assert stored == {"a": Source(str(tmp_path / "music")).split_record()}
  claim(begun=True)
  for i in range(6, 12):
    write(tmp_path / "music/a" / f"{i}.wav")
  with pytest.raises(ValueError, match=r"data.a: \d+ tracks have left their split.*was in"):
    claim(begun=True)
  assert json.loads((tmp_path / "splits.json").read_text()) == stored
  with config.unlocked():
    config.data.a.splits = str(tmp_path / "splits.json")
  claim(begun=True)
  claim(begun=False)
  assert json.loads((tmp_path / "splits.json").read_text()) == stored
  ip.claim_splits(_cfg(dict(source="worlds.notes")), str(tmp_path / "x"), begun=False, write=True)
