"""What clean takes and, more important, what it leaves."""

import os
import subprocess
import sys
import time

import pytest

from big_audio.tools import clean

LATER = time.time() + 2 * clean.IDLE_SECS


def touch(path, content="x"):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(content)


def tree(root):
  return sorted(
    str(p.relative_to(root)) for p in root.rglob("*") if p.is_symlink() or not p.is_dir()
  )


@pytest.fixture
def checkout(tmp_path):
  root, outside = tmp_path / "repo", tmp_path / "outside"
  for name in ("pyproject.toml", "big_audio/a.py", "big_audio/build/ops.py", ".venv/__pycache__/v"):
    touch(root / name)
  for name in ("big_audio/__pycache__/a", ".ruff_cache/0/x", "build/lib/y", "x.egg-info/z"):
    touch(root / name, "1234567890")
  touch(outside / "__pycache__" / "precious")
  (root / "link").symlink_to(outside)
  (root / "big_audio" / ".pytest_cache").symlink_to(outside)
  (root / "build" / "link").symlink_to(outside)
  return root


def test_caches_go_and_all_else_stays(checkout, tmp_path):
  before = tree(tmp_path)
  listed = clean.clean(checkout, dry_run=True)
  assert tree(tmp_path) == before, "a dry run must not touch anything"
  names = [os.path.relpath(p, checkout) for p, _ in listed]
  assert names == [".ruff_cache", "big_audio/__pycache__", "build", "x.egg-info"]
  assert [size for p, size in listed if "build" not in p] == [10, 10, 10]
  assert clean.clean(checkout) == listed
  assert tree(tmp_path) == [
    "outside/__pycache__/precious",
    "repo/.venv/__pycache__/v",
    "repo/big_audio/.pytest_cache",
    "repo/big_audio/a.py",
    "repo/big_audio/build/ops.py",
    "repo/link",
    "repo/pyproject.toml",
  ]
  assert clean.clean(checkout) == []


def make_runs(root):
  for name in ("config.json", "metrics.jsonl", "checkpoints/100/state", "samples/100/a.wav"):
    touch(root / "good" / name)
  touch(root / "good" / "checkpoints" / "200.orbax-checkpoint-tmp" / "d" / "part", "12345")
  touch(root / "good" / "metrics.jsonl.tmp")
  touch(root / "group" / "never_began" / "config.json")
  touch(root / "group" / "never_began" / "splits.json")
  touch(root / "group" / "never_began" / "metrics.jsonl", "")
  (root / "group" / "never_began" / "checkpoints").mkdir()
  touch(root / "group" / "rows_only" / "config.json")
  touch(root / "group" / "rows_only" / "metrics.jsonl", "{}")
  touch(root / "notes.txt")
  (root / "l.orbax-checkpoint-tmp").symlink_to(root / "good")
  (root / "report.html.tmp").symlink_to(root / "notes.txt")
  return root


def test_leftovers_of_runs(tmp_path):
  root = make_runs(tmp_path / "runs")
  assert clean.clean(workdirs=root) == [], "all of it is fresh: it may belong to a live run"
  done = clean.clean(workdirs=root, now=LATER)
  assert [os.path.relpath(p, root) for p, _ in done] == [
    "good/checkpoints/200.orbax-checkpoint-tmp",
    "good/metrics.jsonl.tmp",
    "group/never_began",
  ]
  assert tree(root) == [
    "good/checkpoints/100/state",
    "good/config.json",
    "good/metrics.jsonl",
    "good/samples/100/a.wav",
    "group/rows_only/config.json",
    "group/rows_only/metrics.jsonl",
    "l.orbax-checkpoint-tmp",
    "notes.txt",
    "report.html.tmp",
  ]


def test_one_fresh_file_inside_keeps_a_save(tmp_path):
  root = make_runs(tmp_path / "runs")
  os.utime(root / "good/checkpoints/200.orbax-checkpoint-tmp/d/part", (LATER, LATER))
  names = [os.path.basename(p) for p, _ in clean.clean(workdirs=root, now=LATER)]
  assert names == ["metrics.jsonl.tmp", "never_began"]


def test_refusals(tmp_path, monkeypatch):
  with pytest.raises(ValueError, match=r"expected a checkout"):
    clean.clean(tmp_path)
  with pytest.raises(ValueError, match=r"expected a folder"):
    clean.clean(workdirs=tmp_path / "none")
  monkeypatch.setenv("HOME", str(tmp_path))
  for path in ("/", str(tmp_path)):
    with pytest.raises(ValueError, match="too much to search"):
      clean.clean(workdirs=path)
  touch(tmp_path / "a" / "x")
  (tmp_path / "b").mkdir()
  (tmp_path / "b" / "link").symlink_to(tmp_path / "a")
  for path in (tmp_path / "a" / "x", tmp_path / "b" / ".." / "a" / "x", tmp_path / "b/link/x"):
    with pytest.raises(ValueError, match="is not below"):
      clean.remove(str(path), str(tmp_path / "b"))
  assert (tmp_path / "a" / "x").exists()


def test_command(tmp_path):
  cmd = [sys.executable, "-m", "big_audio.tools.clean", "--dry-run", f"--workdirs={tmp_path}"]
  out = subprocess.run(cmd, check=True, capture_output=True, text=True).stdout
  assert out.splitlines()[-1].endswith("would be removed")
