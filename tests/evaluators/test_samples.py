"""Samples on disk: names, sounds bit for bit, pictures that can be read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from big_audio import input_pipeline, sharding
from big_audio.evaluators import plots, samples

SR = 8000


def batches(items, batch_size):
  """What eval_batches gives: padded, with `_mask`, closeable."""

  def open_(data, *, batch_size=batch_size, limit=None, process_index=0, process_count=1):
    rows = items[:limit]
    for i in range(0, len(rows), batch_size):
      part = rows[i : i + batch_size]
      padded = part + [part[-1]] * (batch_size - len(part))
      batch = {k: np.stack([np.asarray(r[k]) for r in padded]) for k in padded[0] if k != "id"}
      if "id" in padded[0]:
        batch["id"] = np.array([r["id"] for r in padded], object)
      batch["_mask"] = np.arange(batch_size).astype(np.float32) < len(part)
      yield batch

  return open_


def tone(hz, secs=0.5, channels=1):
  t = np.arange(int(secs * SR)) / SR
  return np.repeat(0.5 * np.sin(2 * np.pi * hz * t)[:, None], channels, 1).astype(np.float32)


def reconstruct(state, batch, rng, *, nfe=1):
  noise = jax.random.normal(rng, batch["wav"].shape)
  return {"wav": batch["wav"] * nfe + 0 * noise, "ae": batch["wav"] * 0.25}


def make(monkeypatch, tmp_path, items, predict=None, **kw):
  monkeypatch.setattr(input_pipeline, "eval_batches", batches(items, 2))
  mesh = sharding.make_mesh(jax.devices()[:1])
  kw = {"batch_size": 2, "sr": SR, "count": 3, **kw}
  fns = {"reconstruct": predict or reconstruct}
  return samples.Evaluator(fns, data={"source": "x"}, mesh=mesh, workdir=str(tmp_path), **kw)


@pytest.fixture
def items():
  return [{"wav": tone(hz), "id": f"a/b {hz}$.wav"} for hz in (200, 400, 800, 1600)]


def test_sounds_and_pictures_of_the_first_items(monkeypatch, tmp_path, items):
  kw = dict(variants={"nfe1": {"nfe": 1}, "nfe3": {"nfe": 3}}, also=("ae",))
  evaluator = make(monkeypatch, tmp_path, items, **kw)
  values = dict(evaluator.run({"step": jnp.int32(70)}))
  folder = tmp_path / "samples" / "70"
  stems = ["000_a_b_200", "001_a_b_400", "002_a_b_800"]
  labels = ("ae", "input", "nfe1", "nfe3")
  expected = [f"{s}{end}" for s in stems for end in (".png", *(f"_{n}.wav" for n in labels))]
  assert sorted(p.name for p in folder.iterdir()) == sorted(expected)
  for i, stem in enumerate(stems):
    for label, gain in [("input", 1), ("ae", 0.25), ("nfe1", 1), ("nfe3", 3)]:
      wav, sr = soundfile.read(folder / f"{stem}_{label}.wav", always_2d=True)
      assert sr == SR
      np.testing.assert_allclose(wav, np.clip(items[i]["wav"] * gain, -1, 1), atol=1 / 32768)
  share = np.mean([np.abs(item["wav"] * 3) > 1 + 1e-6 for item in items[:3]])
  assert values["nfe1_clipped"] == values["ae_clipped"] == 0
  assert values["nfe3_clipped"] == pytest.approx(share, rel=1e-3)


def test_not_finite_output_is_written_as_silence_and_told(monkeypatch, tmp_path, items):
  fn = lambda state, batch, rng: {"wav": batch["wav"] * jnp.nan}
  evaluator = make(monkeypatch, tmp_path, items, fn, count=1)
  assert dict(evaluator.run({"step": 1})) == {"output_clipped": 1.0}
  wav, _ = soundfile.read(tmp_path / "samples/1/000_a_b_200_output.wav")
  assert not wav.any()


def test_rate_of_the_batch_and_short_stereo(monkeypatch, tmp_path):
  items = [{"wav": tone(100, 0.01, channels=2), "sr": 11025}]
  list(make(monkeypatch, tmp_path, items, sr=None).run({"step": 0}))
  info = soundfile.info(tmp_path / "samples" / "0" / "000_0_output.wav")
  assert (info.samplerate, info.channels, info.frames) == (11025, 2, 80)


def test_images_are_one_grid(monkeypatch, tmp_path):
  items = [{"image": np.full((8, 8, 1), v, np.float32)} for v in (-1, 0, 1)]
  fn = lambda state, batch, rng: {"image": -batch["image"]}
  assert list(make(monkeypatch, tmp_path, items, fn, key="image").run({"step": 5})) == []
  assert [p.name for p in (tmp_path / "samples" / "5").iterdir()] == ["images.png"]


@pytest.mark.parametrize(
  "kw,message",
  [
    (dict(fn="x"), "fn='x': expected one of reconstruct"),
    (dict(key="mel"), "expected wav or image"),
    (dict(count=0), "at least 1"),
    (dict(variants={"ae": {}}, also=("ae",)), "'ae' is used twice"),
    (dict(also=("input",)), "'input' is used twice"),
    (dict(also=("mean",)), "reconstruct has no output 'mean', only wav, ae"),
    (dict(sr=None), "the rate of wav is unknown"),
    (dict(key="image"), "no output 'image'"),
  ],
)
def test_errors(monkeypatch, tmp_path, items, kw, message):
  with pytest.raises(ValueError, match=message):
    list(make(monkeypatch, tmp_path, items, **kw).run({"step": 1}))


@pytest.mark.parametrize("sr", [8000, 16000, 44100])
def test_the_db_scale_is_real(sr):
  t = np.arange(sr) / sr
  for gain, level in [(1.0, 0), (0.1, -20), (0.001, -60)]:
    for hz in (500, 1234, 3000):
      db, step = plots.mel_db((gain * np.sin(2 * np.pi * hz * t))[:, None], sr)
      inner = db[4:-4]
      assert level - 3 < inner.max() < level + 2
      mels = db.shape[1]
      at = plots.mel.hz_to_mel(hz) / plots.mel.hz_to_mel(sr / 2) * (mels + 1) - 1
      assert abs(np.argmax(inner.mean(0)) - at) <= 1, "the axis must name the right frequency"
  assert abs(len(db) * step - 1) < 2 * step
  assert plots.mel_db(np.zeros((10, 2)), sr)[0].max() == -120
