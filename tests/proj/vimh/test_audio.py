"""Distances between sounds, and the evaluator that renders them."""

import csv

import jax
import numpy as np
import pytest
import soundfile

from big_audio import sharding
from big_audio.datasets.worlds import synth
from proj.vimh import audio

DATA = dict(source="worlds.synth", synth="simple_saw", size=100, split="test")
NAMES = ("note_velocity", "log10_decay_time")
PP = "keep({})".format(", ".join(f'"{n}/value"' for n in NAMES))


def evaluator(predict, tmp_path, **kw):
  mesh = sharding.make_mesh(jax.devices()[:1])
  return audio.Evaluator(
    {"values": predict}, data=dict(DATA, pp=PP), batch_size=8, mesh=mesh, workdir=str(tmp_path),
    **kw,
  )  # fmt: skip


def run(predict, tmp_path, **kw):
  return dict(evaluator(predict, tmp_path, **kw).run({"step": np.int32(7)}))


def perfect(state, batch, rng):
  return {n: batch[f"{n}/value"] for n in NAMES}


def test_measures_against_plain_definitions():
  rng = np.random.default_rng(0)
  y = rng.standard_normal((3, 4000)) * 0.1
  late = np.roll(y, 5, axis=1)
  late[:, :5] = 0
  x = np.stack([y[0] * 0.5, late[1], y[2] + 0.01 * rng.standard_normal(4000)])
  got = audio.measures(x, y, 8000)
  for i in range(3):
    error = x[i] - y[i]
    np.testing.assert_allclose(got["rmse"][i], np.sqrt(np.mean(error**2)))
    snr = 10 * np.log10(np.sum(y[i] ** 2) / np.sum(error**2))
    np.testing.assert_allclose(got["snr"][i], snr)
    np.testing.assert_allclose(got["correlation"][i], np.corrcoef(x[i], y[i])[0, 1])
    lags = np.abs(np.correlate(x[i], y[i], "full"))
    norm = np.sqrt(np.sum(x[i] ** 2) * np.sum(y[i] ** 2))
    np.testing.assert_allclose(got["xcorr"][i], lags.max() / norm, rtol=1e-9)
  assert got["correlation"][1] < 0.1 and got["xcorr"][1] > 0.99  # a delay of five samples
  np.testing.assert_allclose(got["lsd"][0], 20 * np.log10(2), rtol=1e-3)
  np.testing.assert_allclose(got["mel"][0], np.log10(2), rtol=0.02)
  silence = np.zeros((1, 4000))
  for name, value in dict(snr=120, correlation=1, xcorr=1, rmse=0, mel=0).items():
    assert audio.measures(silence, silence, 8000)[name] == value
  with pytest.raises(ValueError, match=r"\[B,T\] alike"):
    audio.measures(x, y[:2], 8000)


def test_perfect_estimates_sound_the_same(tmp_path):
  out = run(perfect, tmp_path, limit=12, count=2)
  assert out["items"] == 12 and out["degenerate"] == 0
  assert out["estimate/rmse"] == 0 and out["estimate/snr"] == 120
  assert out["estimate/log10_decay_time_mae"] < 1e-6
  assert out["log10_decay_time_spread"] == pytest.approx(1)
  # The constant is the median of the training items, and nothing of the test.
  split = lambda name: synth.Source("simple_saw", name, size=100).values()["log10_decay_time"]
  train, test = split("train"), split("test")[:12]
  want = np.mean(np.abs(test - np.median(train)))
  assert out["constant/log10_decay_time_mae"] == pytest.approx(want, rel=1e-6)
  assert out["constant/snr"] < 30 < out["estimate/snr"]
  folder = tmp_path / "samples" / "7"
  with open(folder / "audio.csv") as f:
    rows = list(csv.DictReader(f))
  assert len(rows) == 12 and float(rows[3]["snr"]) == 120
  wav, sr = soundfile.read(folder / "001_true.wav")
  assert sr == 8000 and len(wav) == 8000
  assert sorted(p.name for p in folder.glob("*.wav")) == [
    "000_estimate.wav", "000_true.wav", "001_estimate.wav", "001_true.wav",
  ]  # fmt: skip


def test_a_head_that_says_the_same_for_all_is_told(tmp_path, capsys):
  def stuck(state, batch, rng):
    out = perfect(state, batch, rng)
    return out | {"log10_decay_time": 0 * out["log10_decay_time"] - 1}

  out = run(stuck, tmp_path, limit=12, count=0)
  assert out["degenerate"] == 1 and out["log10_decay_time_spread"] < 1e-6
  assert out["estimate/snr"] < 30
  assert "log10_decay_time hardly vary" in capsys.readouterr().err


def test_errors(tmp_path, monkeypatch):
  with pytest.raises(ValueError, match="'log10_decay_time' is missing"):
    run(lambda s, b, r: {"note_velocity": b["note_velocity/value"]}, tmp_path)
  unknown = type("S", (), {"metadata": type("M", (), {"voice": "stk", "where": "x.json"})()})
  monkeypatch.setattr(audio.sources, "build", lambda *a, **kw: unknown)
  with pytest.raises(ValueError, match=r"x\.json: its sounds are of 'stk'.*audio=false"):
    evaluator(perfect, tmp_path)
  with pytest.raises(ValueError, match='Did you mean "values"'):
    evaluator(perfect, tmp_path, fn="value")
