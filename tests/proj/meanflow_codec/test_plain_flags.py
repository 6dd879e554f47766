"""Bit equality in a process with the compiler's own flags, as users run it.

Other tests run on eight simulated devices, compiled without optimisation.
"""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import jax
import numpy as np
from proj.meanflow_codec import streams, windows
from tests.proj.meanflow_codec.test_windows import clear, make_runner

assert len(jax.devices()) == 1
runner, t = make_runner(), 7001
wav = (0.2 * np.random.default_rng(3).standard_normal((t, 1))).astype(np.float32)
codec = windows.WindowCodec(runner, core=11)
codes = codec.encode(wav)
for nfe in (0, 1):
  whole = codec.decode(codes, t, nfe=nfe, seed=4)
  encoder, decoder = streams.StreamEncoder(codec), streams.StreamDecoder(codec, nfe=nfe, seed=4)
  got, sound = [], []
  for i in range(0, t, 333):
    got.append(encoder.push(wav[i : i + 333]))
    sound.append(decoder.push(got[-1]))
  got.append(encoder.finish())
  sound += [decoder.push(got[-1]), decoder.finish(t)]
  np.testing.assert_array_equal(np.concatenate(got), codes)
  np.testing.assert_array_equal(np.concatenate(sound), whole)
padded = np.pad(wav, ((0, -t % codec.hop), (0, 0)))
one = windows.whole(runner, wav)
sure = clear(runner, one["lat"])
both = runner.predict("encode", {"wav": np.stack([padded, padded[::-1]])})
for other in (codes, np.asarray(both["codes"])[0]):
  np.testing.assert_array_equal(other[sure], one["codes"][sure])
print("clear", sure.mean(), "of", sure.size)
"""


@pytest.mark.slow
def test_streams_are_bit_equal_with_the_flags_that_users_run():
  env = {**os.environ, "JAX_PLATFORMS": "cpu"} | {"XLA_FLAGS": ""}
  done = subprocess.run(
    [sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, timeout=600
  )
  assert done.returncode == 0, done.stderr[-2000:]
  assert float(done.stdout.split()[1]) > 0.9
