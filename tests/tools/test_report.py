"""The report of a fabricated workdir: what it shows, what it escapes, what it survives."""

import base64
import html.parser
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from big_audio import metrics
from big_audio.tools import report, report_page

EVIL = "<script>alert(1)</script>\"'&"
PNG = base64.b64decode(
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
)


class Checker(html.parser.HTMLParser):
  """Collects the tags and attributes, and checks that they nest."""

  VOID = ("meta", "img", "circle", "line", "polyline", "br", "link")

  def __init__(self, text):
    super().__init__()
    self.tags, self.stack, self.links, self.text = [], [], [], ""
    self.feed(text)
    assert self.stack == []

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    self.links += [v for k, v in attrs if k in ("src", "href")]
    if tag not in self.VOID:
      self.stack.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self.stack.pop() == tag

  def handle_data(self, data):
    self.text += data


def make_workdir(root, steps=50):
  w = metrics.MetricWriter(root)
  for step in range(10, 10 * steps + 1, 10):
    w.step_start(step)
    w.measure("train/loss", 2.0 / step)
    w.measure("train/lr", 1e-3)
    w.measure("z/steps_per_sec", 20.0)
    w.measure("z/secs", step / 20)
    if step % 100 == 0:
      w.measure("val/mean/loss", 3.0 / step)
      for nfe in (1, 2):
        w.measure(f"val/audio/nfe{nfe}/si_sdr", nfe * step / 100)
      w.measure("val/audio/identity/si_sdr", float("inf"))
    w.step_end()
  w.close()
  (root / "config.json").write_text(json.dumps({"total_steps": 500, "name": EVIL, "kein": "ü"}))
  (root / "failed.jsonl").write_text(json.dumps({"id": EVIL}) + "\n" + "{}\n")
  for step in (100, 500):
    folder = root / "samples" / str(step)
    folder.mkdir(parents=True)
    for stem in ("a", "a_b", f"x{EVIL.replace('/', '')}"):
      (folder / f"{stem}.png").write_bytes(PNG)
      for name in ("nfe1", "input"):
        soundfile.write(folder / f"{stem}_{name}.wav", np.zeros(80), 8000)
    checkpoint = root / "checkpoints" / str(step) / "state"
    checkpoint.mkdir(parents=True)
    (checkpoint / "d").write_bytes(bytes(1_500_000))
  (root / "checkpoints" / "600.orbax-checkpoint-tmp").mkdir()
  (root / "samples" / "100" / "secret.wav").symlink_to("/etc/passwd")
  return root


def test_a_whole_page(tmp_path):
  root = make_workdir(tmp_path / f"run{EVIL.replace('/', '')}")
  path = report.write_report(root)
  text = (root / "report.html").read_text()
  assert path == str(root / "report.html")
  doc = Checker(text)
  assert text.count("<script>") == 1, "only our own"
  assert all(link.startswith(("data:", "#")) for link in doc.links), "no request to a network"
  assert not re.search(r"(?i)https?://|@import|url\(", text)
  assert [d["data-step"] for t, d in doc.tags if t == "section"] == ["500", "100"]
  assert sum(t == "audio" for t, _ in doc.tags) == 2 * 3 * 2
  assert sum(t == "img" for t, _ in doc.tags) == 2 * 3
  assert sum(t == "svg" for t, _ in doc.tags) == 6
  assert "500 / 500" in doc.text and "2 in failed.jsonl" in doc.text
  assert "1.5 MB" in doc.text and "600.orbax-checkpoint-tmp" in doc.text
  assert '"kein": "ü"' in doc.text and "root:" not in doc.text
  label = re.compile(r"<label>([^<]*)</label><audio")
  assert label.findall(text)[:2] == ["input", "nfe1"]


def test_numbers_are_the_last_ones_and_rows_are_side_by_side(tmp_path):
  text = report.render(make_workdir(tmp_path))
  cells = [re.findall(r"<t[dh]>(.*?)</t[dh]>", row) for row in text.split("<tr>")]
  assert ["train/loss", "0.004", "500", "0.004", "0.2"] in cells
  assert ["nfe1", "5"] in cells and ["nfe2", "10"] in cells and ["identity", "inf"] in cells


def test_a_missing_package_is_told_in_the_cells_of_its_measure(tmp_path):
  w = metrics.MetricWriter(tmp_path)
  w.step_start(1)
  for name, value in (("kbps", 1.5), ("unavailable/pesq_nb", 1.0), ("mean/mel", 4.0),
                      ("ae/mel", 2.0), ("nfe1/mel", 3.0)):  # fmt: skip
    w.measure(f"val/d/{name}", value)
  w.step_end()
  w.close()
  text = report.render(tmp_path)
  cells = [re.findall(r"<t[dh]>(.*?)</t[dh]>", row) for row in text.split("<tr>")]
  at = next(c for c in cells if "pesq_nb" in c)
  row = lambda name: dict(zip(at, next(c for c in cells if c and c[0] == name), strict=True))
  assert row("nfe1")["pesq_nb"] == row("ae")["pesq_nb"] == "unavailable"
  assert row("nfe1")["mel"] == "3" and row("-")["pesq_nb"] == "" and row("-")["kbps"] == "1.5"
  assert not any(c and c[0] == "unavailable" for c in cells) and text.count("<svg") == 2
  assert "Not drawn, see the table: mean." in text


def test_a_budget_for_embedded_files(tmp_path):
  root = make_workdir(tmp_path)
  size = sum(p.stat().st_size for p in (root / "samples" / "500").iterdir())
  text = report.render(root, embed_bytes=size)
  assert "Older steps" not in text and 'data-step="100"' in text and "did not fit" in text
  text = report.render(root, embed_bytes=size - 1)
  assert "Older steps, in the workdir only: 100: 3 items" in text
  assert text.count("<audio") + text.count("<img") == 8 and "not embedded, too large" in text
  assert size_of_data(text) <= size - 1


def size_of_data(text):
  return sum(len(base64.b64decode(d)) for d in re.findall(r"base64,([^\"]*)", text))


@pytest.mark.parametrize("part", ["config.json", "metrics.jsonl", "samples", "checkpoints", "none"])
def test_a_run_in_progress(tmp_path, part):
  (tmp_path / "config.json").write_text("{}")
  if part == "metrics.jsonl":
    (tmp_path / part).write_text('{"step": 1, "train/loss": "NaN"}\n{"step": 2, "tr')
  elif part in ("samples", "checkpoints"):
    (tmp_path / part / "1").mkdir(parents=True)
  doc = Checker(report.render(tmp_path))
  assert ("No metrics yet" in doc.text) == (part != "metrics.jsonl")
  assert ("no finite value yet" in doc.text) == (part == "metrics.jsonl")
  assert ("No checkpoint yet" in doc.text) == (part != "checkpoints")
  assert "No samples yet" in doc.text


def test_damaged_files_are_told(tmp_path):
  (tmp_path / "config.json").write_text('{"a": <b>')
  (tmp_path / "metrics.jsonl").write_text("<b>bold</b>\n")
  text = report.render(tmp_path)
  doc = Checker(text)
  assert "config.json is no JSON" in doc.text and "metrics.jsonl:1: expected" in doc.text
  assert "<b>bold" not in text


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_no_workdir(tmp_path, name):
  (tmp_path / "empty").mkdir()
  with pytest.raises(ValueError, match=f"{name}: expected the workdir of a run"):
    report.write_report(tmp_path / name)
  cmd = [sys.executable, "-m", "big_audio.tools.report", str(tmp_path / name)]
  done = subprocess.run(cmd, capture_output=True, text=True, check=False)
  assert done.returncode == 1 and done.stderr.startswith("report: ")
  assert "Traceback" not in done.stderr


def test_command(tmp_path):
  root = make_workdir(tmp_path / "run", steps=3)
  cmd = [sys.executable, "-m", "big_audio.tools.report", str(root), f"--out={tmp_path / 'r.html'}"]
  out = subprocess.run(cmd, capture_output=True, text=True, check=True).stdout
  assert out.startswith(str(tmp_path / "r.html")) and not (root / "report.html").exists()


@pytest.mark.parametrize(
  "values",
  [[1.0], [5, 5, 5], [0.0, 0.0], [-3, 7], [1e-9, 1e9], [1e-300, 1e300], [2**60, 2**61], [1, 40]],
)
def test_charts_stay_in_their_box(values):
  text = report_page.chart("t", [("", list(enumerate(values, 1)))])
  Checker(text)
  points = re.search(r'points="(.*?)"', text)[1].split()
  assert len(points) == len(values)
  for point in points:
    x, y = map(float, point.split(","))
    assert 0 <= x <= report_page._W and 0 <= y <= report_page._H
  assert len(re.findall(r"text-anchor=end", text)) <= 10


def test_thinning_keeps_the_extremes():
  values = np.random.default_rng(0).normal(size=10_000)
  values[1234], values[9876] = 99.0, -99.0
  points = list(enumerate(values.tolist()))
  thin = report_page._thin(points)
  assert len(thin) <= report_page._MAX_POINTS + 2 and thin == sorted(thin)
  assert {(1234, 99.0), (9876, -99.0), points[-1]} <= set(thin)


def test_names():
  assert report.split_name("val/audio/nfe1/si_sdr") == ("val/audio", "nfe1", "si_sdr")
  assert report.split_name("val/loss") == ("val", "", "loss")
  assert report.split_name("train/raw/mse") == ("train", "raw", "mse")
  assert report.split_name("loss") == ("run", "", "loss")
  assert [report.size_text(n) for n in (5, 1500, 150_000, 12e9)] == [
    "5 B",
    "1.5 kB",
    "150 kB",
    "12 GB",
  ]
