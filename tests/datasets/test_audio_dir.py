"""A folder of recordings: what is indexed, what is left out, what is refused."""

import json
import os

import numpy as np
import pytest

from big_audio import input_pipeline as ip
from big_audio.datasets import manifest
from big_audio.datasets.audio_dir import Source
from tests.datasets.conftest import corrupt_flac, cut, tone, write


@pytest.fixture
def folder(tmp_path):
  for i in range(6):
    write(tmp_path / "rec" / "abc"[i % 3] / f"{i}.wav", tone(1 + i / 10))
  return tmp_path / "rec"


def source(folder, split="all", **kw):
  return Source(str(folder), split, **kw)


def test_examples(folder):
  s = source(folder, label=r"^(\w)/")
  assert len(s) == 6 and s.classes == ["a", "b", "c"] and s.sr == 8000
  assert s.ids == sorted(s.ids)
  e = s[0]
  assert (e["id"], e["sr"], e["label"]) == ("a/0.wav", 8000, 0) and e["wav"].shape == (8000, 1)
  np.testing.assert_allclose(e["wav"].numpy(), tone(), atol=1e-4)
  np.testing.assert_allclose(s.secs, [1, 1.3, 1.1, 1.4, 1.2, 1.5])
  assert source(folder, pattern="^a/").ids == ["a/0.wav", "a/3.wav"]


def test_every_format_recursively_but_nothing_hidden(tmp_path):
  for name in ("a.wav", "d/b.FLAC", "d/e/c.ogg", "d.mp3", ".hidden.wav", ".h/x.wav", "._a.wav"):
    write(tmp_path / name, format=name.rsplit(".")[-1].upper())
  (tmp_path / "notes.txt").write_text("x")
  assert source(tmp_path).ids == ["a.wav", "d.mp3", "d/b.FLAC", "d/e/c.ogg"]


def test_links_that_lead_in_circles_end(folder):
  (folder / "a" / "up").symlink_to(folder)
  assert len(source(folder)) == 6


def test_unfit_files_leave_the_index_and_are_listed(folder, capsys):
  cut(write(folder / "zero.wav"), 0)
  cut(write(folder / "header_only.wav"), 44)
  (folder / "text.wav").write_text("words " * 100)
  write(folder / "short.wav", tone(0.2))
  write(folder / "long.wav", tone(3))
  s = source(folder, min_secs=0.5, max_secs=2)
  assert len(s) == 6
  assert set(s.excluded) == {
    "zero.wav",
    "header_only.wav",
    "text.wav",
    "short.wav",
    "long.wav",
  }
  assert s.excluded["short.wav"] == "0.20 s, shorter than min_secs=0.5"
  assert str(folder) not in "".join(s.excluded.values())
  err = capsys.readouterr().err
  assert "5 of 11 files left out" in err and "header_only.wav: empty" in err


def test_a_truncated_file_has_the_length_of_what_is_left(folder):
  path = write(folder / "cut.wav", tone(2))
  cut(path, 44 + 2 * 3000)
  files = {e["id"]: e["wav"] for e in map(source(folder).__getitem__, range(7))}
  assert files["cut.wav"].shape == (3000, 1) and len(files["cut.wav"].numpy()) == 3000


def test_a_corrupt_body_is_redrawn_in_training(folder):
  corrupt_flac(folder / "bad.flac")
  data = {"x": dict(source="audio_dir", dir=str(folder), split="all", pp="crop(samples=4000)")}
  from ml_collections import ConfigDict

  with ip.train_batches(ConfigDict(dict(batch_size=14, data=data)), seed=0) as it:
    batch = next(it)
  assert batch["_bad"].sum() >= 2 and "bad.flac" not in batch["id"]
  records = ip.BadShare(0.5).update(batch)
  assert records[0]["id"] == "bad.flac" and records[0]["source"] == "x"


def test_mixed_rates(folder, capsys):
  write(folder / "hi.wav", tone(1, 16000), 16000)
  with pytest.raises(ValueError, match=r"6 at 8000 Hz, 1 at 16000 Hz. Set sr=8000"):
    source(folder)
  s = source(folder, sr=8000)
  assert "resampling 1 files from 16000 Hz to 8000 Hz" in capsys.readouterr().err
  assert {e["wav"].shape[0] for e in map(s.__getitem__, range(7)) if e["id"] == "hi.wav"} == {8000}
  assert {s[i]["wav"].sr for i in range(7)} == {s[i]["sr"] for i in range(7)} == {8000}


def test_mixed_channels(folder, capsys):
  write(folder / "st.wav", tone(channels=2))
  with pytest.raises(ValueError, match=r"mixed channels: 6 with 1, 1 with 2. Set channels=1"):
    source(folder)
  for c in (1, 2):
    s = source(folder, channels=c)
    assert {s[i]["wav"].shape[1] for i in range(7)} == {c}
    assert s[6]["wav"].read(0, 10).shape == (10, c)
  assert "converting to 1 channel" in capsys.readouterr().err
  with pytest.raises(ValueError, match="cannot make 3 channels"):
    source(folder, channels=3)


def test_missing_and_empty_folders(folder, tmp_path):
  with pytest.raises(ValueError, match=r"no such folder\. Beside it: rec"):
    Source(str(tmp_path / "recs"))
  with pytest.raises(ValueError, match="does not exist either"):
    Source(str(tmp_path / "no" / "recs"))
  with pytest.raises(ValueError, match="It is a file"):
    Source(str(folder / "a" / "0.wav"))
  (tmp_path / "empty").mkdir()
  with pytest.raises(ValueError, match="no recordings, it holds none"):
    Source(str(tmp_path / "empty"))
  with pytest.raises(ValueError, match=r"all 6 are unfit: a/0\.wav: 1\.00 s, shorter"):
    source(folder, min_secs=10)
  with pytest.raises(ValueError, match=r"label=.*see \"a/0\.wav\""):
    source(folder, label=r"(z)")


def test_headers_are_read_once(folder, monkeypatch):
  probed = []
  probe = manifest.audio.probe
  monkeypatch.setattr(manifest.audio, "probe", lambda p: (probed.append(p.name), probe(p))[1])
  source(folder)
  assert len(probed) == 6 and (folder / manifest.NAME).exists()
  source(folder)
  assert len(probed) == 6
  write(folder / "a" / "0.wav", tone(2))
  (folder / "b" / "1.wav").unlink()
  s = source(folder)
  assert probed[6:] == ["0.wav"] and s.secs[0] == 2 and len(s) == 5
  os.utime(folder / "a" / "0.wav", ns=(0, 0))
  source(folder)
  assert len(probed) == 8
  (folder / manifest.NAME).write_text('{"version": 1, "files": {"a/0.wav": [1]}}')
  assert len(source(folder)) == 5 and len(probed) == 13
  assert [p.name for p in folder.iterdir() if p.name.endswith(".tmp")] == []


def test_a_folder_that_is_read_only_is_indexed_in_the_cache(folder):
  folder.chmod(0o555)
  try:
    assert len(source(folder)) == 6
  finally:
    folder.chmod(0o755)
  assert not (folder / manifest.NAME).exists()
  (cached,) = manifest._homes(folder)[1].parent.iterdir()
  assert len(json.loads(cached.read_text())["files"]) == 6


def test_workers_see_the_same_batches(folder):
  from ml_collections import ConfigDict

  data = {"x": dict(source="audio_dir", dir=str(folder), split="all", pp="crop(secs=0.1)")}
  seen = []
  for workers in (0, 2):
    c = ConfigDict(dict(batch_size=4, data=data, num_workers=workers))
    with ip.train_batches(c, seed=1, start_step=2) as it:
      seen.append([next(it) for _ in range(3)])
  for a, b in zip(*seen, strict=True):
    assert all(np.array_equal(a[k], b[k]) for k in a)


def test_spoken_digits(data_dir):
  rules = {"train": r"_(1[5-9]|[234]\d)\.wav$", "validation": r"_1[0-4]\.wav$", "test": r"_[5-9]\."}
  parts = {s: Source(str(data_dir / "fsdd"), s, splits=rules, label=r"^(\d)_") for s in rules}
  assert [len(p) for p in parts.values()] == [2100, 300, 300]
  assert parts["test"].sr == 8000 and len(parts["test"].classes) == 10
  assert not set(parts["train"].ids) & set(parts["test"].ids)
