"""The evaluator of distributions: rows, floors, padded batches, several devices, embeddings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_audio import input_pipeline, sharding
from big_audio.evaluators import distributions, frechet

SR = 8000
DIGITS = dict(source="digits", split="validation", pp="keep('image', 'id')")
NOTES = dict(source="worlds.notes", split="validation", sr=SR, secs=0.2, num_examples=7,
             pp="keep('wav', 'id')")  # fmt: skip


def mesh(n=1):
  return sharding.make_mesh(jax.devices()[:n])


def pixels(batch):
  x = batch["image"]
  assert isinstance(x, np.ndarray)  # another run's parameters lie on one device
  return {"features": x.reshape(len(x), -1)[:, ::4]}


def blur(state, batch, rng, nfe):
  """A "codec" that mixes in the mean picture, less with every evaluation."""
  (key,) = {"image", "wav"} & batch.keys()
  x = batch[key]
  mean = jnp.mean(x, axis=0)
  return {key: x + (mean - x) / (1 + nfe), "ae": 0.2 * x}


def evaluator(**kw):
  kw = {"key": "image", "aux": {"pixels": pixels}, **kw}
  return frechet.Evaluator(
    {"reconstruct": blur}, **{"data": DIGITS, "batch_size": 50, "mesh": mesh(), "workdir": "", **kw}
  )


def images():
  with input_pipeline.eval_batches(DIGITS, batch_size=50) as batches:
    found = list(batches)
  return [np.asarray(b["image"])[b["_mask"] > 0] for b in found]


def test_rows_by_direct_calls():
  got = dict(evaluator(nfe=(1, 4), measures=("fd", "kid", "manifold"), max_rows=100).run({}))
  parts = images()
  real = np.concatenate(parts).reshape(-1, 64)[:, ::4]
  assert got["items"] == got["reference_items"] == len(real) and got["dims"] == 16
  ae = distributions.frechet_distance(real, 0.2 * real)
  assert got["ae/fd"] == pytest.approx(ae, rel=1e-4)
  assert got["ae/fd"] > got["nfe1/fd"] > got["nfe4/fd"] > 0
  assert "real/fd" not in got and got["nfe4/fd_half"] > got["real/fd_half"] > 0
  assert abs(got["real/kid_half"]) < got["nfe1/kid_half"] < got["ae/kid_half"]
  assert got["real/kid_half_std"] > 0
  assert got["real/recall_half"] > got["nfe1/recall_half"]
  for measure in ("precision", "recall", "density", "coverage"):
    assert f"nfe1/{measure}" in got


def test_devices_and_batches_change_nothing():
  want = dict(evaluator(nfe=0, measures=("fd",)).run({}))
  got = dict(evaluator(nfe=0, measures=("fd",), batch_size=64, mesh=mesh(4)).run({}))
  assert got == pytest.approx(want, rel=1e-5)
  assert set(got) >= {"ae/fd", "ae/fd_half", "real/fd_half"}


def test_reference_set_has_a_floor():
  got = dict(evaluator(reference=dict(source="digits", split="test"), measures=("fd",)).run({}))
  assert got["reference_items"] > got["items"]
  assert 0 < got["real/fd"] < got["nfe1/fd"]


def test_log_mel_frames_of_waves():
  kw = dict(key="wav", aux=None, data=NOTES, batch_size=4, sr=SR, nfe=(1, 9))
  got = dict(evaluator(**kw).run({}))
  assert got["items"] == 7 and got["dims"] == 64 and got["features_per_item"] == 26
  assert got["ae/fd"] > got["nfe9/fd"] > 0 and got["real/fd_half"] > 0
  with input_pipeline.eval_batches(NOTES, batch_size=7) as batches:
    wav = np.asarray(next(batches)["wav"])
  frames = [frechet.log_mel_frames(np.float32(g) * wav, SR).reshape(-1, 64) for g in (1, 0.2)]
  assert got["ae/fd"] == pytest.approx(distributions.frechet_distance(*frames), rel=1e-3)
  # A gain of 10 is one decade wherever the floor is not reached.
  loud = frechet.log_mel_frames(10 * wav, SR) - frechet.log_mel_frames(wav, SR)
  assert np.median(loud[frechet.log_mel_frames(wav, SR) > -2.9]) == pytest.approx(1, abs=1e-3)


def test_frames_of_padding_are_left_out():
  """Two clips in one padded batch have the frames that each has alone."""
  pp = "pad(samples=2400, mask=True)|keep('wav', 'wav_mask')"
  kw = dict(key="wav", aux=None, batch_size=4, sr=SR, nfe=0, measures=("fd",))
  got = dict(evaluator(data=dict(NOTES, pp=pp), **kw).run({}))
  want = dict(evaluator(data=NOTES, **kw).run({}))
  assert want["features_per_item"] == got["features_per_item"] == 26
  # The last frame of a clip sees the same zeros in either case.
  for row in ("ae/fd", "ae/fd_half", "real/fd_half"):
    assert got[row] == pytest.approx(want[row], rel=1e-4)


def test_an_embedder_of_another_rate_is_refused():
  class Embedder:
    spec, config = "runs/x:embed", {"models": {"net": {"sr": 16000}, "heads": {"outputs": {}}}}

  with pytest.raises(ValueError, match=r"runs/x:embed was trained at \{16000\} Hz, not at 8000"):
    evaluator(key="wav", aux={"x": Embedder()}, data=NOTES, sr=SR)


@pytest.mark.parametrize(
  "kw, words",
  [
    (dict(measures=("fid",)), 'Did you mean "fd"'),
    (dict(embed="pixel"), r"\['pixels'\].*WORKDIR:embed"),
    (dict(aux=None), "expected one of"),
    (dict(key="wav", aux=None), "needs sr"),
    (dict(key="video"), "wav or image"),
    (dict(nfe=(-1,)), "nfe"),
    (dict(fn="recontruct"), "reconstruct"),
  ],
)
def test_errors(kw, words):
  with pytest.raises(ValueError, match=words):
    evaluator(**kw)
