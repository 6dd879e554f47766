"""Augmentations: on the right axes, in the stated ranges, and each draw its own."""

from collections import Counter

import numpy as np
import pytest

from big_audio.pp import builder


def run(spec, n=200, **example):
  fn = builder.build(spec)
  return [fn(dict(example), np.random.default_rng(i)) for i in range(n)]


def fbank(frames=40, bins=12):
  return np.random.default_rng(0).standard_normal((frames, bins)).astype(np.float32)


def noise(n=4000, c=2):
  return np.random.default_rng(1).standard_normal((n, c)).astype(np.float32)


def spans(hidden):
  """Lengths of the runs of True."""
  edges = np.flatnonzero(np.diff(np.concatenate([[0], hidden.astype(int), [0]])))
  return (edges[1::2] - edges[::2]).tolist()


def test_masks_hide_whole_bins_and_whole_frames_defect_5():
  """The reference took frames for a batch: each frame had a mask of its own along the mel axis."""
  x = fbank()
  bands, stretches = Counter(), Counter()
  for out in run("mask_fbank(bins=4, frames=9, fill=99)", n=600, fbank=x):
    hidden = out["fbank"] == 99
    frames, bins = hidden.all(1), hidden.all(0)
    # What is hidden is one rectangle over all bins and one over all frames, and nothing else.
    np.testing.assert_array_equal(hidden, frames[:, None] | bins[None, :])
    np.testing.assert_array_equal(out["fbank"][~hidden], x[~hidden])
    assert len(spans(frames)) <= 1 and len(spans(bins)) <= 1
    bands[int(bins.sum())] += 1
    stretches[int(frames.sum())] += 1
  assert sorted(bands) == [*range(5)] and sorted(stretches) == [*range(10)]
  assert all(abs(n - 120) < 60 for n in bands.values())


def test_a_warp_stretches_time_and_moves_mels():
  """Of a plane a t + b m, linear interpolation is exact: slopes tell the stretch and the move."""
  t, m = np.arange(41, dtype="f4")[:, None], np.arange(30, dtype="f4")[None]
  plane, counts, moves = 2 * t + 0.5 * m, [], []
  for out in run("warp_fbank(time=.2, bins=3)", n=200, fbank=plane):
    x = out["fbank"]
    assert x.dtype == np.float32
    counts.append(len(x))
    rows, inner = np.linspace(0, 40, len(x)), slice(4, -4)
    move = m[0, inner] - (x[0, inner] - 2 * rows[0]) / 0.5
    moves.append(float(np.mean(move)))
    want = 2 * rows[:, None] + 0.5 * (m[:, inner] - moves[-1])
    np.testing.assert_allclose(x[:, inner], want, atol=1e-3)
    assert np.all(x[:, 0] >= 2 * rows - 1e-3) and np.all(x[:, -1] <= 2 * rows + 0.5 * 29 + 1e-3)
  assert min(counts) < 36 and max(counts) > 49
  assert min(counts) >= 34 and max(counts) <= 51
  assert -3 <= min(moves) < -2.5 and 2.5 < max(moves) <= 3
  (same,) = run("warp_fbank()", n=1, fbank=plane)
  np.testing.assert_array_equal(same["fbank"], plane)


def test_a_gain_of_features_is_that_of_the_wave():
  wav = noise(2000, 1)
  log_mel = lambda x: builder.build("fbank(n_mels=20)")(dict(wav=x, sr=16000), None)["fbank"]
  moves = [np.unique(o["fbank"] - fbank()) for o in run("gain_fbank(6)", fbank=fbank())]
  moves = [float(m.mean()) for m in moves if np.ptp(m) < 1e-5]
  assert len(moves) == 200 and -1.39 < min(moves) < -1.2 and 1.2 < max(moves) < 1.39
  louder = log_mel(10 ** (6 / 20) * wav) - log_mel(wav)
  np.testing.assert_allclose(louder, 6 * np.log(10) / 10, atol=1e-3)


def test_masks_may_lie_anywhere_and_be_several():
  x = fbank()
  where = np.sum([o["fbank"] == 99 for o in run("mask_fbank(2, 0, fill=99)", 900, fbank=x)], 0)[0]
  assert where.min() > 0
  many = run("mask_fbank(1, 0, times=3, fill=99)", 300, fbank=x)
  assert {int((o["fbank"][0] == 99).sum()) for o in many} == {0, 1, 2, 3}
  mean = [o["fbank"] for o in run("mask_fbank(12, 0)", fbank=x)]
  assert any((m == x.mean()).all() for m in mean)


def test_shift_moves_frames_and_leaves_bins_defect_5():
  x = fbank()
  seen = set()
  for out in run("shift_fbank(3)", fbank=x):
    by = [s for s in range(-3, 4) if np.array_equal(out["fbank"], np.roll(x, s, axis=0))]
    assert len(by) == 1
    seen.update(by)
  assert seen == {*range(-3, 4)}


def test_noise_has_its_deviation():
  x = np.zeros((100, 50), np.float32)
  std = [o["fbank"].std() for o in run("noise_fbank(0.05)", 20, fbank=x)]
  np.testing.assert_allclose(std, 0.05, rtol=0.05)
  std = np.array([o["fbank"].std() for o in run("noise_fbank(0.03, 0.07)", fbank=x)])
  assert 0.029 < std.min() < 0.035 and 0.065 < std.max() < 0.073
  assert run("noise_fbank(0.05)", 1, fbank=x)[0]["fbank"].dtype == np.float32


def test_speed_raises_pitch_and_shortens():
  t = np.arange(8000) / 8000
  wav = np.sin(2 * np.pi * 400 * t)[:, None].astype(np.float32)
  (out,) = run("speed(1.25, 1.25)", 1, wav=wav, sr=8000)
  assert out["wav"].shape == (6400, 1) and out["sr"] == 8000
  want = np.sin(2 * np.pi * 500 * t[:6400])
  np.testing.assert_allclose(out["wav"][200:-200, 0], want[200:-200], atol=1e-3)
  lengths = [o["wav"].shape[0] for o in run("speed(0.9, 1.1)", wav=wav, sr=8000)]
  assert 7272 <= min(lengths) < 7400 and 8700 < max(lengths) <= 8890
  with pytest.raises(ValueError, match="changes the length"):
    run("speed(0.9, 1.1)", 1, wav=wav, wav_mask=np.ones(8000, bool), sr=8000)


def test_noise_at_a_ratio():
  wav = 0.1 * noise()
  for out in run("add_noise(10, 10)", 20, wav=wav):
    ratio = 10 * np.log10(np.mean(wav**2) / np.mean((out["wav"] - wav) ** 2))
    assert abs(ratio - 10) < 0.3
  ratios = [10 * np.log10(np.mean(wav**2) / np.mean((o["wav"] - wav) ** 2))
            for o in run("add_noise(0, 20)", wav=wav)]  # fmt: skip
  assert min(ratios) < 2 and max(ratios) > 18
  silent = np.zeros((10, 1), np.float32)
  assert not run("add_noise(0, 20)", 1, wav=silent)[0]["wav"].any()


@pytest.mark.parametrize("mode", ["circular", "pad"])
def test_shift_of_a_wave_and_its_mask(mode):
  wav, mask = noise(50), np.arange(50) < 30
  seen = set()
  for out in run(f"shift(0.05, mode={mode!r})", wav=wav, wav_mask=mask, sr=100):
    found = []
    for by in range(-5, 6):
      want, keep = np.roll(wav, by, axis=0), np.roll(mask, by)
      if mode == "pad":
        gone = np.arange(50) < by if by > 0 else np.arange(50) >= 50 + by
        want, keep = np.where(gone[:, None], 0, want), keep & ~gone
      if np.array_equal(out["wav"], want) and np.array_equal(out["wav_mask"], keep):
        found.append(by)
    assert len(found) == 1
    seen.update(found)
  assert seen == {*range(-5, 6)}


@pytest.mark.parametrize(
  "spec,said",
  [
    ("mask_fbank(13, 0)", 'hides up to 13 bins, "fbank" has 12'),
    ("mask_fbank(0, 41)", 'hides up to 41 frames, "fbank" has 40'),
    ("mask_fbank(0, 1, fill='zero')", "expected \"mean\" or a number"),
    ("mask_fbank(-1, 1)", "needs bins, frames >= 0"),
    ("shift_fbank(-1)", "needs frames >= 0"),
    ("noise_fbank(0.1, 0.05)", "0 <= std <= hi"),
    ("speed(0, 1)", "0 < lo <= hi"),
    ("add_noise(3, 1)", "lo_db <= hi_db"),
    ("shift(1, mode='roll')", 'mode "circular" or "pad"'),
    ("mask_fbank(1, 1, key='wav')", r"needs features f32\[F,M\]"),
  ],
)  # fmt: skip
def test_what_cannot_be_done(spec, said):
  with pytest.raises(ValueError, match=said):
    run(spec, 1, fbank=fbank(), wav=noise()[:, :, None], sr=100)


@pytest.mark.parametrize(
  "spec", ["mask_fbank(4, 9)", "shift_fbank(3)", "noise_fbank(0.1)", "add_noise(0, 5)",
           "shift(0.5)", "speed(0.9, 1.1)"],
)  # fmt: skip
def test_the_given_arrays_stay_and_a_seed_repeats(spec):
  x, wav = fbank(), noise(200)
  before = x.copy(), wav.copy()
  a, b = (run(spec, 5, fbank=x, wav=wav, sr=100) for _ in range(2))
  np.testing.assert_array_equal(before[0], x)
  np.testing.assert_array_equal(before[1], wav)
  for one, other in zip(a, b):
    for key in ("fbank", "wav"):
      np.testing.assert_array_equal(one[key], other[key])
