"""Recordings -> pictures -> estimates: the same numbers as the data set's own items give."""

import csv

import jax
import numpy as np
import pytest
import soundfile

from big_audio import config as C
from big_audio import inference, sharding, train_loop
from big_audio.datasets import synth_render, synths
from big_audio.datasets.worlds import synth
from proj.vimh import estimate


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """A workdir of a few steps."""
  folder = tmp_path_factory.mktemp("run")
  # Pictures are blotted in training, and only there.
  config = C.load("configs/vimh.py:size=60,batch=16,epochs=1,net=mlp_8.5k,augment=16")
  with config.unlocked():
    config.evals = {"val": config.evals.val}
  train_loop.train(config, str(folder), mesh=sharding.make_mesh(jax.devices()[:1]))
  return str(folder)


def sounds(source):
  values = {k: v for k, v in source.values().items()}
  return synth_render.sounds(source.metadata, values)


@pytest.mark.parametrize(
  "made",
  [
    dict(synth="simple_saw"),
    dict(synth="simple_saw", channels=3, pre_emphasis=0.9),
    dict(synth="moog_envelope", temporal=True, spectral=True, joint_scaling=True, normalize=True),
    dict(synth="fm", spectral=True),
  ],
)
def test_pictures_are_those_of_the_data_set(made):
  recipe = synths.build(made["synth"], size=6, **{k: v for k, v in made.items() if k != "synth"})
  values = dict(zip(recipe.metadata().names, synth_render.draw(recipe).T, strict=True))
  wav = synth_render.sounds(recipe.metadata(), values)
  images, scale = estimate.pictures(recipe.metadata(), wav)
  source = synth.Source(split="all", **{"size": 6, **made})
  for i in range(6):
    np.testing.assert_array_equal(images[i], source[i]["image"])
    np.testing.assert_array_equal(scale[i], source[i]["spec_scale"])


def test_estimates_are_those_of_the_items(run, tmp_path, capsys):
  source = synth.Source("simple_saw", "test", size=60)
  estimator = estimate.open_estimator(run)
  found = estimator(sounds(source))
  runner = inference.open_workdir(run)
  pp = estimate.builder.build(C.to_dict(runner.config.evals.val.data)["pp"])
  rows = [pp(source[i], np.random.default_rng(0)) for i in range(len(source))]
  batch = {k: np.stack([np.asarray(r[k]) for r in rows]) for k in rows[0]}
  want = runner.predict("values", batch)
  for k in source.metadata.names:
    # Sounds of the labels' bytes, pictures of the true values: nearly the same.
    np.testing.assert_allclose(found[k], want[k], atol=0.02 * np.ptp(want[k]) + 0.02)
    assert np.ptp(found[k]) > 0

  paths = [str(tmp_path / f"{i}.wav") for i in range(3)]
  for i, path in enumerate(paths):
    soundfile.write(path, sounds(source)[i], 8000, subtype="FLOAT")
  out = tmp_path / "out.csv"
  argv = [*paths, "--workdir", run, "--out", str(out), "--render", str(tmp_path / "renders")]
  assert estimate.main(argv) == 0
  assert "note_velocity=" in capsys.readouterr().out
  with open(out) as f:
    rows = list(csv.DictReader(f))
  assert [r["file"] for r in rows] == paths
  np.testing.assert_allclose(
    [float(r["log10_decay_time"]) for r in rows], found["log10_decay_time"][:3], atol=1e-3
  )
  wav, sr = soundfile.read(tmp_path / "renders" / "1_estimate.wav")
  assert sr == 8000 and len(wav) == 8000


def test_bad_files_are_named_and_the_others_done(run, tmp_path, capsys):
  good, short, wide, fast, broken = (str(tmp_path / f"{n}.wav") for n in "gswfb")
  soundfile.write(good, np.zeros(8000) + 0.1, 8000)
  soundfile.write(short, np.zeros(100), 8000)
  soundfile.write(wide, np.zeros((8000, 2)), 8000)
  soundfile.write(fast, np.zeros(16000), 16000)
  (tmp_path / "b.wav").write_bytes(b"RIFFnothing")
  assert estimate.main([good, short, wide, fast, broken, "--workdir", run]) == 1
  out, err = capsys.readouterr()
  assert out.count("log10_decay_time=") == 1 and out.startswith(good)
  for path, words in ((short, "at least 2560"), (wide, "2 channels"), (fast, "16000 Hz"),
                      (broken, "cannot be read")):  # fmt: skip
    assert any(path in line and words in line for line in err.splitlines()), words
  assert estimate.main([good, "--workdir", str(tmp_path / "none")]) == 2
  assert "no config.json" in capsys.readouterr().err
