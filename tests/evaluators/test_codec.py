"""Code statistics against known sources; drift, diversity and speed of a made-up codec."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_audio import metrics, sharding
from big_audio.dsp import distances
from big_audio.evaluators import code_stats, codec
from big_audio.nn.quantize import code_usage

SR = 8000
NOTES = dict(source="worlds.notes", split="validation", sr=SR, secs=0.2, num_examples=5,
             pp="keep('wav', 'id')")  # fmt: skip


def markov(n, length, stay, size, seed=0):
  """Chains that keep their code with probability `stay`, else draw any code."""
  rng = np.random.default_rng(seed)
  codes = rng.integers(size, size=(n, length))
  keep = rng.random((n, length)) < stay
  for t in range(1, length):
    codes[:, t] = np.where(keep[:, t], codes[:, t - 1], codes[:, t])
  return list(codes[..., None])


def test_entropies_of_a_known_source():
  items = markov(40, 500, stay=0.7, size=8)
  got = code_stats.code_statistics(items, [8])
  assert got["usage"] == 1 and got["tokens"] == 20000 and got["nominal_bits"] == 3
  assert got["entropy_bits"] == pytest.approx(3, abs=0.02)
  p = np.full(8, 0.3 / 8)
  p[0] += 0.7
  want = -np.sum(p * np.log2(p))
  assert got["entropy_bits_given_previous"] == pytest.approx(want, abs=0.03)
  # What a coder would spend is never below the truth, and near it with this many codes.
  assert want - 0.02 <= got["coded_bits_given_previous"] <= want + 0.05
  assert got["coded_bits"] == pytest.approx(3, abs=0.02)
  assert got["perplexity"] == pytest.approx(8, abs=0.1) == got["perplexity/0"]


def test_few_codes_of_a_large_codebook_are_not_taken_for_predictable():
  """800 independent codes out of 1000: pairs hardly repeat, the empirical entropy collapses."""
  items = list(np.random.default_rng(0).integers(1000, size=(8, 100, 1)))
  got = code_stats.code_statistics(items, [1000])
  assert got["entropy_bits_given_previous"] < 2  # the trap
  assert got["coded_bits_given_previous"] > 0.95 * np.log2(1000)


def test_groups_and_usage_agree_with_training():
  rng = np.random.default_rng(1)
  items = [np.stack([rng.integers(5, size=60), rng.integers(3, size=60)], 1) for _ in range(3)]
  got = code_stats.code_statistics(items, [8, 4])
  want = code_usage(jnp.asarray(np.concatenate(items)), [8, 4])
  assert got["usage"] == (5 + 3) / 12
  assert got["entropy_bits"] == pytest.approx(float(want["entropy_bits"].sum()), rel=1e-5)
  assert got["perplexity/1"] == pytest.approx(float(want["perplexity"][1]), rel=1e-5)
  single = code_stats.code_statistics(items[:1], [8, 4])
  assert "coded_bits" not in single and single["tokens"] == 60
  for codes, sizes, words in (
    ([], [8], "no codes"), (items, [8], r"\[F, 1\]"), (items, [8, 2], "codebooks of"),
  ):  # fmt: skip
    with pytest.raises(ValueError, match=words):
      code_stats.code_statistics(codes, sizes)


def reconstruct(state, batch, rng, nfe):
  """A "codec" that loses a tenth of the level a generation and adds noise by evaluations."""
  wav = 0.9 * batch["wav"]
  noise = 0.01 * nfe * jax.random.normal(rng, wav.shape)
  codes = (jnp.abs(batch["wav"][:, ::80]) * 20).astype(jnp.int32)
  return {"wav": wav + noise, "ae": wav, "codes": codes}


def evaluator(**kw):
  kw = dict(dict(sr=SR, sizes=[32], nfe=(0, 1), repeats=1, batch_size=2), **kw)
  mesh = sharding.make_mesh(jax.devices()[:1])
  predict = kw.pop("predict", {"reconstruct": reconstruct})
  return codec.Evaluator(predict, **{"data": NOTES, "mesh": mesh, "workdir": "", **kw})


def waves():
  from big_audio import input_pipeline

  with input_pipeline.eval_batches(NOTES, batch_size=5) as batches:
    return np.asarray(next(batches)["wav"])


def test_all_measures():
  got = dict(evaluator(generations=3).run({}))
  wav = waves()
  for i in (1, 2, 3):
    want = distances.mel_distance(np.float32(0.9**i) * wav, wav, SR).mean()
    assert got[f"drift/ae/gen{i}"] == pytest.approx(float(want), rel=1e-3)
  assert got["drift/nfe1/gen3"] > got["drift/nfe1/gen1"] > got["drift/ae/gen1"]
  assert got["drift/ae/gen2_same_codes"] < 1 and "drift/ae/gen1_same_codes" not in got
  assert got["diversity/ae"] == 0 < got["diversity/nfe1"]
  assert got["diversity/nfe1_to_original"] > got["diversity/ae_to_original"] > 0
  assert got["codes/tokens"] == 5 * 20 and got["items"] == 5
  assert got["z/rtf_nfe1"] > 0 and got["z/rtf_batch"] == 2
  assert metrics.evaluator_row("codec", "z/rtf_nfe1") == "z/codec/rtf_nfe1"
  assert metrics.evaluator_row("codec", "codes/usage") == "val/codec/codes/usage"
  assert metrics.evaluator_row("codec", "zero/mel") == "val/codec/zero/mel"


def test_padding_counts_for_nothing():
  def padded(state, batch, rng, nfe):
    out = reconstruct(state, batch, rng, nfe)
    if "wav_mask" in batch:
      out["code_mask"] = batch["wav_mask"][:, ::80]
    return {**out, "ae": out["ae"] + (0.0 if nfe else 0.01)}  # beyond the clip too

  kw = dict(predict={"reconstruct": padded}, generations=2, nfe=0)
  kw["measures"] = ("codes", "drift", "diversity")
  want = dict(evaluator(**kw).run({}))
  pp = "pad(samples=2400, mask=True)|keep('wav', 'wav_mask')"
  got = dict(evaluator(data=dict(NOTES, pp=pp), **kw).run({}))
  assert got["codes/tokens"] == 5 * 20
  assert got == pytest.approx(want, rel=1e-3)


def test_speed_of_encoder_and_decoder_apart():
  calls = []

  def encode(state, batch, rng):
    return {"codes": (jnp.abs(batch["wav"][:, ::80]) * 20).astype(jnp.int32)}

  def decode(state, batch, rng, nfe):
    calls.append({k: v.shape for k, v in batch.items()})
    return {"wav": jnp.repeat(batch["codes"], 80, axis=1)}

  fns = {"reconstruct": reconstruct, "encode": encode, "decode": decode}
  got = dict(evaluator(predict=fns, measures=("speed",), nfe=(0, 2)).run({}))
  assert {"z/rtf_encode", "z/rtf_ae", "z/rtf_nfe2"} <= got.keys()
  assert calls[0] == {"codes": (2, 20, 1), "mask": (2, 20), "token": (2, 20), "seed": (2,)}


def test_a_continuous_bottleneck_has_no_codes():
  none = lambda batch: {"codes": jnp.zeros((*batch["wav"][:, ::80].shape[:2], 0), jnp.int32)}
  fns = {
    "reconstruct": lambda state, batch, *a, **k: {
      **reconstruct(state, batch, *a, **k), **none(batch)
    },
    "encode": lambda state, batch, rng: none(batch),
    "decode": None,  # there is nothing that it could decode
  }  # fmt: skip
  measures = ("drift", "speed")
  got = dict(evaluator(predict=fns, measures=measures, sizes=[], generations=2, nfe=1).run({}))
  assert got["drift/nfe1/gen2"] > 0 and got["z/rtf_nfe1"] > 0
  assert not [k for k in got if "same_codes" in k or "encode" in k]


@pytest.mark.parametrize(
  "kw, words",
  [
    (dict(measures=("drfit",)), "drift"),
    (dict(sizes=None), "needs sizes"),
    (dict(sr=None), "needs sr"),
    (dict(seeds=1), "seeds >= 2"),
    (dict(key="image", measures=("speed",)), "real-time"),
  ],
)
def test_errors(kw, words):
  with pytest.raises(ValueError, match=words):
    evaluator(**kw)
