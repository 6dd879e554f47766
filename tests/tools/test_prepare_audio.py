"""Shards: the same samples as the folder, splits, resume after a kill, bad files, the card."""

import hashlib
import json
import os

import numpy as np
import pytest

from big_audio.datasets import arrayrecord, audio_dir
from big_audio.input_pipeline import eval_batches
from big_audio.pp import builder
from big_audio.tools import manifests, prepare_audio, shards
from tests.datasets.conftest import corrupt_flac, cut, own_cache, tone, write  # noqa: F401

RULES = dict(train=r"_[0-3]\.", test=r"_4\.")


@pytest.fixture
def folder(tmp_path):
  """Ten recordings of 16 bit at 8 kHz, of several lengths."""
  rng = np.random.default_rng(0)
  for i in range(10):
    write(tmp_path / f"in/{i // 5}/x_{i % 5}.wav", rng.uniform(-1, 1, (900 + 100 * i, 1)))
  return tmp_path / "in"


def read(target, split, pp):
  """{id: example after pp} of a split."""
  source = arrayrecord.Source(f"{target}/{{split}}-*.arrayrecord", split)
  fn = builder.build(pp)
  found = [fn(source[i], np.random.default_rng(0)) for i in range(len(source))]
  assert len({e["id"] for e in found}) == len(found)
  return {e["id"]: e for e in found}


def samples(x):
  return x.numpy() if hasattr(x, "numpy") else x


@pytest.mark.parametrize("kw", [
  dict(payload="flac"), dict(payload="int16"), dict(payload="float32"),
  dict(payload="float32", sr=11025, channels=2), dict(payload="flac", shard_mb=0.003, jobs=3),
])  # fmt: skip
def test_the_same_samples_as_the_folder(folder, tmp_path, kw):
  card = prepare_audio.prepare(folder, tmp_path / "out", rules=RULES, **kw)
  pp = dict(flac="decode_audio('flac')", int16="to_float", float32="")[kw["payload"]]
  how = {k: kw[k] for k in ("sr", "channels") if k in kw}
  for split, n in (("train", 8), ("test", 2)):
    expected = audio_dir.Source(str(folder), split, splits=RULES, **how)
    got = read(tmp_path / "out", split, pp)
    assert set(got) == set(expected.ids) and len(got) == n
    for i in range(n):
      one = expected[i]
      wav = samples(got[one["id"]]["wav"])
      assert wav.dtype == np.float32 and got[one["id"]]["sr"] == one["sr"]
      np.testing.assert_array_equal(wav, one["wav"].numpy())
  shards = sorted(p.name for p in (tmp_path / "out").glob("*.arrayrecord"))
  assert shards == sorted(s["name"] for s in card["shards"])
  assert len(shards) == (5 if "shard_mb" in kw else 2)
  for s in card["shards"]:
    data = (tmp_path / "out" / s["name"]).read_bytes()
    assert hashlib.sha256(data).hexdigest() == s["sha256"] and len(data) == s["bytes"]
  assert card == json.loads((tmp_path / "out/card.json").read_text())
  assert card["splits"]["train"]["recordings"] == 8 and card["failed"] == 0
  secs = audio_dir.Source(str(folder), "all").secs.sum()
  assert card["hours"] == pytest.approx(secs / 3600, abs=1e-4)


def test_more_than_16_bits_is_kept_in_flac(tmp_path):
  wav = np.float32(0.7) * tone(0.2)
  write(tmp_path / "in/a.wav", wav, subtype="FLOAT")
  prepare_audio.prepare(tmp_path / "in", tmp_path / "out", rules=dict(train=1.0))
  got = samples(read(tmp_path / "out", "train", "decode_audio('flac')")["a.wav"]["wav"])
  assert 0 < np.abs(got - wav).max() <= 2.0**-24
  loud = write(tmp_path / "loud/a.wav", 2 * wav, subtype="FLOAT")
  card = prepare_audio.prepare(loud.parent, tmp_path / "out2", rules=dict(train=1.0))
  assert card["splits"]["train"]["clipped"] == int((np.abs(2 * wav) > 1).sum())


def test_segments_stay_in_the_split_of_their_recording(folder, tmp_path):
  kw = dict(rules=RULES, segment_secs=0.05, min_secs=0.02, payload="int16")
  prepare_audio.prepare(folder, tmp_path / "out", **kw)
  whole = audio_dir.Source(str(folder), "all")
  for split in RULES:
    got = read(tmp_path / "out", split, "to_float")
    names = {i.split("#")[0] for i in got}
    assert names == set(audio_dir.Source(str(folder), split, splits=RULES).ids)
    for i in range(len(whole)):
      if whole.ids[i] in names:
        wav = whole[i]["wav"].numpy()
        for begin in range(0, len(wav), 400):
          piece = wav[begin : begin + 400]
          name = f"{whole.ids[i]}#{begin / 8000:g}"
          assert (name in got) == (len(piece) >= 160)
          if name in got:
            np.testing.assert_array_equal(got[name]["wav"], piece)


def test_a_killed_run_goes_on(folder, tmp_path, monkeypatch):
  kw = dict(rules=RULES, shard_mb=0.003, jobs=1)
  prepare_audio.prepare(folder, tmp_path / "whole", **kw)
  real, calls = prepare_audio.encode, []

  def dies(*a):
    calls.append(1)
    if len(calls) == 8:
      raise KeyboardInterrupt
    return real(*a)

  monkeypatch.setattr(prepare_audio, "encode", dies)
  with pytest.raises(KeyboardInterrupt):
    prepare_audio.prepare(folder, tmp_path / "out", **kw)
  there = {p.name for p in (tmp_path / "out").glob("*")}
  assert 1 <= sum(n.endswith(".arrayrecord") for n in there) <= 4
  assert not any("tmp" in n for n in there) and "card.json" not in there
  # A shard without its note, as a kill between the two leaves it, is written again.
  first = sorted((tmp_path / "out").glob("*.arrayrecord"))[0]
  shards.sidecar(first).unlink()
  monkeypatch.setattr(prepare_audio, "encode", lambda *a: (calls.append(1), real(*a))[1])
  before = len(calls)
  card = prepare_audio.prepare(folder, tmp_path / "out", **kw)
  assert len(calls) - before < 10, "complete shards were written again"
  assert card["shards"] == json.loads((tmp_path / "whole/card.json").read_text())["shards"]
  with pytest.raises(ValueError, match=r"payload: there 'flac', now 'int16'"):
    prepare_audio.prepare(folder, tmp_path / "out", **kw, payload="int16")
  write(folder / "0/new_1.wav")
  with pytest.raises(ValueError, match="recordings: there"):
    prepare_audio.prepare(folder, tmp_path / "out", **kw)


def test_none_of_a_hundred_files_is_lost_by_four_jobs(tmp_path):
  for i in range(100):
    write(tmp_path / f"in/{i:03}.wav", np.full((50 + i, 1), i / 128))
  card = prepare_audio.prepare(
    tmp_path / "in", tmp_path / "out", rules=dict(train=0.8, test=0.2), jobs=4, shard_mb=0.002
  )
  got = [read(tmp_path / "out", split, "decode_audio('flac')") for split in ("train", "test")]
  assert not got[0].keys() & got[1].keys()
  assert sorted(got[0] | got[1]) == [f"{i:03}.wav" for i in range(100)]
  for name, e in (got[0] | got[1]).items():
    wav = samples(e["wav"])
    assert wav.shape == (50 + int(name[:3]), 1) and (wav == int(name[:3]) / 128).all()
  assert len(card["shards"]) > 4 and len(got[1]) > 5


def test_bad_files_are_listed_up_to_a_share(folder, tmp_path):
  corrupt_flac(folder / "y_1.flac")
  cut(write(folder / "y_2.wav"), 20)
  write(folder / "y_3.wav", np.zeros((0, 1)))
  kw = dict(rules=dict(train=1.0), jobs=2)
  with pytest.raises(ValueError, match="2 of 13 recordings cannot be used"):
    prepare_audio.prepare(folder, tmp_path / "a", **kw)
  card = prepare_audio.prepare(folder, tmp_path / "b", **kw, max_bad_share=0.3)
  failed = {r["id"]: r["reason"] for r in manifests.read(tmp_path / "b/failed.jsonl")}
  assert card["failed"] == 3 and set(failed) == {"y_1.flac", "y_2.wav", "y_3.wav"}
  assert card["splits"]["train"]["recordings"] == 10
  assert failed["y_3.wav"] == "empty"


def test_a_list_keeps_its_columns_and_verifies_hashes(folder, tmp_path):
  one = folder / "0/x_0.wav"
  rows = [
    dict(path="0/x_0.wav", id="one", licence="CC BY", title="One", sha256=manifests.sha256(one)),
    dict(path="0/x_1.wav", id="two", sha256="0" * 64),
    dict(path="0/x_2.wav", id="cut", start=0.02, secs=0.03, label=7, tags=["x"]),
    dict(path=None, id="gone", error="404"),
  ]
  manifests.write(folder / "list.jsonl", rows)
  card = prepare_audio.prepare(
    folder / "list.jsonl", tmp_path / "out", rules=dict(train=1.0), licence="CC0"
  )
  assert (card["failed"], card["left_out"]) == (1, 1)
  got = read(tmp_path / "out", "train", "decode_audio('flac')")
  assert set(got) == {"0/x_0.wav", "0/x_2.wav@0.02"}
  assert got["0/x_0.wav"]["title"] == "One" and card["licences"] == {"CC BY": 1, "CC0": 1}
  assert got["0/x_2.wav@0.02"]["label"] == 7 and "tags" not in got["0/x_2.wav@0.02"]
  whole = audio_dir.Source(str(folder), "all", pattern=r"0/x_2\.wav")[0]["wav"]
  np.testing.assert_array_equal(samples(got["0/x_2.wav@0.02"]["wav"]), whole.read(160, 240))
  reasons = {r["id"]: r["reason"] for r in manifests.read(tmp_path / "out/failed.jsonl")}
  assert "is not the listed 000000000000" in reasons["0/x_1.wav"] and "404" in reasons["gone"]


def test_rows_of_downloads_that_failed_are_left_out(folder, tmp_path):
  """What the downloader noted without a file counts neither as bad nor as a recording."""
  long = dict(path=None, error="too long: 99 s, the cap is 60 s", secs=99, cap_secs=60)
  rows = [dict(long, id=f"long{i}") for i in range(8)] + [dict(path="0/x_0.wav", error=None)]
  manifests.write(folder / "manifest.jsonl", rows)
  card = prepare_audio.prepare(folder / "manifest.jsonl", tmp_path / "a", rules=dict(train=1.0))
  assert (card["failed"], card["left_out"], card["splits"]["train"]["recordings"]) == (0, 8, 1)
  found = manifests.read(tmp_path / "a/failed.jsonl")
  assert [r["id"] for r in found] == [f"long{i}" for i in range(8)]
  assert "too long: 99 s" in found[0]["reason"]
  # Rows without a path and without a reason are bad, and so are files that are gone.
  manifests.write(folder / "manifest.jsonl", [*rows, dict(id="a"), dict(path="none.wav")])
  with pytest.raises(ValueError, match="2 of 3 recordings cannot be used"):
    prepare_audio.prepare(folder / "manifest.jsonl", tmp_path / "b", rules=dict(train=1.0))


def test_either_spelling_of_a_licence_stands(folder, tmp_path):
  rows = [dict(path="0/x_0.wav", license="CC BY"), dict(path="0/x_1.wav", licence="CC BY-SA"),
          dict(path="0/x_2.wav", license="")]  # fmt: skip
  manifests.write(folder / "list.jsonl", rows)
  kw = dict(rules=dict(train=1.0), licence="CC0")
  card = prepare_audio.prepare(folder / "list.jsonl", tmp_path / "out", **kw)
  assert card["licences"] == {"CC BY": 1, "CC BY-SA": 1, "CC0": 1}
  got = read(tmp_path / "out", "train", "decode_audio('flac')")
  assert got["0/x_0.wav"]["licence"] == "CC BY"


@pytest.mark.parametrize("start", [float("inf"), float("nan"), [1], "soon", 10**400, 1e300])
def test_a_segment_of_no_seconds_is_a_bad_row(folder, tmp_path, start):
  rows = [dict(path="0/x_0.wav", start=start), dict(path="0/x_1.wav", start=0, secs=start)]
  manifests.write(folder / "list.jsonl", [*rows, dict(path="0/x_2.wav", start=None)])
  good, bad, gone = prepare_audio.find(folder / "list.jsonl")
  assert [i.id for i in good] == ["0/x_2.wav"] and not gone
  reasons = [b["reason"] for b in bad]
  assert "start must be seconds" in reasons[0] and "secs must be seconds" in reasons[1]


def test_flac_holds_eight_channels(tmp_path):
  write(tmp_path / "in/a.wav", np.zeros((80, 10)))
  with pytest.raises(
    ValueError, match="10 channels, and FLAC holds 8 at most. Use --payload int16"
  ):
    prepare_audio.prepare(tmp_path / "in", tmp_path / "a", rules=dict(train=1.0))
  for kw in (dict(payload="int16"), dict(channels=1)):
    out = tmp_path / f"{kw}"
    card = prepare_audio.prepare(tmp_path / "in", out, rules=dict(train=1.0), **kw)
    assert card["splits"]["train"]["recordings"] == 1


@pytest.mark.parametrize(
  "flag,text",
  [("--shard-mb", "0"), ("--sr", "0"), ("--channels", "0"), ("--sr", "8k"), ("--jobs", "-1"),
   ("--shard-mb", "nan"), ("--shard-mb", "inf"), ("--segment-secs", "0")],
)  # fmt: skip
def test_flags_that_must_be_positive(folder, tmp_path, capsys, flag, text):
  with pytest.raises(SystemExit):
    prepare_audio.main([str(folder), str(tmp_path / "out"), f"{flag}={text}"])
  err = capsys.readouterr().err
  assert f"argument {flag}: expected a" in err and "above 0" in err and repr(text) in err


def test_names_that_are_not_utf8_and_odd_ends_of_lines(tmp_path):
  wav = write(tmp_path / "in/a.wav")
  odd = os.fsdecode(b"\xff.wav")
  os.rename(wav, tmp_path / "in" / odd)
  for again in range(2):  # read, then from the manifest
    source = audio_dir.Source(str(tmp_path / "in"), "all")
    assert source.ids == [odd] and source[0]["wav"].numpy().shape == (8000, 1), again
  prepare_audio.prepare(tmp_path / "in", tmp_path / "out", rules=dict(train=1.0))
  assert list(read(tmp_path / "out", "train", "decode_audio('flac')")) == [odd]
  rows = [dict(path=odd, title="a\u2028b\x85c\u2029d"), dict(path="x", title="ä")]
  manifests.write(tmp_path / "list.jsonl", rows)
  assert manifests.read(tmp_path / "list.jsonl") == rows
  assert "ä" in (tmp_path / "list.jsonl").read_text(encoding="utf-8"), "legible where it can be"


def test_numbers_of_a_csv_keep_their_digits(folder, tmp_path):
  (folder / "m.csv").write_text("path,label,take\n0/x_0.wav,3,007\n0/x_1.wav,40,+1\n")
  items, _, _ = prepare_audio.find(folder / "m.csv")
  assert [i.extra for i in items] == [dict(label=3, take="007"), dict(label=40, take="+1")]


def test_command_line_csv_and_errors(folder, tmp_path, capsys):
  (folder / "meta.csv").write_text("path,label\n0/x_0.wav,3\n0/x_1.wav,4\n")
  out = tmp_path / "out"
  argv = [str(folder / "meta.csv"), str(out), "--split", "train=_0", "--split", "test=_1", "--mono"]
  prepare_audio.main(argv)
  hint = capsys.readouterr().out.splitlines()[-1]
  assert hint.startswith('source="arrayrecord", files=')
  data = dict(x=dict(source="arrayrecord", files=f"{out}/{{split}}-*.arrayrecord", split="test",
                     pp="decode_audio('flac')|crop(samples=100)|keep('wav', 'label')"))  # fmt: skip
  with eval_batches(data["x"], batch_size=1) as batches:
    (batch,) = list(batches)
  assert batch["wav"].shape == (1, 100, 1) and batch["label"] == 4
  for bad, message in (
    ([str(tmp_path / "none"), str(out)], "no such folder or list"),
    ([str(folder), str(tmp_path / "o2"), "--split", "train=.5", "--split", "x=.9"], "add up to 1"),
    ([str(folder), str(out), "--split", "a=.5", "--split", "a=.4"], "names a split twice"),
    ([str(write(tmp_path / "a.wav")), str(out)], "expected a folder, or a list"),
  ):
    with pytest.raises(SystemExit, match=message):
      prepare_audio.main(bad)
  write(folder / "other.wav", sr=16000)
  with pytest.raises(SystemExit, match="mixed rates"):
    prepare_audio.main([str(folder), str(tmp_path / "o3"), "--split", "train=1"])
