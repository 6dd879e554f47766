"""No recording is ever in two splits, and rules that do not fit say so."""

import pytest

from big_audio.datasets import splits
from big_audio.datasets.splits import choose, overlap

IDS = [f"{d}/{s}_{i}.wav" for d in "ab" for s in ("kim", "lee", "ann") for i in range(200)]
HALF = {"train": 0.8, "validation": 0.1, "test": 0.1}


def pick(split, splits, ids=IDS, **kw):
  return {ids[i] for i in choose(ids, split, splits, **kw)}


def test_fractions_partition_all_recordings():
  parts = [pick(s, HALF) for s in HALF]
  assert sum(map(len, parts)) == len(IDS) == len(set.union(*parts))
  assert 0.75 < len(parts[0]) / len(IDS) < 0.85
  assert pick("all", HALF) == set(IDS)


def test_a_recording_stays_where_it_is():
  some = IDS[::3]
  assert pick("test", HALF) & set(some) == pick("test", HALF, ids=some)
  # A conversion to another format, and another order of the same rules, change nothing either.
  flac = [i.replace(".wav", ".flac") for i in IDS]
  renamed = {i.replace(".flac", ".wav") for i in pick("test", HALF, ids=flac)}
  assert renamed == pick("test", HALF)
  assert pick("test", dict(reversed(HALF.items()))) == pick("test", HALF)


def test_a_group_is_never_divided():
  ids = [f"speaker{s}_{i}.wav" for s in range(60) for i in range(3)]
  parts = [pick(s, HALF, ids=ids, group=r"^(speaker\d+)_") for s in HALF]
  speakers = [{i.split("_")[0] for i in p} for p in parts]
  assert sum(map(len, speakers)) == 60
  with pytest.raises(ValueError, match=r'group=.* is not found in "a/kim_0\.wav"'):
    pick("train", HALF, group="speaker")
  with pytest.raises(ValueError, match="needs splits by fractions"):
    pick("train", {"train": "kim"}, group="kim")


def test_regular_expressions():
  rules = {"train": r"_(1[5-9]|[2-4]\d)\.wav$", "validation": r"_1[0-4]\.wav$", "test": r"_[5-9]\."}
  number = lambda ids: {int(i.rsplit("_")[1][:-4]) for i in ids}
  assert number(pick("train", rules)) == set(range(15, 50))
  assert number(pick("validation", rules)) == set(range(10, 15))
  assert number(pick("test", rules)) == set(range(5, 10))
  with pytest.raises(ValueError, match=r'"a/kim_1\.wav" is in x and y.*must not overlap'):
    pick("x", {"x": "_1", "y": "kim"})
  with pytest.raises(ValueError, match="not a regular expression"):
    pick("x", {"x": "(("})


def test_lists(tmp_path):
  (tmp_path / "train.txt").write_text("a/kim_1.wav\n\na/kim_2\n")
  (tmp_path / "test.txt").write_text("b/lee_3.wav\nunreadable.wav\n")
  rules = {"train": "train.txt", "test": "test.txt"}
  kw = dict(folder=tmp_path, known=["unreadable.wav"])
  assert pick("train", rules, **kw) == {"a/kim_1.wav", "a/kim_2.wav"}
  assert pick("test", rules, **kw) == {"b/lee_3.wav"}
  with pytest.raises(ValueError, match=r'names 1 unknown recordings: "unreadable'):
    pick("test", rules, folder=tmp_path)
  (tmp_path / "test.txt").write_text("a/kim_1\n")
  with pytest.raises(ValueError, match=r'"a/kim_1" is in (train and test|test and train)'):
    pick("test", rules, **kw)
  (tmp_path / "test.txt").write_text("a/two\n")
  two = [*IDS, "a/two.flac", "a/two.wav"]
  with pytest.raises(ValueError, match=r'"a/two" can be a/two.flac or a/two.wav. Write the suffix'):
    pick("test", rules, ids=two, **kw)
  (tmp_path / "test.txt").write_text("a/two.flac\n")
  assert pick("test", rules, ids=two, **kw) == {"a/two.flac"}
  with pytest.raises(ValueError, match="cannot read the list"):
    pick("train", {"train": "absent.txt"}, folder=tmp_path)


@pytest.mark.parametrize(
  "split,splits,message",
  [
    ("tran", HALF, r'no split "tran"\. Did you mean train'),
    ("a", {"a": 0.5, "b": "kim"}, "mixes fractions, regular expressions"),
    ("a", {"a": 0.9, "b": 0.2}, "add up to 1 at most"),
    ("a", {"a": -0.1, "b": 0.2}, ">= 0"),
    ("a", {"a": "zoe", "b": "kim"}, r'"a" has none of 1200 recordings \(a: 0, b: 400'),
  ],
)
def test_rules_that_do_not_fit(split, splits, message):
  with pytest.raises(ValueError, match=message):
    pick(split, splits)


@pytest.mark.parametrize(
  "rules, kw",
  [
    (HALF, {}),
    ({"test": 0.1, "train": 0.3}, {}),  # the hash that made the splits does not make the halves
    (HALF, dict(group=r"/(\w+)_\d")),
    ({"train": r"_(1[5-9]|[2-4]\d)\.wav$", "test": r"_[5-9]\."}, {}),
  ],
)
def test_halves_of_train_for_a_model_and_its_judge(rules, kw):
  ids = IDS if "group" not in kw else [f"a/s{s}_{i}.wav" for s in range(80) for i in range(3)]
  train = pick("train", rules, ids=ids, **kw)
  codec, embed = (pick(s, rules, ids=ids, **kw) for s in ("codec", "embed"))
  assert codec | embed == train and not codec & embed
  assert 0.35 < len(codec) / len(train) < 0.65
  assert not (codec | embed) & pick("test", rules, ids=ids, **kw)
  if "group" in kw:
    speakers = lambda part: {i.split("_")[0] for i in part}
    assert not speakers(codec) & speakers(embed)


def test_halves_need_train_and_give_way_to_rules_of_their_name():
  with pytest.raises(ValueError, match='no split "embed"'):
    pick("embed", {"a": 0.5, "b": 0.5})
  with pytest.raises(ValueError, match="Did you mean embed"):
    pick("embd", HALF)
  assert pick("embed", {"train": 0.5, "embed": 0.5}) | pick(
    "train", {"train": 0.5, "embed": 0.5}
  ) == set(IDS)


@pytest.mark.parametrize(
  "a,b,expected",
  [
    ("train", "train", True),
    ("train", "test", False),
    ("all", "test", True),
    (None, "test", True),  # no split: the whole
    ("codec", "train", True),
    ("train", "embed", True),
    ("codec", "embed", False),
    ("codec", "test", False),
    ("train[:80%]", "train", True),
    ("train[:80%]", "train[80%:]", False),
    ("train[:80%]", "train[70%:90%]", True),
    ("train[:100]", "train[100:200]", False),
    ("train[:100]", "train[50%:]", True),  # nobody knows
    ("train[-10%:]", "train[:10%]", True),
    ("train[:80%]", "test[:80%]", False),
    ("train+validation", "validation", True),
    ("train[:80%]+validation", "train[90%:]+test", False),
  ],
)
def test_splits_that_can_share_recordings(a, b, expected):
  assert overlap(a, b) is overlap(b, a) is expected


def test_splits_that_are_cut_differently_are_not_compared():
  train = dict(source="audio_dir", dir="a", split="train", splits=dict(train=0.5, test=0.5))
  splits.check_cut(train, dict(train, split="test", pp="x"), "here")
  splits.check_cut(train, dict(train, dir="b", splits=None), "here")
  splits.check_cut({"source": "x", "dir": "a"}, {"source": "x", "dir": "a", "seed": 1}, "here")
  with pytest.raises(ValueError, match="here: splits=.*share items"):
    splits.check_cut(train, dict(train, split="test", splits=dict(train=0.9, test=0.1)), "here")
  with pytest.raises(ValueError, match="group='x', in training 'y'"):
    splits.check_cut(dict(train, group="y"), dict(train, group="x"), "here")
