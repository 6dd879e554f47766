"""The command line: reports, exit codes, conversions to and fro."""

import numpy as np
import pytest

from big_audio.datasets import arrayrecord, vimh, vimh_meta
from big_audio.tools import make_vimh
from tests.datasets import vimh_bytes
from tests.datasets.public import ENVELOPES, MOOG, data_set
from tests.datasets.test_vimh_records import LENGTH, patch


def run(*argv):
  return make_vimh.main([str(a) for a in argv])


def same_bytes(a, b, *names):
  for name in names:
    assert (a / name).read_bytes() == (b / name).read_bytes(), name
  assert sorted(p.name for p in b.iterdir()) == sorted(names)


def test_check(tmp_path, capsys):
  assert run("check", data_set(MOOG), data_set(ENVELOPES)) == 0
  out = capsys.readouterr().out
  assert out.count("no problems") == 2 and "filter_cutoff: [200, 2000] step 100" in out
  bad = vimh_bytes.folder(tmp_path / "bad")
  for i in (1, 3, 5):
    patch(bad / "train", i * LENGTH + 14, b"\2")
  assert run("check", data_set(MOOG), bad, "--cap", 2) == 1
  out = capsys.readouterr().out
  assert "problem: ... and 1 more of this kind, in records 1, 3, 5" in out
  assert "no problems" in out and "  3 problems" in out
  assert run("check", tmp_path / "none") == 1


@pytest.mark.parametrize("name", [MOOG, ENVELOPES])
def test_shards_and_back(tmp_path, name):
  source, shards, back = data_set(name), tmp_path / "shards", tmp_path / "back"
  args = ("--to", "arrayrecord", "--shard-size", 10, "--validation", 0.2, "--seed", 4)
  assert run("convert", source, shards, *args) == 0
  assert (shards / vimh_meta.FILE).read_bytes() == (source / vimh_meta.FILE).read_bytes()
  total = 0
  for split in ("train", "validation", "test"):
    want = vimh.Source(str(source), split, validation=0.2, seed=4)
    got = arrayrecord.Source(str(shards / "{split}-*.arrayrecord"), split)
    assert len(got) == len(want) and len(got.paths) == -(-len(want) // 10)
    assert all(p.endswith(f"-of-{len(got.paths):05}.arrayrecord") for p in got.paths)
    for i in range(len(want)):
      a, b = want[i], got[i]
      raw = b.pop("labels")
      assert (
        raw[1::2] == want._parts[a["id"].split("/")[0]].labels[int(a["id"].split("/")[1])].tobytes()
      )
      assert sorted(a) == sorted(b) and a["id"] == b["id"]
      for k in a:
        np.testing.assert_array_equal(a[k], b[k])
        assert np.asarray(a[k]).dtype == np.asarray(b[k]).dtype
    total += len(want)
  assert total == vimh_meta.read(source).train + vimh_meta.read(source).test
  assert run("convert", shards, back, "--to", "vimh") == 0
  same_bytes(source, back, "train", "test", vimh_meta.FILE)
  assert run("check", shards) == 1  # holds no file that it could check


@pytest.mark.parametrize("kw", [dict(order=(2, 0, 1)), dict(old=True, metadata_bytes=None)])
def test_order_of_ids_and_old_layout_survive(tmp_path, kw):
  source = vimh_bytes.folder(tmp_path / "source", **kw)
  at = source
  for k, to in enumerate(("arrayrecord", "pickle", "arrayrecord", "vimh")):
    assert run("convert", at, tmp_path / str(k), "--to", to, "--shard-size", 3) == 0
    at = tmp_path / str(k)
  same_bytes(source, at, "train", "test", vimh_meta.FILE)


def test_binary_to_pickle_and_back(tmp_path, capsys):
  source = data_set(ENVELOPES)
  assert run("convert", source, tmp_path / "p", "--to", "pickle") == 0
  same_bytes(source, tmp_path / "p", "train_batch", "test_batch", vimh_meta.FILE)
  assert "(binary) ->" in capsys.readouterr().out
  assert run("convert", tmp_path / "p", tmp_path / "b", "--to", "vimh") == 0
  same_bytes(source, tmp_path / "b", "train", "test", vimh_meta.FILE)
  assert "(pickle) ->" in capsys.readouterr().out
  assert run("convert", source, tmp_path / "c", "--to", "vimh", "--form", "pickle") == 0
  same_bytes(source, tmp_path / "c", "train", "test", vimh_meta.FILE)


def test_refusals_are_one_line(tmp_path):
  source = data_set(MOOG)
  (tmp_path / "used").mkdir()
  (tmp_path / "used/train-00000-of-00001.arrayrecord").write_bytes(b"x")
  name = MOOG.replace("32x32", "16x16")
  (tmp_path / "empty").mkdir()
  (tmp_path / "empty" / vimh_meta.FILE).write_bytes((source / vimh_meta.FILE).read_bytes())
  for args, message in [
    ((source, tmp_path / "used", "--to", "vimh"), "holds train-00000-of-00001.arrayrecord already"),
    ((source, tmp_path / "used", "--to", "arrayrecord"), "already"),
    ((source, source, "--to", "pickle"), "holds test, test_batch, train, train_batch already"),
    ((source, tmp_path / name, "--to", "arrayrecord"), "by its name the height is 16"),
    ((tmp_path / "none", tmp_path / "a", "--to", "vimh"), "cannot be read"),
    ((tmp_path / "empty", tmp_path / "a", "--to", "vimh"), "nothing to convert"),
    ((source, tmp_path / "a", "--to", "arrayrecord", "--validation", 1), "expected a share"),
  ]:
    with pytest.raises(SystemExit) as e:
      run("convert", *args)
    text = str(e.value.code)
    assert text.startswith("make_vimh: ") and message in text and "\n" not in text
  assert not (tmp_path / name).exists()
  for args in (("--to", "zip"), ("--to", "vimh", "--shard-size", "0"), ()):
    with pytest.raises(SystemExit) as e:
      run("convert", source, tmp_path / "a", *args)
    assert e.value.code == 2
  assert not (tmp_path / "a").exists()
