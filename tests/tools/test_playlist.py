"""Lists against the plain greedy rule, and their three formats."""

import csv
import json
import os

import numpy as np
import pytest

from big_audio.tools import embeddings, playlist

N = 40
X = np.float32(np.random.default_rng(0).standard_normal((N, 5)))
IDS = [f"c{i % 3}/t{i}.wav" for i in range(N)]
TABLE = embeddings.Table(
  X, IDS, [f"c{i % 3}" for i in range(N)], [f"a{i % 5}" if i % 5 else "" for i in range(N)]
)


def by_definition(seeds, length, w, gap=0):
  x = np.float64(X)
  x /= np.linalg.norm(x, axis=1, keepdims=True)
  chosen = list(seeds)
  while len(chosen) < length:
    centre = np.mean(x[chosen], axis=0)
    centre /= np.linalg.norm(centre)
    recent = {TABLE.artists[i] for i in chosen[len(chosen) - gap :]} - {""} if gap else set()
    free = [i for i in range(N) if i not in chosen and TABLE.artists[i] not in recent]
    score = lambda i: (1 - w) * centre @ x[i] + w * (1 - min(x[i] @ x[j] for j in chosen))
    chosen.append(max(free, key=score))
  return chosen


@pytest.mark.parametrize("w", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("gap", [0, 2])
def test_greedy_by_definition(w, gap):
  rows = playlist.greedy(TABLE, [3, 11], length=15, w=w, artist_gap=gap)
  want = by_definition([3, 11], 15, w, gap)
  assert [r["id"] for r in rows] == [IDS[i] for i in want]
  assert len(set(want)) == 15 and rows[1]["score"] is None
  if gap:
    for k, r in enumerate(rows[2:], 2):
      assert not r["artist"] or r["artist"] not in {q["artist"] for q in rows[k - gap : k]}
  r = rows[2]
  assert r["score"] == pytest.approx((1 - w) * r["cosine"] + w * (1 - r["least_cosine"]), abs=2e-6)


def test_all_tracks_and_seeds_that_cancel():
  rows = playlist.greedy(TABLE, [0], length=N)
  assert sorted(r["id"] for r in rows) == sorted(IDS)
  two = embeddings.Table(np.float32([[1, 0], [-1, 0], [0, 1]]), ["a", "b", "c"])
  assert [r["id"] for r in playlist.greedy(two, [0, 1], length=3)] == ["a", "b", "c"]


def test_formats(tmp_path):
  embeddings.save(tmp_path / "t.npz", TABLE)
  lists = tmp_path / "lists"
  lists.mkdir()
  run = lambda *flags: playlist.main(
    [str(tmp_path / "t.npz"), "--seeds", IDS[3], "11", "--length", "6", *flags]
  )
  want = [IDS[i] for i in by_definition([3, 11], 6, 0.1)]
  assert run("--out", str(lists / "a.json")) == 0
  found = json.loads((lists / "a.json").read_text())
  assert [t["id"] for t in found["tracks"]] == want and found["seeds"] == [IDS[3], IDS[11]]
  assert found["tracks"][5]["number"] == 6
  assert run("--out", str(lists / "a.csv")) == 0
  with open(lists / "a.csv", newline="") as f:
    rows = list(csv.DictReader(f))
  assert [r["id"] for r in rows] == want and rows[0]["score"] == ""
  assert float(rows[4]["cosine"]) == found["tracks"][4]["cosine"]
  assert run("--out", str(lists / "a.m3u")) == 0
  lines = (lists / "a.m3u").read_text().splitlines()
  assert lines[0] == "#EXTM3U" and lines[2::2] == want
  assert lines[1] == "#EXTINF:-1,t3"
  assert run("--out", str(lists / "b.m3u"), "--root", str(tmp_path / "audio")) == 0
  lines = (lists / "b.m3u").read_text().splitlines()
  assert lines[2] == f"../audio/{want[0]}"
  assert os.path.normpath(lists / lines[2]) == str(tmp_path / "audio" / want[0])


def test_errors(tmp_path, capsys):
  embeddings.save(tmp_path / "t.npz", TABLE)
  out = str(tmp_path / "x.json")
  run = lambda *flags: playlist.main([str(tmp_path / "t.npz"), "--out", out, *flags])
  for flags, told in (
    (["--seeds", "c0/t0.waf"], '"c0/t0.wav"'),
    (["--seeds", "0", "0"], "twice"),
    (["--seeds", "0", "c0/t0.wav"], "twice"),
    (["--seeds", "0", "--length", "41"], "to 40"),
    (["--seeds", "0", "1", "--length", "1"], "2 (the seeds)"),
    (["--seeds", "0", "--w", "1.5"], "[0, 1]"),
    (["--seeds", "0", "--out", str(tmp_path / "x.txt")], ".json"),
    (["--seeds", "0", "--root", "."], ".m3u"),
    (["--seeds", "1", "--length", "40", "--artist-gap", "4"], "smaller --artist-gap"),
  ):
    assert run(*flags) == 2
    assert told in capsys.readouterr().err, flags
  assert not os.path.exists(out)
  for bad in ("../x.wav", "/x.wav", "#x.wav"):
    embeddings.save(tmp_path / "t.npz", embeddings.Table(X[:2], [bad, "b.wav"]))
    assert run("--seeds", "0", "--length", "2", "--out", str(tmp_path / "x.m3u")) == 2
    assert "no path below" in capsys.readouterr().err
  assert run("--seeds", "0", "--length", "2", "--artist-gap", "1") == 2
