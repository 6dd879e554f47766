"""The page of neighbours: the right sounds and marks, hostile names, missing files, its size."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile

from big_audio.tools import embeddings
from proj.ast_triplet import browse

N = 12
IDS = [f'c{i % 3}/<t{i}> & "x".wav' for i in range(N)]
LABELS = [f"<c{i % 3}>" if i < 11 else "" for i in range(N)]
X = np.float32(np.random.default_rng(0).standard_normal((N, 4)))
pitch = lambda i: 300 + 150 * i


@pytest.fixture
def folder(tmp_path):
  """Tracks of 4 s, silent but for their middle second; every other one 44.1 kHz stereo."""
  for i, name in enumerate(IDS):
    path = tmp_path / "audio" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    sr = 44_100 if i % 2 else 16_000
    t = np.arange(4 * sr) / sr
    wav = 0.5 * np.sin(2 * np.pi * pitch(i) * t) * (abs(t - 2) < 0.5)
    soundfile.write(path, np.stack([wav, wav], 1) if i % 2 else wav, sr)
  embeddings.save(
    tmp_path / "t.npz", embeddings.Table(X, IDS, LABELS, [f"a{i % 2}" for i in range(N)])
  )
  return tmp_path


class Page(HTMLParser):
  """[[(kind, id, text, sound)]] of the rows, with what a browser would show."""

  def __init__(self, html):
    super().__init__()
    self.rows, self.tags, self._in = [], [], ""
    self.feed(html)

  def handle_starttag(self, tag, attrs):
    attrs = dict(attrs)
    self.tags.append((tag, attrs))
    kind = attrs.get("class", "")
    if tag == "section":
      self.rows.append([])
    elif tag == "div" and kind.startswith("card track"):
      self.rows[-1].append(dict(kind=kind.split()[-1], id="", text="", sound=None))
    elif tag == "audio":
      self.rows[-1][-1]["sound"] = attrs["src"]
    self._in = tag

  def handle_data(self, data):
    if self.rows and self.rows[-1]:
      track = self.rows[-1][-1]
      track["id" if self._in == "h4" else "text"] += data
    if self._in == "h4":
      self._in = ""


def run(folder, *flags, code=0):
  out = folder / "page.html"
  args = [str(folder / "t.npz"), "--audio-dir", str(folder / "audio"), "--out", str(out), *flags]
  assert browse.main(args) == code
  return out.read_text() if out.exists() else None


def heard(uri):
  """(seconds, Hz of the strongest partial, share of silence) of a data URI."""
  assert uri.startswith("data:audio/ogg;base64,")
  wav, sr = soundfile.read(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
  assert sr == 16_000 and wav.ndim == 1
  loudest = np.abs(np.fft.rfft(wav)).argmax() * sr / len(wav)
  return len(wav) / sr, loudest, np.mean(np.abs(wav) < 0.01)


def test_rows_sounds_and_marks(folder, capsys):
  html = run(folder, "--queries", "6", "--k", "3", "--secs", "2")
  page = Page(html)
  assert len(page.rows) == 6 and "6 queries" in capsys.readouterr().out
  unit = X / np.linalg.norm(X, axis=1, keepdims=True)
  seen = set()
  for first, *others in page.rows:
    q = IDS.index(first["id"])
    seen.add(LABELS[q])
    s = unit @ unit[q]
    best = [j for j in np.argsort(-s) if j != q][:3]
    assert [o["id"] for o in others] == [IDS[j] for j in best] and first["kind"] == "query"
    for o, j in zip(others, best, strict=True):
      assert f"cosine {s[j]:.3f}" in o["text"] and f"a{j % 2}" in o["text"]
      if LABELS[q]:
        word = "right" if LABELS[j] == LABELS[q] else "wrong"
        assert o["kind"] == word and word in o["text"]
      else:
        assert "right" not in o["text"] and "wrong" not in o["text"]
    for track in (first, *others):
      secs, hz, _ = heard(track["sound"])
      assert secs == pytest.approx(2, abs=0.01)
      assert hz == pytest.approx(pitch(IDS.index(track["id"])), abs=3)
  assert {"<c0>", "<c1>", "<c2>"} <= seen
  middle = heard(page.rows[0][0]["sound"])[2]
  assert 0.4 < middle < 0.65  # the tone lies in the middle of the excerpt
  assert heard(Page(run(folder, "--queries", "1", "--secs", "30")).rows[0][0]["sound"])[0] == 4


def test_the_page_is_closed_and_escaped(folder):
  html = run(folder, "--queries", "12")
  page = Page(html)
  assert "default-src 'none'" in html and "<script" not in html
  links = [v for _, a in page.tags for k, v in a.items() if k in ("src", "href")]
  assert len(links) == 72 and all(v.startswith("data:audio/ogg;base64,") for v in links)
  names = {t for t, _ in page.tags}
  assert "t3" not in names and "c0" not in names  # names of tracks did not become elements
  radios = [a for t, a in page.tags if t == "input"]
  assert [a.get("id") for a in radios] == [None, "c0", "c1", "c2"]
  for i in range(3):
    assert f"main:has(#c{i}:checked) .row:not(.k{i}) {{ display: none; }}" in html
  for tag, attrs in page.tags:
    if tag == "section":
      row = page.rows[[a for t, a in page.tags if t == "section"].index(attrs)]
      label = LABELS[IDS.index(row[0]["id"])]
      assert attrs["class"] == (f"row k{label[2]}" if label else "row")


def test_size_limit_leaves_out_later_sounds(folder, capsys):
  whole = run(folder, "--queries", "6")
  most = len(whole.encode()) / 2 / 1e6
  html = run(folder, "--queries", "6", "--mb", f"{most}")
  assert len(html.encode()) <= most * 1e6
  lost = int(re.search(r"left out to stay below .* MB: (\d+) sounds", capsys.readouterr().out)[1])
  assert html.count("<audio") + lost == whole.count("<audio") == 36
  assert 5 < lost < 31 and "Left out to keep" in html
  (folder / "page.html").unlink()
  assert run(folder, "--mb", "0.001", code=2) is None
  assert "without any sound" in capsys.readouterr().err


def test_tracks_that_cannot_be_read(folder, capsys):
  (folder / "audio" / IDS[2]).unlink()
  (folder / "audio" / IDS[5]).write_bytes(b"RIFF nothing")
  html = run(folder, "--queries", "12", "--k", "11", code=1)
  told = capsys.readouterr().err.splitlines()
  assert len(told) == 2 and any(IDS[2] in t for t in told) and any(IDS[5] in t for t in told)
  assert html.count("cannot be read") == 24 and html.count("<audio") == 120


def test_ids_that_lead_elsewhere_and_wrong_flags(folder, capsys):
  embeddings.save(folder / "t.npz", embeddings.Table(X[:2], ["../t.npz", "b.wav"]))
  assert run(folder, code=2) is None
  assert "no path below" in capsys.readouterr().err
  embeddings.save(folder / "t.npz", embeddings.Table(X, IDS))
  assert run(folder, "--exclude-artist", code=2) is None
  assert run(folder, "--k", "0", code=2) is None
  page = Page(run(folder, "--queries", "3"))  # no labels: no marks, no filter
  assert len(page.rows) == 3 and not [t for t, _ in page.tags if t == "input"]
  assert {t["kind"] for row in page.rows for t in row} == {"query", "track"}
