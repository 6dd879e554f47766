"""Against the tables of BS.1770, the cases of EBU Tech 3341, and pyloudnorm 0.2.0."""

import jax
import numpy as np
import pytest
import scipy.signal

from big_audio.dsp import loudness as L

# {(sr, channels): pyloudnorm.Meter(sr, filter_class="DeMan").integrated_loudness(_signal(...))}
PYLOUDNORM = {
  (8000, 1): -18.1168,
  (8000, 2): -14.9881,
  (8000, 5): -10.3104,
  (16000, 1): -17.5031,
  (44100, 1): -17.0248,
  (44100, 2): -13.9843,
  (48000, 5): -9.3113,
}


def _signal(sr, channels, seed):
  rng = np.random.default_rng(seed)
  t = np.arange(round(3.7 * sr)) / sr
  out = []
  for _ in range(channels):
    tones = zip(rng.uniform(30, 0.45 * sr, 20), rng.uniform(0, 6, 20), strict=True)
    tone = sum(np.sin(2 * np.pi * f * t + p) for f, p in tones)
    out.append(tone * (0.001 + 0.02 * (t % 1.3 < 0.6) + 0.03 * (t > 2)))
  return np.stack(out, -1)


def _sine(sr, secs, dbfs, hz=1000, channels=2):
  t = np.arange(round(sr * secs)) / sr
  return np.repeat((10 ** (dbfs / 20) * np.sin(2 * np.pi * hz * t))[:, None], channels, 1)


def test_filters_at_48_khz_are_those_of_the_recommendation():
  b, a = L.k_weighting(48000)
  np.testing.assert_allclose(b[0], [1.53512485958697, -2.69169618940638, 1.19839281085285], 1e-8)
  np.testing.assert_allclose(a[0], [1, -1.69065929318241, 0.73248077421585], 1e-8)
  np.testing.assert_allclose(b[1], [1, -2, 1])
  np.testing.assert_allclose(a[1], [1, -1.99004745483398, 0.99007225036621], 1e-8)


def test_one_block_equals_the_recursion():
  x = 0.1 * np.random.default_rng(0).standard_normal(3200)
  y = x
  for b, a in zip(*L.k_weighting(8000), strict=True):
    y = scipy.signal.lfilter(b, a, y)
  want = -0.691 + 10 * np.log10(np.mean(y**2))
  np.testing.assert_allclose(L.integrated_loudness(x[:, None], 8000), want, atol=1e-9)


@pytest.mark.parametrize("key", PYLOUDNORM)
def test_equals_pyloudnorm(key):
  sr, channels = key
  got = L.integrated_loudness(_signal(sr, channels, sr + channels), sr)
  assert got == pytest.approx(PYLOUDNORM[key], abs=2e-4)


def test_sine_of_full_scale():
  x = _sine(48000, 3, 0, hz=997) * [1, 0]
  assert L.integrated_loudness(x, 48000) == pytest.approx(-3.01, abs=0.01)


@pytest.mark.parametrize(
  "parts, want",
  [
    ([(20, -23)], -23),  # case 1
    ([(20, -33)], -33),  # case 2
    ([(10, -36), (60, -23), (10, -36)], -23),  # case 3: relative gate
    ([(10, -72), (10, -36), (60, -23), (10, -36), (10, -72)], -23),  # case 4: absolute gate too
    ([(30, -72), (10, -60)], -60),  # ours: the relative gate alone would give -67
  ],
)
def test_ebu_tech_3341(parts, want):
  x = np.concatenate([_sine(48000, secs, db).astype(np.float32) for secs, db in parts])
  assert L.integrated_loudness(x, 48000) == pytest.approx(want, abs=0.1)


def test_batches_and_namespaces():
  x = np.stack([_signal(8000, 2, i) for i in range(3)]).astype(np.float32)
  x[1] *= 0.1
  got = L.integrated_loudness(x, 8000)
  assert got.shape == (3,) and got.dtype == np.float32
  np.testing.assert_allclose(got, [L.integrated_loudness(s, 8000) for s in x], atol=1e-4)
  jitted = jax.jit(lambda x: L.integrated_loudness(x, 8000))(x)
  np.testing.assert_allclose(jitted, got, atol=1e-3)


def test_gain():
  x = _signal(8000, 1, 0)
  for target in (-23.0, -10.0):
    y = x * L.loudness_gain(x, 8000, target)
    assert L.integrated_loudness(y, 8000) == pytest.approx(target, abs=1e-6)
  silence = np.zeros((1, 8000, 1), np.float32)
  assert L.integrated_loudness(silence, 8000)[0] == -np.inf
  assert L.loudness_gain(silence, 8000, -23)[0] == 1


def test_fast_size():
  for n in (1, 2, 7, 97, 1000, 1025, 441001):
    got = L._fast_size(n)
    rest = got
    for p in (2, 3, 5):
      while rest % p == 0:
        rest //= p
    assert rest == 1 and n <= got <= 1.1 * n + 2


def test_errors():
  with pytest.raises(ValueError, match=r"0.4 s \(3200 samples\) or more, got 100"):
    L.integrated_loudness(np.zeros((100, 1)), 8000)
  with pytest.raises(ValueError, match="Drop the LFE"):
    L.integrated_loudness(np.zeros((9000, 6)), 8000)
  with pytest.raises(ValueError, match="4000 Hz or more, got 2000"):
    L.k_weighting(2000)
