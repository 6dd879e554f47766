"""Means and audio distances against values computed by hand, with padded last batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_audio import sharding
from big_audio.dsp import distances, perceptual
from big_audio.evaluators import audio_distance, bootstrap, mean

SR = 8000


@pytest.fixture
def mesh():
  return sharding.make_mesh(jax.devices()[:1])


def notes(**kw):
  return dict(source="worlds.notes", split="validation", sr=SR, secs=0.3, num_examples=5,
              pp="keep('wav', 'id')", **kw)  # fmt: skip


def waves():
  from big_audio import input_pipeline

  with input_pipeline.eval_batches(notes(), batch_size=5) as batches:
    return np.asarray(next(batches)["wav"])


def echo(wav, gain):
  return wav + gain * wav[:, ::-1]


def predict(state, batch, rng, nfe):
  """A "codec" whose echo of the reversed wave fades with the number of evaluations."""
  wav = batch["wav"]
  return {
    "wav": echo(wav, 1 / nfe),
    "ae": echo(wav, 2.0),
    "bits": jnp.full(wav.shape[0], 450.0),
  }


def test_audio_distance(mesh, tmp_path):
  evaluator = audio_distance.Evaluator(
    {"reconstruct": predict}, data=notes(), batch_size=2, mesh=mesh, workdir=str(tmp_path), sr=SR,
    nfe=(1, 4),
  )  # fmt: skip
  got = dict(evaluator.run({}))
  wav = waves()
  for row, gain in (("nfe1", 1.0), ("nfe4", 0.25), ("ae", 2.0)):
    want = distances.si_sdr(echo(wav, gain), wav)
    assert got[f"{row}/si_sdr"] == pytest.approx(float(want.mean()), rel=1e-3)
    want = distances.mel_distance(echo(wav, gain), wav, SR)
    assert got[f"{row}/mel"] == pytest.approx(float(want.mean()), rel=1e-3)
  assert got["kbps"] == pytest.approx(450 / 0.3 / 1000)
  assert got["items"] == 5
  assert got["identity/mel"] < 1e-5 and got["identity/si_sdr"] > 80
  assert got["zero/si_sdr"] == pytest.approx(-150) and got["zero/mel"] > got["ae/mel"]


class Padded:
  """Clips of several lengths, alone in a padded batch as `pad(mask=True)` leaves it."""

  def __init__(self, wav, lengths, size):
    self.wav, self.lengths, self.size = wav, lengths, size

  def __call__(self):
    mask = np.arange(self.size)[None] < np.array(self.lengths)[:, None]
    wav = np.where(mask[..., None], np.resize(self.wav, (len(mask), self.size, 1)), 0)
    batch = {"wav": wav.astype(np.float32), "wav_mask": mask, "_mask": np.ones(len(mask), "f4")}
    yield {k: v[:2] for k, v in batch.items()}
    last = {k: np.concatenate([v[2:], v[2:]]) for k, v in batch.items()}
    yield {**last, "_mask": np.array([1, 0], np.float32)}


def test_padding_counts_for_nothing(mesh, tmp_path, monkeypatch):
  """Distances and kbps of clips in a padded batch are those of each clip alone."""
  lengths, wav = (2400, 1000, 1700), waves()[:3]

  def noisy(state, batch, rng, nfe):
    x = batch["wav"]
    out = x + 0.1 * jnp.sin(jnp.arange(x.shape[1]))[:, None]  # beyond the clip too
    tokens = jnp.ceil(jnp.sum(batch["wav_mask"], 1) / 160) if "wav_mask" in batch else x.shape[1]
    return {"wav": out, "ae": 2 * out, "bits": 30.0 * tokens}

  batches = Padded(wav, lengths, 2400)
  monkeypatch.setattr(audio_distance.common, "reader", lambda *a: batches)
  heard = []
  score = lambda y, x, sr: heard.append((y, x)) or 0.0
  monkeypatch.setitem(perceptual.MEASURES, "stoi", score)
  monkeypatch.setattr(perceptual, "available", lambda name: True)
  evaluator = audio_distance.Evaluator(
    {"reconstruct": noisy}, data=None, batch_size=2, mesh=mesh, workdir=str(tmp_path), sr=SR,
    measures=("si_sdr", "lsd", "mel", "stoi"),
  )  # fmt: skip
  got = dict(evaluator.run({}))
  clips = [np.asarray(batches.wav[i, :n], np.float32)[None] for i, n in enumerate(lengths)]
  estimates = [c + 0.1 * np.sin(np.arange(c.shape[1], dtype=np.float32))[:, None] for c in clips]
  for name in ("si_sdr", "lsd", "mel"):
    fn = lambda x, y: float(np.squeeze(audio_distance.DISTANCES[name](x, y, SR)))
    want = np.mean([fn(e, c) for e, c in zip(estimates, clips)])
    assert got[f"nfe1/{name}"] == pytest.approx(want, rel=2e-3)
    if name != "si_sdr":
      want = np.mean([fn(np.zeros_like(c), c) for c in clips])
      assert got[f"zero/{name}"] == pytest.approx(want, rel=2e-3)
  assert got["kbps"] == pytest.approx(30 * (15 + 7 + 11) / (sum(lengths) / SR) / 1000)
  assert got["items"] == 3 and len(heard) == 4 * 3
  # Packages get all of the clip, and nothing of what a model says beyond it.
  y, x = [h for h in heard if not np.array_equal(*h) and h[1].any()][1]
  assert x.shape == (2400, 1) and x[:1000].any() and not x[1000:].any() and not y[1000:].any()


def test_clips_that_are_too_short_to_be_reflected_are_counted(mesh, tmp_path, monkeypatch):
  """dac_mel reflects 1024 samples: the clip of 1000 has no value, the run goes on."""
  lengths, wav = (2400, 1000, 1700), waves()[:3]
  half = lambda state, batch, rng, nfe: {"wav": batch["wav"] / 2}
  kw = dict(data=None, batch_size=2, mesh=mesh, workdir="", sr=SR, measures=["dac_mel", "mel"])
  monkeypatch.setattr(audio_distance.common, "reader", lambda *a: Padded(wav, lengths, 2400))
  got = dict(audio_distance.Evaluator({"reconstruct": half}, ci=True, **kw).run({}))
  clips = [wav[i : i + 1, :n].astype(np.float32) for i, n in enumerate(lengths) if n > 1024]
  want = np.mean([distances.dac_mel_distance(c / 2, c, SR) for c in clips])
  assert got["nfe1/dac_mel"] == pytest.approx(float(want), rel=2e-3)
  assert got["nfe1/dac_mel_failed"] == got["identity/dac_mel_failed"] == 1
  assert got["nfe1/dac_mel_lo"] > 0 and "nfe1/mel_failed" not in got
  # Nor do batches that are too short as a whole stop it.
  monkeypatch.setattr(audio_distance.common, "reader", lambda *a: Padded(wav, (900, 900, 900), 900))
  got = dict(audio_distance.Evaluator({"reconstruct": half}, **kw).run({}))
  assert np.isnan(got["nfe1/dac_mel"]) and got["nfe1/dac_mel_failed"] == 3
  assert np.isfinite(got["nfe1/mel"])


def test_more_measures_with_intervals(mesh, tmp_path):
  """Numpy values of every item, their means and their bootstrap intervals."""
  measures = ["mr_stft", "dac_stft", "si_sdr"]
  evaluator = audio_distance.Evaluator(
    {"reconstruct": predict}, data=notes(), batch_size=2, mesh=mesh, workdir=str(tmp_path), sr=SR,
    measures=measures, ci=True,
  )  # fmt: skip
  got = dict(evaluator.run({}))
  wav = waves()
  estimate = echo(wav, np.float32(1))
  for name, fn in (
    ("mr_stft", distances.mr_stft_distance),
    ("dac_stft", distances.dac_stft_distance),
    ("si_sdr", distances.si_sdr),
  ):
    want = bootstrap.mean_interval(fn(estimate, wav))
    found = [got[f"nfe1/{name}{end}"] for end in ("", "_lo", "_hi")]
    assert found == pytest.approx(list(want), rel=2e-3)
  assert "nfe1/mel" not in got and "nfe1/si_sdr_hi" in got


def test_scores_of_packages_failures_and_what_is_missing(mesh, tmp_path, monkeypatch, capsys):
  def speech(reference, estimate, sr):
    if not estimate.any():
      raise perceptual.NoScore("silence")
    assert reference.shape == (2400, 1) and sr == SR
    return float(np.abs(reference - estimate).mean())

  monkeypatch.setitem(perceptual.MEASURES, "stoi", speech)
  monkeypatch.setattr(perceptual, "available", lambda name: name == "stoi")
  evaluator = audio_distance.Evaluator(
    {"reconstruct": predict}, data=notes(), batch_size=2, mesh=mesh, workdir=str(tmp_path), sr=SR,
    measures=["stoi", "pesq_nb"],
  )  # fmt: skip
  dict(evaluator.run({}))
  got = dict(evaluator.run({}))
  err = capsys.readouterr().err
  assert err.count("pesq_nb is unavailable") == 1 and "stoi" not in err  # said once
  wav = waves()
  assert got["ae/stoi"] == pytest.approx(float(np.abs(2 * wav).mean()), rel=1e-4)
  assert got["ae/stoi_failed"] == 0 and got["zero/stoi_failed"] == 5
  assert np.isnan(got["zero/stoi"])
  assert got["unavailable/pesq_nb"] == 1 and "unavailable/stoi" not in got
  assert not [k for k in got if k.endswith("/pesq_nb") and k != "unavailable/pesq_nb"]


def test_audio_distance_errors(mesh, tmp_path):
  kw = dict(data=notes(), batch_size=2, mesh=mesh, workdir=str(tmp_path), sr=SR)
  with pytest.raises(ValueError, match='"mr_stft"'):
    audio_distance.Evaluator({"reconstruct": predict}, measures=["mrstft"], **kw)
  with pytest.raises(ValueError, match="nfe"):
    audio_distance.Evaluator({"reconstruct": predict}, nfe=(-1,), **kw)


def test_mean_is_over_examples_and_not_over_batches(mesh, tmp_path):
  def loss(state, batch, rng):
    value = jnp.mean(jnp.abs(batch["wav"]), axis=(1, 2))
    return {"loss": (jnp.sum(value * batch["_mask"]), jnp.sum(batch["_mask"]))}

  evaluator = mean.Evaluator(
    {"loss": loss}, data=notes(), batch_size=2, mesh=mesh, workdir=str(tmp_path)
  )
  got = dict(evaluator.run({}))
  assert got["loss"] == pytest.approx(float(np.abs(waves()).mean(axis=(1, 2)).mean()), rel=1e-5)
