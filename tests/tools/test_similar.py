"""Neighbours of tracks against sorting, as a table and as CSV."""

import csv

import numpy as np
import pytest

from big_audio.tools import embeddings, similar

N = 30
X = np.float32(np.random.default_rng(0).standard_normal((N, 5)))
IDS = [f"c{i % 3}/t{i}, x.wav" for i in range(N)]
TABLE = embeddings.Table(
  X, IDS, [f"c{i % 3}" for i in range(N)], [f"a{i % 4}" if i % 4 else "" for i in range(N)]
)


@pytest.fixture
def path(tmp_path):
  embeddings.save(tmp_path / "t.npz", TABLE)
  return str(tmp_path / "t.npz")


def cosines(i):
  unit = X / np.linalg.norm(X, axis=1, keepdims=True)
  return unit @ unit[i]


def read(path):
  with open(path, newline="") as f:
    return list(csv.reader(f))


@pytest.mark.parametrize("artists", [False, True])
def test_all_neighbours(path, tmp_path, artists):
  out = str(tmp_path / "out.csv")
  flags = ["--exclude-artist"] if artists else []
  assert similar.main([path, "--all", "--k", "4", "--csv", out, *flags]) == 0
  head, *rows = read(out)
  assert tuple(head) == similar.HEAD and len(rows) == 4 * N
  for i in range(N):
    s, mine = cosines(i), rows[4 * i : 4 * i + 4]
    own = TABLE.artists[i]
    keep = [
      j for j in range(N) if j != i and not (artists and own and TABLE.artists[j] == own)
    ]  # fmt: skip
    best = sorted(keep, key=lambda j: -s[j])[:4]
    assert [r[3] for r in mine] == [IDS[j] for j in best]
    np.testing.assert_allclose([float(r[2]) for r in mine], s[best], atol=2e-6)
    assert all(r[0] == IDS[i] for r in mine) and [r[1] for r in mine] == ["1", "2", "3", "4"]
    assert [r[4] for r in mine] == [TABLE.labels[j] for j in best]


def test_one_query_on_the_terminal(path, capsys):
  assert similar.main([path, "--query", IDS[7], "--k", "3"]) == 0
  lines = capsys.readouterr().out.splitlines()
  best = [j for j in np.argsort(-cosines(7)) if j != 7][:3]
  assert lines[0] == IDS[7] and len(lines) == 4
  for line, j in zip(lines[1:], best, strict=True):
    assert IDS[j] in line and f"{cosines(7)[j]:.4f}" in line
  similar.main([path, "--query", "7", "--k", "3"])
  assert capsys.readouterr().out.splitlines() == lines
  assert similar.main([path, "--query", "7", "--k", "1000"]) == 0
  assert len(capsys.readouterr().out.splitlines()) == N
  assert similar.main([path, "--all", "--k", "1"]) == 0
  assert len(capsys.readouterr().out.splitlines()) == N + 1


def test_exit_codes(path, tmp_path, capsys):
  assert similar.main([path, "--query", "c0/t0 x.wav"]) == 2
  assert f'"{IDS[0]}"' in capsys.readouterr().err
  assert similar.main([path, "--query", "0", "--k", "0"]) == 2
  assert similar.main([str(tmp_path / "none.npz"), "--all"]) == 2
  embeddings.save(tmp_path / "plain.npz", embeddings.Table(X, IDS))
  assert similar.main([str(tmp_path / "plain.npz"), "--all", "--exclude-artist"]) == 2
  assert "no artists" in capsys.readouterr().err
  with pytest.raises(SystemExit):
    similar.main([path])
