"""A clip that evaluation has padded is coded as it is alone."""

import jax
import numpy as np
import pytest

from big_audio import config as C


@pytest.mark.parametrize("method, nfe", [("ae", 0), ("imf", 1)])
def test_the_codec_reconstructs_the_recorded_part_as_if_alone(method, nfe):
  config = C.load(f"configs/meanflow.py:smoke,method={method}")
  trainer = C.resolve("trainers", "autoencode").Trainer(config, C.build_models(config))
  wav = (0.1 * np.random.default_rng(0).standard_normal((1, 1600, 1))).astype(np.float32)
  variables = jax.jit(trainer.init)(jax.random.key(0), {"wav": wav}, trainer.stats([{"wav": wav}]))
  run = jax.jit(lambda batch: trainer.reconstruct(variables, batch, jax.random.key(1), nfe=nfe))
  samples = 1030  # seven tokens, the last of them not full
  clip = np.where(np.arange(1120)[None, :, None] < samples, wav[:, :1120], 0)
  alone = run({"wav": clip, "wav_mask": np.arange(1120)[None] < samples})
  padded = np.pad(clip, ((0, 0), (0, 480), (0, 0)))
  got = run({"wav": padded, "wav_mask": np.arange(1600)[None] < samples})
  assert float(got["bits"][0]) == float(alone["bits"][0]) == 7 * 30
  np.testing.assert_array_equal(got["codes"][:, :7], alone["codes"])
  for key in ("wav", "ae"):
    assert np.abs(alone[key]).max() > 1e-3
    np.testing.assert_allclose(got[key][:, :1120], alone[key], atol=1e-5)
    assert not np.any(got[key][:, 1120:])
