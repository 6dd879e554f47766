"""Lists of recordings and segments."""

import json

import numpy as np
import pytest

from big_audio.datasets import jsonl
from tests.datasets.conftest import tone, write


@pytest.fixture
def make(tmp_path):
  write(tmp_path / "a" / "x.wav", tone(2))
  write(tmp_path / "y.wav", tone(1, hz=300))
  write(tmp_path / "hi.wav", tone(1, 16000), 16000)

  def make(*lines, **kw):
    text = "\n\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (tmp_path / "list.jsonl").write_text(text)
    return jsonl.Source(str(tmp_path / "list.jsonl"), **kw)

  return make


def test_recordings_and_segments(make):
  s = make(
    {"path": "a/x.wav", "caption": "low", "label": 2, "start": 0.5, "secs": 0.25},
    {"path": "y.wav", "caption": "high", "label": 0, "id": "why"},
    {"path": "a/x.wav", "start": 1.5},
  )
  assert len(s) == 3 and [s[i]["id"] for i in range(3)] == ["a/x.wav@0.5", "why", "a/x.wav@1.5"]
  assert (s[0]["caption"], s[0]["label"], s[0]["sr"]) == ("low", 2, 8000)
  np.testing.assert_allclose(s[0]["wav"].numpy(), tone(2)[4000:6000], atol=1e-4)
  assert s[1]["wav"].shape == (8000, 1) and s[2]["wav"].shape == (4000, 1)


def test_no_start_and_odd_ends_of_lines(make):
  line = {"path": "y.wav", "start": None, "secs": None, "caption": "a\u2028b\x85c"}
  s = make(json.dumps(line, ensure_ascii=False), {"path": "y.wav", "start": 0.5})
  assert len(s) == 2 and s[0]["id"] == "y.wav" and s[0]["wav"].shape == (8000, 1)
  assert s[0]["caption"] == "a\u2028b\x85c" and s[1]["id"] == "y.wav@0.5"


def test_all_segments_of_a_listed_recording(make, tmp_path):
  (tmp_path / "train.txt").write_text("a/x\n")
  lines = [{"path": "a/x.wav", "start": i / 2, "secs": 0.5} for i in range(3)]
  s = make(*lines, {"path": "y.wav"}, split="train", splits={"train": "train.txt"})
  assert [s[i]["id"] for i in range(len(s))] == ["a/x.wav@0.0", "a/x.wav@0.5", "a/x.wav@1.0"]


def test_rates_and_channels(make, capsys):
  with pytest.raises(ValueError, match=r"mixed rates \(Hz\): 1 with 8000, 1 with 16000"):
    make({"path": "y.wav"}, {"path": "hi.wav"})
  s = make({"path": "y.wav"}, {"path": "hi.wav"}, sr=16000, channels=2)
  assert {s[i]["wav"].shape for i in range(2)} == {(16000, 2)}
  assert "converting rates (Hz) to 16000" in capsys.readouterr().err


def test_splits(make):
  lines = [{"path": "y.wav"}, {"path": "a/x.wav"}]
  assert len(make(*lines, split="top", splits={"top": "^y", "sub": "^a/"})) == 1
  with pytest.raises(ValueError, match='no split "train"'):
    make(*lines, split="train")


@pytest.mark.parametrize(
  "line,message",
  [
    ({"pth": "y.wav"}, r'line 1: expected an object with "path"\. Did "pth"'),
    ("{", "line 1: not JSON"),
    ("[1]", 'line 1: expected an object with "path"'),
    ({"path": "no.wav"}, "line 1: cannot read"),
    ({"path": "y.wav", "start": 0.5, "secs": 0.6}, r"segment of 0\.60 s at 0\.50 s is outside"),
    ({"path": "y.wav", "start": 1}, "is outside"),
    ({"path": "y.wav", "start": -1}, "is outside"),
    ({"path": "y.wav", "secs": "1"}, "secs must be seconds, got '1'"),
    ({"path": "y.wav", "start": float("inf")}, "start must be seconds, got inf"),
    ({"path": "y.wav", "start": float("nan")}, "start must be seconds, got nan"),
    ({"path": "y.wav", "secs": 10**400}, "secs must be seconds, got 1000"),
    ({"path": "y.wav", "start": [1]}, r"start must be seconds, got \[1\]"),
    ("", "the list is empty"),
  ],
)
def test_wrong_lines(make, line, message):
  with pytest.raises(ValueError, match=message):
    make(line)


def test_a_missing_list(tmp_path):
  with pytest.raises(ValueError, match="cannot be read"):
    jsonl.Source(str(tmp_path / "no.jsonl"))
