"""Counts, shapes and drawings of configs."""

import contextlib
import xml.etree.ElementTree as ET

import jax
import numpy as np
import pytest

from big_audio import config as C
from big_audio import inference, input_pipeline, trees
from big_audio.tools import diagram, summary

SPEC = "configs/vimh.py:smoke,net=vit_23k"


def frozen_trunk():
  config = C.load(SPEC).copy_and_resolve_references()
  config.unlock()
  config.optimizer.schedule = [["net/.*", None], *config.optimizer.schedule]
  return C.canonical(config)


@pytest.fixture(scope="module")
def vit():
  return summary.describe(frozen_trunk(), SPEC)


def test_counts_are_those_of_a_real_init(vit):
  config = frozen_trunk()
  trainer = C.resolve("trainers", config.trainer.name).Trainer(config, C.build_models(config))
  with contextlib.closing(input_pipeline.train_batches(config.input, seed=0)) as batches:
    batch = inference.numeric(next(batches))
  real = jax.jit(trainer.init)(jax.random.key(0), batch, trainer.stats([batch]))
  assert vit.count() == trees.count(real["params"])
  for model, tree in real["params"].items():
    assert vit.count(model) == trees.count(tree)
  rows = {r.name: r for r in vit.rows(3)}
  assert rows["net/block1"].count == trees.count(real["params"]["net"]["block1"])
  assert rows["net/block1/expand"].arrays == {"kernel": (32, 64), "bias": (64,)}
  assert rows["net"].arrays == {"positions": (16, 32), "token": (1, 32)}
  # A name that begins like another one's is another module.
  assert rows["heads/log10_decay_time"].count == 32 * 24 + 24
  assert vit.count("heads/log10_decay_time") == 32 * 24 + 24
  assert rows["net"].frozen == rows["net"].count and rows["heads"].frozen == 0
  assert vit.others == {"stats": trees.count(real["stats"])}
  assert vit.batch["image"] == "float32[32,32,32,1]" and "_bad" not in vit.batch


def test_outputs_are_those_of_the_modules_and_in_order(vit):
  rows = vit.rows(2)
  names = [r.name for r in rows if r.name.startswith("net")]
  assert names == ["net", "net/embed", "net/block0", "net/block1", "net/norm"]
  shapes = {r.name: r.outputs for r in rows}
  assert shapes["net/embed"] == ((4, 4, 32),) and shapes["net/block0"] == ((17, 32),)
  assert sorted(shapes["heads"]) == [(3,), (24,)]
  assert [r.name for r in vit.rows(1)] == ["net", "aux", "heads"]


def test_text_states_the_totals(vit):
  text = vit.text()
  total, net = vit.count(), vit.count("net")
  assert f"{total:,} parameters: {total - net:,} trainable, {net:,} frozen" in text
  assert "embed" in text and "kernel 8x8x1x32" in text and "frozen" in text


def test_drawing_is_xml_that_names_every_module(vit, tmp_path):
  path = tmp_path / "x.svg"
  summary.write(vit, str(path), depth=3)
  root = ET.fromstring(path.read_text())
  texts = [t.text for t in root.iter("{http://www.w3.org/2000/svg}text")]
  inner = {b.name for lane in vit.lanes(3) for b in lane.boxes}
  assert {"embed", "block0/attend", "block1/project", "norm", "note_velocity_hidden"} <= inner
  assert inner | {"net", "aux", "heads"} <= set(texts)
  assert "17 x 64" in texts and "2,112" in texts


def test_page_and_picture(vit, tmp_path):
  summary.write(vit, str(tmp_path / "new" / "x.html"))
  html = (tmp_path / "new" / "x.html").read_text()
  assert "<svg" in html and "http" not in html.replace("http://www.w3.org/2000/svg", "").replace(
    'meta http-equiv="Content', ""
  )
  summary.write(vit, str(tmp_path / "x.png"), depth=1)
  from matplotlib.image import imread

  image = imread(tmp_path / "x.png")
  wide = diagram.draw(vit.lanes(1)).width
  assert image.shape[1] == pytest.approx(2 * wide, abs=2)
  assert np.ptp(image[..., :3]) > 0.5


def test_modules_that_share_their_input_stand_above_one_another():
  box = lambda name, takes: diagram.Box(name, "Dense", (3,), 1, takes)
  a, b, features = 11, 12, 10
  heads = [box("x1", features), box("x2", a), box("y1", features), box("y2", b)]
  assert diagram.places(heads) == [(0, 0), (1, 0), (0, 1), (1, 1)]
  assert diagram.places([box("x", 1), box("y", 2)]) == [(0, 0), (1, 0)]
  high = [diagram.block((n, n, 1))[0] for n in (4, 8, 64)]
  assert high == sorted(high) and len(set(high)) == 3
  assert diagram.block((8, 8, 64))[1] > diagram.block((8, 8, 2))[1]


def test_any_trainer(capsys):
  spec = "configs/meanflow.py:smoke"
  assert summary.main(["--config", spec, "--config.input.batch_size=4", "--depth", "1"]) == 0
  out = capsys.readouterr().out.splitlines()
  assert "  wav  float32[4,4800,1]" in out
  names = [line.split()[0] for line in out if line.endswith(" %")]
  assert names == ["codec", "prior", "refiner"]


def test_errors_are_one_line(capsys):
  for argv, told in (
    (["--config", "configs/vimh.py:nett=cnn_10k"], "Did you mean"),
    (["--config", SPEC, "--out", "x.pdf"], ".html, .svg, .png"),
    (["--config", SPEC, "--depht", "3"], "Did you mean"),
    (["--config", SPEC, "--depth", "0"], "expected 1 or more"),
  ):
    assert summary.main(argv) == 2
    err = capsys.readouterr().err
    assert told in err and err.startswith("summary: ") and err.count("\n") == 1
