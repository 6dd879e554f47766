"""Files of embeddings: what is written comes back, and hostile files are refused."""

import io
import json
import zipfile

import numpy as np
import pytest

from big_audio.tools import embeddings
from big_audio.tools.embeddings import Table

X = np.float32(np.random.default_rng(0).standard_normal((4, 3)))
IDS = ["dub/a.wav", "dub/b.wav", "trance/ä.wav", "trance/d.wav"]


def good():
  return dict(embeddings=X, ids=np.array(IDS))


def write(path, **arrays):
  np.savez(path, **arrays)
  return str(path)


def test_round_trip(tmp_path):
  path = tmp_path / "t.npz"
  table = Table(X, IDS, ["dub", "dub", "trance", ""], ["z", "", "y", "z"], dict(model="x"))
  embeddings.save(path, table)
  got = embeddings.load(path)
  np.testing.assert_array_equal(got.x, X)
  assert (got.ids, got.labels, got.artists) == (IDS, table.labels, table.artists)
  assert got.meta == dict(model="x") and [p.name for p in tmp_path.iterdir()] == ["t.npz"]
  e = got.embedded()
  assert e.label.tolist() == [0, 0, 1, -1] and e.artist.tolist() == [1, -1, 0, 1]
  assert e.track.tolist() == [0, 1, 2, 3]
  plain = embeddings.load(write(tmp_path / "p.npz", **good()))
  assert plain.labels is plain.artists is None and plain.meta == {}
  assert plain.embedded().label.tolist() == [-1] * 4 and plain.embedded().artist is None


def test_places():
  table = Table(X, [*IDS[:3], "0"])
  assert table.place("dub/b.wav") == 1 and table.place("2") == 2
  assert table.place("0") == 3  # an id comes before a number
  with pytest.raises(ValueError, match='"dub/b.wav"'):
    table.place("dub/b.wave")
  with pytest.raises(ValueError, match="from 0 to 3"):
    table.place("4")


@pytest.mark.parametrize("change, match", [
  (dict(embeddings=X[0]), r"f32\[N,D\], got float32\[3\]"),
  (dict(embeddings=np.ones((4, 3), int)), "got int64"),
  (dict(embeddings=np.zeros((0, 3))), "expected f32"),
  (dict(embeddings=X * np.float32([[1], [np.nan], [1], [1]])), "the first of 'dub/b.wav'"),
  (dict(embeddings=X * np.float32([[1], [1], [0], [1]])), "1 embeddings are zero"),
  (dict(ids=np.array(IDS[:3])), r"str\[4\]"),
  (dict(ids=np.arange(4)), "ids: expected str"),
  (dict(ids=np.array([*IDS[:3], IDS[0]])), "'dub/a.wav' occurs twice"),
  (dict(ids=np.array([*IDS[:3], "a\nb"])), "control character"),
  (dict(ids=np.array([*IDS[:3], ""])), "empty"),
  (dict(labels=np.array(["a"])), "labels: expected str"),
  (dict(meta=np.array("{")), "meta is not JSON"),
  (dict(meta=np.array("[]")), "JSON object"),
  (dict(meta=np.array(["{}"])), "one string"),
  (dict(meta=np.array("[" * 100_000)), "meta is not JSON"),
])  # fmt: skip
def test_wrong_contents(tmp_path, change, match):
  path = write(tmp_path / "t.npz", **{**good(), **change})
  with pytest.raises(ValueError, match=match):
    embeddings.load(path)


def test_missing(tmp_path):
  with pytest.raises(ValueError, match="no such file"):
    embeddings.load(tmp_path / "t.npz")
  with pytest.raises(ValueError, match="'ids' is missing; it has embeddings"):
    embeddings.load(write(tmp_path / "t.npz", embeddings=X))
  with pytest.raises(ValueError, match="occurs twice"):
    embeddings.save(tmp_path / "t.npz", Table(X, [IDS[0]] * 4))


def test_pickles_and_false_headers_are_refused(tmp_path):
  path = write(tmp_path / "t.npz", **{**good(), "ids": np.array(IDS, object)})
  with pytest.raises(ValueError, match="its size is not that of object"):
    embeddings.load(path)
  for shape in ("(1000000, 1000000)", "(4, 2)", "(-4, -3)"):
    out = io.BytesIO()
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}"
    header += " " * (117 - len(header)) + "\n"
    out.write(b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + header.encode() + X.tobytes())
    with zipfile.ZipFile(tmp_path / "f.npz", "w") as z:
      z.writestr("embeddings.npy", out.getvalue())
      ids = io.BytesIO()
      np.save(ids, np.array(IDS))
      z.writestr("ids.npy", ids.getvalue())
    with pytest.raises(ValueError):
      embeddings.load(tmp_path / "f.npz")


def test_too_large_or_no_archive(tmp_path, monkeypatch):
  path = write(tmp_path / "t.npz", **good())
  monkeypatch.setattr(embeddings, "MOST_BYTES", 100)
  with pytest.raises(ValueError, match="more than"):
    embeddings.load(path)
  monkeypatch.undo()
  raw = (tmp_path / "t.npz").read_bytes()
  for bad in (b"", b"hello", raw[: len(raw) // 2], raw.replace(X.tobytes(), X.tobytes()[::-1])):
    (tmp_path / "bad.npz").write_bytes(bad)
    with pytest.raises(ValueError):
      embeddings.load(tmp_path / "bad.npz")
  (tmp_path / "json.npz").write_text(json.dumps({}))
  with pytest.raises(ValueError, match=r"not an \.npz file"):
    embeddings.load(tmp_path / "json.npz")
