"""The downloader against a server on 127.0.0.1: kills, failures, caps, duplicates, the manifest."""

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from big_audio.tools import download_wavegen, hub, manifests
from tests.tools import loopback

yt_dlp = pytest.importorskip("yt_dlp", reason="needs the extra download")
pytest.importorskip("huggingface_hub", reason="needs the extra download")


def wav(secs=0.5, seed=0):
  out = io.BytesIO()
  noise = np.random.default_rng(seed).uniform(-0.5, 0.5, round(secs * 8000))
  soundfile.write(out, noise, 8000, format="WAV", subtype="PCM_16")
  return out.getvalue()


@pytest.fixture
def server(monkeypatch):
  loopback.forbid_the_world(monkeypatch)
  s = loopback.Server()
  yield s
  s.close()


def table(server, rows, name="data/train-00000-of-00001.jsonl"):
  server.table = {
    "README.md": b"#",
    "data/test-00000.jsonl": b'{"video_id": "never"}\n',
    name: "".join(json.dumps(r) + "\n" for r in rows).encode(),
  }


def run(server, out, *flags):
  """(exit status, manifest by id)"""
  argv = ["--repo", "own/list", "--endpoint", server.url, "--format", "native", "--retries", "0"]
  argv += ["--output-dir", str(out), "--url-template", server.url + "/a/{id}.wav", *flags]
  argv += ["--any-site", "--min-free", "1k"]
  status = 0
  try:
    download_wavegen.main(argv)
  except SystemExit as e:
    status = e.code
  return status, {r["id"]: r for r in manifests.read(out / "manifest.jsonl", missing_ok=True)}


def test_good_missing_too_long_and_duplicate(server, tmp_path, capsys):
  server.files = {"/a/one.wav": wav(seed=1), "/a/two.wav": wav(seed=2), "/a/long.wav": wav(2.0)}
  table(server, [
    dict(video_id="one", title="One", uploader="Ann", license="CC BY 4.0"),
    dict(video_id="gone", title="Gone"), dict(video_id="long", title="Long"),
    dict(video_id="two", title="Two"), dict(video_id="one", title="One again"),
    dict(video_id="listed", title="Long in the list", duration=99),
    dict(video_id="../bad", title="A path"),
  ])  # fmt: skip
  status, rows = run(server, tmp_path, "--max-mins", str(1.5 / 60), "--jobs", "3")
  assert status == 1 and set(rows) == {"one", "two", "gone", "long", "listed", "../bad"}
  one = rows["one"]
  assert one["sha256"] == hashlib.sha256(server.files["/a/one.wav"]).hexdigest()
  assert one["secs"] == 0.5 and one["licence"] == "CC BY 4.0" and one["author"] == "Ann"
  assert one["title"] == "One" and one["error"] is None and one["bytes"] == len(wav(seed=1))
  assert (tmp_path / one["path"]).read_bytes() == server.files["/a/one.wav"]
  assert rows["two"]["licence"] == download_wavegen.LICENCE
  assert "404" in rows["gone"]["error"] and rows["gone"]["path"] is None
  assert rows["long"]["error"] == "too long: 2 s, the cap is 1.5 s"
  assert rows["listed"]["error"].startswith("too long: 99 s")
  assert "expected 1 to 64 letters" in rows["../bad"]["error"]
  assert not any("listed" in p or "never" in p for p in server.paths())
  assert sorted(p.name for p in (tmp_path / "audio").iterdir()) == ["one.wav", "two.wav"]
  out, err = capsys.readouterr()
  assert "2 fetched, 2 too long, 2 failed" in out
  assert '"id": "gone"' in err

  # Again: only the failures are tried, and the hub is not asked.
  server.requests.clear()
  server.files["/a/gone.wav"] = wav(seed=3)
  status, rows = run(server, tmp_path, "--max-mins", str(1.5 / 60), "--jobs", "3")
  assert status == 1 and rows["gone"]["error"] is None and len(rows) == 6
  assert {p for p in server.paths()} == {"/a/gone.wav"}
  assert len(manifests.read(tmp_path / "manifest.jsonl")) == 6
  # A higher cap lets the long one through.
  _, rows = run(server, tmp_path, "--max-mins", "1", "--limit", "3")
  assert rows["long"]["error"] is None and rows["long"]["secs"] == 2.0


@pytest.mark.parametrize("told", [True, False])
def test_a_file_that_is_too_large_for_the_cap(server, tmp_path, monkeypatch, told):
  """A length that no one tells: the bytes end it, before or in the middle of the download."""
  monkeypatch.setattr(download_wavegen, "_BYTES_A_SEC", 20_000)
  server.files = {"/a/large.wav": wav(60), "/a/fits.wav": wav(1.0)}
  server.chunked = set() if told else {"/a/large.wav"}
  written, hook = set(), yt_dlp.downloader.FileDownloader._hook_progress
  spy = lambda self, state, info: (written.add(info["id"]), hook(self, state, info))
  monkeypatch.setattr(yt_dlp.downloader.FileDownloader, "_hook_progress", spy)
  table(server, [dict(video_id="large"), dict(video_id="fits")])
  status, rows = run(server, tmp_path, "--max-mins", str(2 / 60))
  error = "too long: larger than max_filesize, 0.04 MB (20 kB a second), the cap is 2 s"
  assert status == 0 and rows["large"]["error"] == error and rows["large"]["path"] is None
  assert rows["fits"]["error"] is None and not list((tmp_path / ".parts").iterdir())
  assert written == ({"fits"} if told else {"fits", "large"})
  # Known from now on, unless the cap is raised.
  server.requests.clear()
  run(server, tmp_path, "--max-mins", str(1 / 60))
  assert not server.requests
  _, rows = run(server, tmp_path, "--max-mins", "2")
  assert rows["large"]["error"] is None and rows["large"]["secs"] == 60


def test_a_disk_that_is_nearly_full(server, tmp_path, monkeypatch):
  server.files = {f"/a/{i}.wav": wav(seed=i) for i in range(4)}
  table(server, [dict(video_id=str(i)) for i in range(4)])
  free = iter([3e9, 3e9, 1e9])
  usage = lambda folder: SimpleNamespace(free=next(free) if folder == tmp_path else 1e12)
  monkeypatch.setattr(shutil, "disk_usage", usage)
  argv = ["--repo", "own/list", "--endpoint", server.url, "--format", "native", "--any-site"]
  argv += ["--output-dir", str(tmp_path), "--url-template", server.url + "/a/{id}.wav"]
  with pytest.raises(SystemExit) as e:
    download_wavegen.main([*argv, "--jobs", "4"])
  assert "1 GB free, less than the 2 GB of --min-free" in str(e.value)
  rows = manifests.read(tmp_path / "manifest.jsonl")
  assert sorted(r["id"] for r in rows) == ["0", "1"] and not any(r["error"] for r in rows)
  monkeypatch.undo()
  loopback.forbid_the_world(monkeypatch)
  assert run(server, tmp_path)[0] == 0


def test_other_sites_are_refused(server, tmp_path):
  """The list is by someone else: it must not choose what this machine connects to."""
  for url in ("https://www.youtube.com/watch?v=abcdefghijk", "http://youtu.be/abcdefghijk",
              "https://music.youtube.com/watch?v=a&list=b", "https://YouTube.com"):  # fmt: skip
    assert download_wavegen.is_youtube(url), url
  for url in (server.url + "/a/x.wav", "http://localhost/", "http://[::1]/", "http://169.254.1.1/",
              "https://youtube.com.evil.org/", "https://evilyoutube.com/", "https://youtube.com@a.b",
              "http://a.b\\@youtube.com/", "http://youtube.com:22/", "https://youtube.com/ x",
              "https://youtube.com/#@a.b", "file://youtube.com/etc/passwd",
              "https://youtube.com\n.a.b/"):  # fmt: skip
    assert not download_wavegen.is_youtube(url), url
  server.files = {"/a/x.wav": wav()}
  table(server, [dict(video_id="x", url=server.url + "/a/x.wav")])
  argv = ["--repo", "own/list", "--endpoint", server.url, "--format", "native"]
  argv += ["--output-dir", str(tmp_path), "--min-free", "1k"]
  with pytest.raises(SystemExit):
    download_wavegen.main(argv)
  (row,) = manifests.read(tmp_path / "manifest.jsonl")
  assert "not of YouTube; --any-site" in row["error"] and "/a/x.wav" not in server.paths()
  # Nor may an address of YouTube lead elsewhere: no other extractor is there.
  seen = {}
  real = yt_dlp.YoutubeDL

  def spy(options):
    seen.update(options)
    ydl = real(options)
    seen["names"] = set(ydl._ies)
    return ydl

  with pytest.MonkeyPatch.context() as m:
    m.setattr(yt_dlp, "YoutubeDL", spy)
    row = dict(id="y", url="https://www.youtube.com/redirect?q=" + server.url, secs=None)
    with pytest.raises(Exception, match="No suitable extractor"):
      download_wavegen.Downloader(tmp_path, format="native")(row)
  assert seen["names"] == {"Youtube"}
  download_wavegen.main([*argv, "--any-site"])
  assert manifests.read(tmp_path / "manifest.jsonl")[0]["path"] == "audio/x.wav"


def test_killed_in_the_middle_of_a_file(server, tmp_path):
  server.files = {"/a/first.wav": wav(seed=1), "/a/big.wav": wav(20, seed=2)}
  table(server, [dict(video_id="first"), dict(video_id="big")])
  server.stall = {"/a/big.wav": 200_000}
  argv = [sys.executable, "-m", "big_audio.tools.download_wavegen", "--repo", "own/list"]
  argv += ["--endpoint", server.url, "--format", "native", "--output-dir", str(tmp_path)]
  argv += [
    "--url-template",
    server.url + "/a/{id}.wav",
    "--jobs",
    "1",
    "--any-site",
    "--min-free",
    "1k",
  ]
  process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
  part = tmp_path / ".parts" / "big"
  try:
    assert server.stalled.wait(60)
    # The part is on disk before the kill.
    end = time.monotonic() + 60
    while not any(p.stat().st_size > 1000 for p in part.glob("*.part")):
      assert time.monotonic() < end, "no part was written"
      time.sleep(0.05)
  finally:
    process.send_signal(signal.SIGKILL)
    process.communicate()
  assert not (tmp_path / "audio" / "big.wav").exists()
  assert [r["id"] for r in manifests.read(tmp_path / "manifest.jsonl")] == ["first"]
  with open(tmp_path / "manifest.jsonl", "a") as f:
    f.write('{"id": "bi')  # torn by a kill while writing
  server.release.set()
  server.requests.clear()
  status, rows = run(server, tmp_path)
  assert status == 0 and set(rows) == {"first", "big"}
  assert rows["big"]["sha256"] == hashlib.sha256(server.files["/a/big.wav"]).hexdigest()
  assert "/a/first.wav" not in server.paths()
  ranges = [r for m, p, r in server.requests if p == "/a/big.wav" and r]
  assert any(int(r.removeprefix("bytes=").split("-")[0]) > 1000 for r in ranges), "begun anew"
  assert not list((tmp_path / ".parts").iterdir())


def test_dry_run_parquet_and_urls_of_the_list(server, tmp_path, capsys):
  pyarrow = pytest.importorskip("pyarrow")
  from pyarrow import parquet

  file = io.BytesIO()
  rows = dict(
    URL=["https://www.youtube.com/watch?v=abcdefghijk", "https://youtu.be/ABCDEFGHIJK"],
    title=["x", None], blob=["u", "n"],
  )  # fmt: skip
  parquet.write_table(pyarrow.table(rows), file)
  server.table = {"data/train-00000.parquet": file.getvalue()}
  argv = ["--repo", "own/list", "--endpoint", server.url, "--output-dir", str(tmp_path)]
  download_wavegen.main([*argv, "--dry-run", "--limit", "1"])
  out = capsys.readouterr().out
  assert "2 listed, 0 done before, 1 to fetch" in out
  assert "abcdefghijk  https://www.youtube.com/watch?v=abcdefghijk  x" in out
  assert sorted(p.name for p in tmp_path.iterdir() if p.name != ".hub") == ["list.jsonl"]
  assert {p.split("/")[1] for p in server.paths()} == {"", "api", "datasets"}


def test_a_list_made_by_hand(tmp_path, capsys):
  rows = [dict(id="one"), dict(video_id="two", title="a\u2028b"), dict(id="one", title="again")]
  manifests.write(tmp_path / "list.jsonl", rows)
  download_wavegen.main(["--output-dir", str(tmp_path), "--dry-run"])
  out = capsys.readouterr().out
  assert "2 listed, 0 done before, 2 to fetch" in out
  assert "one  https://www.youtube.com/watch?v=one" in out
  assert list(hub.rows_of(str(tmp_path / "list.jsonl"), ())) == rows
  manifests.write(tmp_path / "list.jsonl", [dict(title="x")])
  with pytest.raises(SystemExit, match="row 0 of the list names no recording"):
    download_wavegen.main(["--output-dir", str(tmp_path), "--dry-run"])


def test_an_archive_of_yt_dlp_is_minded(server, tmp_path):
  server.files = {"/a/new.wav": wav()}
  table(server, [dict(video_id="old"), dict(video_id="new")])
  (tmp_path / "archive.txt").write_text("youtube old\n")
  status, rows = run(server, tmp_path)
  assert status == 0 and set(rows) == {"new"}
  assert (tmp_path / "archive.txt").read_text() == "youtube old\nyoutube new\n"


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs ffmpeg")
def test_mp3(server, tmp_path):
  server.files = {"/a/one.wav": wav(2.0)}
  table(server, [dict(video_id="one")])
  status, rows = run(server, tmp_path, "--format", "mp3", "--rate", "5M")
  assert status == 0 and rows["one"]["path"] == "audio/one.mp3"
  info = soundfile.info(tmp_path / rows["one"]["path"])
  assert info.format == "MP3" and abs(info.duration - 2.0) < 0.1
  assert rows["one"]["sha256"] == manifests.sha256(tmp_path / "audio/one.mp3")


def test_without_ffmpeg(server, tmp_path, monkeypatch):
  monkeypatch.setattr(shutil, "which", lambda _: None)
  status, _ = run(server, tmp_path, "--format", "mp3")
  assert "mp3 needs ffmpeg and ffprobe" in status and "--format native" in status


def test_offline_is_one_line(tmp_path):
  argv = [sys.executable, "-m", "big_audio.tools.download_wavegen", "--output-dir", str(tmp_path)]
  argv += ["--format", "native"]  # needs no ffmpeg
  env = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9"}  # nothing listens there
  done = subprocess.run(argv, capture_output=True, text=True, env=env, timeout=60)
  assert done.returncode == 1 and done.stdout == ""
  (line,) = done.stderr.splitlines()
  assert "cannot be fetched from http://127.0.0.1:9" in line and "Is there a network?" in line


def test_many_failures_in_a_row_end_it(server, tmp_path, monkeypatch):
  monkeypatch.setattr(download_wavegen, "_IN_A_ROW", 3)
  table(server, [dict(video_id=f"v{i}") for i in range(9)])
  status, rows = run(server, tmp_path, "--jobs", "1")
  assert "3 downloads in a row have failed" in status and len(rows) == 3


def test_a_list_without_ids_and_a_repository_without_the_split(server, tmp_path):
  table(server, [dict(caption="x")])
  assert "row 0 of the list names no recording" in run(server, tmp_path)[0]
  server.table = {"a/test.csv": b"id\n1\n"}
  assert "has no table of the split 'train'" in run(server, tmp_path)[0]
  server.refuse = {"/api/datasets/own/list/tree/main": 404}
  assert "cannot be fetched" in run(server, tmp_path)[0]


def test_files_of_a_split():
  names = ["data/train-0.csv", "data/train-0.parquet", "data/train-1.parquet", "validation.csv"]
  assert hub.files_of("train", names) == ["data/train-0.parquet", "data/train-1.parquet"]
  assert hub.files_of("train", ["strain.csv", "tests/x.csv", "dev.csv"]) == [
    "strain.csv",
    "tests/x.csv",
  ]
  assert hub.files_of("test", ["all.csv"]) == []
