"""The browser's page: values, pictures, sounds, histograms, a run's errors, hostile names."""

import base64
import io
import json
import re

import numpy as np
import pytest
import soundfile
from matplotlib.image import imread
from ml_collections import ConfigDict

from big_audio.datasets import build as sources
from big_audio.datasets import synth_render, synths, vimh_write
from proj.vimh import browse, browse_page, browse_run

DATA = dict(source="worlds.synth", synth="moog_basic", size=60, temporal=True)
DECAY = "log10_decay_time"


@pytest.fixture(scope="module")
def data():
  return browse.DataSet(DATA)


def item(split, i):
  kw = {k: v for k, v in DATA.items() if k != "source"}
  return sources.build("worlds.synth", **kw, split=split)[i]


def pictures(html):
  """Every grey PNG of the samples as [H,W] with its lowest row last."""
  found = re.findall(r'<img src="data:image/png;base64,([^"]+)"', html)
  return [np.round(255 * imread(io.BytesIO(base64.b64decode(x)))).astype(int) for x in found]


def test_page_has_the_pictures_with_low_frequencies_at_the_bottom(data):
  samples = [data.sample("test", i) for i in (3, 0)]
  html, left_out = browse_page.page(data, samples, split="test", fit=12)
  assert left_out == ""
  found = pictures(html)
  true = [item("test", i)["image"][..., c] for i in (3, 0) for c in (0, 1)]
  assert len(found) == 4
  for got, image in zip(found, true, strict=True):
    np.testing.assert_array_equal(got, image[::-1])
  assert true[0][0].mean() > true[0][-1].mean() + 50  # a filtered saw has its power below


def test_page_has_the_labels_of_the_item(data):
  sample, true = data.sample("test", 5), item("test", 5)
  for p in data.metadata.parameters:
    assert sample.values[p.name] == pytest.approx(true[f"{p.name}/value"], rel=1e-6)
    assert sample.classes[p.name] == true[p.name]
    assert p.decode(sample.bytes[p.name]) == pytest.approx(sample.values[p.name], rel=1e-6)
  html, _ = browse_page.page(data, [sample], split="test", fit=1)
  value, byte, cls = (
    getattr(sample, k)["filter_cutoff"] for k in ("values", "bytes", "classes")
  )  # fmt: skip
  assert f"<td>filter_cutoff</td><td>{value:.4g}</td><td>{byte}</td><td>{cls}</td>" in html
  lo, hi = true["spec_scale"]
  assert f"{lo:.1f} to {hi:.1f} dB" in html and true["id"] in html


def test_histograms_count_the_classes_of_every_split(data):
  cutoff = data.metadata.parameter("filter_cutoff")
  counts = data.class_counts(cutoff)
  for split in ("train", "validation", "test"):
    kw = {k: v for k, v in DATA.items() if k != "source"}
    source = sources.build("worlds.synth", **kw, split=split)
    true = np.bincount([source[i]["filter_cutoff"] for i in range(len(source))], minlength=19)
    np.testing.assert_array_equal(counts[split], true)
  svg = browse_page.bars("x", ["1", "2"], dict(train=[3, 1], test=[0, 2]))
  assert "train, 1: 3" in svg and "test, 2: 2" in svg and svg.count("<rect") == 3
  heights = [float(h) for h in re.findall(r"height=([\d.]+) style", svg)]
  assert heights[0] == pytest.approx(3 * heights[1], rel=0.01)  # shares of a series


def test_sounds_are_rendered_from_the_labels(data):
  samples = [data.sample("test", i) for i in (0, 1)]
  values = {p: np.array([s.values[p] for s in samples]) for p in data.metadata.names}
  wavs = synth_render.sounds(data.metadata, values)
  html, _ = browse_page.page(data, samples, split="test", fit=2, wavs=wavs)
  found = re.findall(r'<audio [^>]*src="data:audio/wav;base64,([^"]+)"', html)
  assert len(found) == 2 and "rendered from the labels" in html
  got, sr = soundfile.read(io.BytesIO(base64.b64decode(found[1])))
  assert sr == 8000
  np.testing.assert_allclose(got, np.clip(wavs[1], -1, 1), atol=1e-4)


def test_size_is_limited_and_told(data):
  samples = [data.sample("test", i) for i in range(8)]
  wavs = np.zeros((8, 8000), np.float32)
  args = dict(split="test", fit=8, wavs=wavs, waterfalls=False)
  whole, left_out = browse_page.page(data, samples, **args)
  assert left_out == ""
  most = len(whole.encode()) - 30_000
  some, left_out = browse_page.page(data, samples, **args, most=most)
  assert left_out == "2 sounds" and len(some.encode()) <= most and "2 sounds" in some
  assert len(pictures(some)) == 16
  plain = len(browse_page.page(data, samples, split="test", fit=8)[0].encode())
  few, left_out = browse_page.page(data, samples, **args, most=plain - 5000)
  assert "samples" in left_out and len(pictures(few)) < 16 and len(few.encode()) < plain


def test_picks_and_order():
  values = dict(a=np.array([1.0, 3.0, 2.0, 5.0]), b=np.array([0.0, 1.0, 1.0, 0.0]))
  choose = lambda **kw: browse.choose(values, **kw)
  assert choose(picks=["a=2..3"], sort="a")[0].tolist() == [2, 1]
  assert choose(picks=["a=..2", "b=1"])[0].tolist() == [2]
  found, fit = choose(sort="error", error=np.array([0.0, 2.0, 1.0, 2.0]), count=3)
  assert found.tolist() == [1, 3, 2] and fit == 4
  for kw, told in (
    (dict(picks=["a=x..2"]), "expected PARAM=LO"),
    (dict(picks=["aa=1"]), 'Did you mean "a"'),
    (dict(picks=["a=7.."]), "a is 1 to 5"),
    (dict(sort="error"), "--workdir"),
    (dict(sort="c"), "Known: a, b, error"),
  ):
    with pytest.raises(ValueError, match=told):
      choose(**kw)


def hostile(folder):
  """A data set whose names are markup."""
  recipe = synths.build("simple_saw", size=20)
  records = synth_render.records(recipe)
  text = json.dumps(recipe.metadata_json())
  raw = json.loads(text.replace(DECAY, '<b onload=\\"x\\">'))
  raw["dataset_name"] = "</title><script>alert(1)</script>"
  raw["channel_labels"] = ['"><i>']
  for p in raw["parameter_mappings"].values():
    p["description"] = '"><img src=x>'
  vimh_write.write_folder(folder, raw, records[:16], records[16:])
  return folder


def test_hostile_names_are_escaped(tmp_path, capsys):
  out = tmp_path / "page.html"
  argv = [str(hostile(tmp_path / "set")), "--out", str(out), "--png", str(tmp_path / "x.png")]
  assert browse.main([*argv, "--sort", "note_velocity"]) == 0
  html = out.read_text()
  for bad in ("<script>", "<b onload", "<i>", "<img src=x>"):
    assert bad not in html, bad
  assert "&lt;script&gt;" in html and "&lt;b onload" in html and "&lt;img src=x&gt;" in html
  assert (tmp_path / "x.png").stat().st_size > 1000
  assert "4 of 4 samples" in capsys.readouterr().out


def data_head(data, name):
  p = data.metadata.parameter(name)
  return dict(min=p.min, max=p.max, step=p.step)


class Stub:
  """A run that errs by one class where the picture is dark."""

  workdir, step = "runs/x", 7

  def __init__(self, metadata, level):
    self.metadata, self.level = metadata, level
    names = metadata.names
    keep = ", ".join(f'"{k}"' for n in names for k in (n, f"{n}/value"))
    train = dict(DATA, split="train", pp=f'keep("image", {keep})')
    outputs = metadata.heads()
    heads = {n: data_head(self, n) for n in names}
    self.config = ConfigDict(
      dict(
        input=dict(data=dict(train=train)),
        evals=dict(val=dict(data=dict(train, split="validation"))),
        models=dict(heads=dict(outputs=outputs)),
        trainer=dict(heads=heads),
      )
    )

  def predict(self, name, batch):
    if name == "values":
      return {p: batch[f"{p}/value"] + 1 for p in self.metadata.names}
    out = {f"target/{DECAY}": batch[DECAY]}
    off = (batch["image"].reshape(len(batch[DECAY]), -1).mean(1) < self.level).astype(int)
    classes = np.clip(batch[DECAY] - off, 0, None)
    return {DECAY: np.eye(self.metadata.heads()[DECAY])[classes], **out}


def test_errors_of_a_run_are_marked(data, monkeypatch, tmp_path):
  items = [item("test", i) for i in range(12)]
  level = np.median([x["image"].mean() for x in items])
  stub = Stub(data.metadata, level)
  found = browse_run.Estimates(stub, {**DATA, "split": "test"})
  dark = np.array([x["image"].mean() < level and x[DECAY] > 0 for x in items])
  assert 0 < dark.sum() < 12
  np.testing.assert_array_equal(found.wrong[DECAY], dark)
  np.testing.assert_allclose(found.error, dark / (stub.metadata.heads()[DECAY] - 1))
  np.testing.assert_allclose(
    found.values["filter_cutoff"], [x["filter_cutoff/value"] + 1 for x in items], rtol=1e-6
  )
  with pytest.raises(ValueError, match="size=999.*share items"):
    browse_run.Estimates(stub, {**DATA, "split": "test", "size": 999})
  monkeypatch.setattr(browse_run, "open_run", lambda spec: stub)
  out = tmp_path / "x.html"
  assert browse.main(["--workdir", "runs/x", "--sort", "error", "--out", str(out)]) == 0
  html = out.read_text()
  assert html.count("<tr class=bad") == dark.sum()
  at = html.index("<h4>")
  assert html[at:].split("</h4>")[0] == f"<h4>{items[int(np.argmax(dark))]['id']}"
  saws = synths.build("simple_saw").metadata()
  for name, told in (
    ("note_velocity", "100 to 127 in 6 classes for this run, 126 to 127 in 3 in"),
    ("filter_cutoff", "no 'filter_cutoff'"),
  ):
    stub.config.trainer = dict(heads={name: data_head(data, name)})
    with pytest.raises(ValueError, match=told):
      browse_run.check(stub, saws)


def test_waterfall_and_grid(data, tmp_path):
  samples = [data.sample("test", i) for i in range(3)]
  fall = imread(io.BytesIO(browse_page.waterfall(samples[0])))
  assert fall.shape[:2] == (240, 320) and np.ptp(fall[..., 0]) > 0.5
  browse_page.grid(str(tmp_path / "g.png"), data.metadata, samples)
  assert imread(tmp_path / "g.png").shape[1] > 600


def test_what_to_show_has_to_be_said(capsys):
  for argv, told in (
    (["--out", "x.html"], "expected one of DIR"),
    (["d", "--synth", "fm", "--out", "x.html"], "expected one of DIR"),
    (["d", "--size", "3", "--out", "x.html"], "--size belongs to --synth"),
    (["--synth", "fmm", "--out", "x.html"], "Nearest: fm"),
    (["--synth", "fm"], "nothing to write"),
    (["/no/such", "--out", "x.html"], "cannot be read"),
  ):
    assert browse.main(argv) == 2
    err = capsys.readouterr().err
    assert told in err and err.startswith("browse: ") and err.count("\n") == 1, err
