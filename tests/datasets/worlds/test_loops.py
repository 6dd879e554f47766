"""Loops: their truth can be measured, regions are disjoint, and spectra do not tell the class."""

from collections import Counter

import numpy as np
import pytest

from big_audio.datasets import pk
from big_audio.datasets.worlds import loops
from big_audio.datasets.worlds.loops import SUB_GENRES, Source

SR, HOP = 16000, 64
BANDS = ((30, 140), (140, 700), (700, 2600), (3000, 8000))


def magnitudes(wav, win, hop):
  frames = np.lib.stride_tricks.sliding_window_view(wav, win)[::hop]
  return np.abs(np.fft.rfft(frames * np.hanning(win).astype(np.float32), axis=1))


def onsets(wav):
  """Rising level in four bands, [4,F]; frame f ends at sample (f + 1) * HOP + 256."""
  level, hz = np.log1p(100 * magnitudes(wav, 256, HOP)), np.fft.rfftfreq(256, 1 / SR)
  bands = [level[:, (hz >= lo) & (hz < hi)].mean(1) for lo, hi in BANDS]
  return np.maximum(np.diff(np.array(bands)), 0)


def autocorrelation(x):
  x = x - x.mean(1, keepdims=True)
  n = x.shape[1]
  ac = np.fft.irfft(np.abs(np.fft.rfft(x, 2 * n)) ** 2)[:, :n] / (n - np.arange(n))
  return ac / ac[:, :1]


def at(curve, lag):
  return np.interp(lag, np.arange(len(curve)), curve)


def tempo(ac):
  """Quarters a minute: whose multiples are in the autocorrelation of kicks, snares and hats."""
  total, fps = ac[3] + 0.6 * ac[0] + 0.6 * ac[2], SR / HOP
  bpm = np.arange(95, 155, 0.25)
  score = lambda b: sum(
    w * max(at(total, 60 / b * fps * beats + d) for d in (-1, -0.5, 0, 0.5, 1))
    for beats, w in ((0.5, 1), (1, 1.5), (1.5, 0.7), (2, 1.2))
  )
  return bpm[np.argmax([score(b) for b in bpm])]


def rhythm(wav):
  """Tempo, and periodicity of each kind of drum by sixteenths and between two eighths: f64[28]."""
  ac = autocorrelation(onsets(wav))
  bpm = tempo(ac)
  eighth = 30 / bpm * SR / HOP
  steps = [at(ac[j], eighth / 2 * k) for j in (0, 1, 2) for k in (2, 3, 4, 6, 8, 10, 12)]
  between = [at(ac[3], eighth * r) for r in (0.5, 0.53, 0.56, 0.6, 0.63, 0.66)]
  return np.array([bpm / 10, *steps, *between])


@pytest.fixture(scope="module")
def some():
  s = Source("test", num_examples=72)
  return [s[i] for i in range(72)]


def test_tempo_can_be_measured(some):
  error = [
    abs(tempo(autocorrelation(onsets(e["wav"][:, 0]))) / e["loop_tempo_bpm"] - 1) for e in some
  ]
  assert np.median(error) < 0.01 and np.mean(np.array(error) < 0.03) > 0.93


def test_swing_can_be_measured(some):
  """Hats between two eighths lie where the truth says, by the true tempo and start."""
  found, told = [], []
  for e in some:
    rise = onsets(e["wav"][:, 0])[3]
    eighth = 30 / float(e["loop_tempo_bpm"]) * SR
    # Of a stroke the level rises most when it comes into the window's middle.
    sample = (np.arange(len(rise)) + 1) * HOP + 128 - HOP / 2
    where = (sample / eighth + float(e["loop_start_steps"]) / 2) % 1
    odd = (where > 0.4) & (where < 0.78)
    peak = where[odd][np.argsort(rise[odd])[-5:]]
    found.append(np.median(peak))
    told.append(e["loop_swing"])
  assert np.corrcoef(found, told)[0, 1] > 0.9
  assert np.median(np.abs(np.array(found) - told)) < 0.03


def test_brightness_can_be_heard(some):
  def centroid(wav):
    power = np.abs(np.fft.rfft(wav)) ** 2
    high = np.fft.rfftfreq(len(wav), 1 / SR)
    keep = high > 800
    return np.log(np.sum((power * high)[keep]) / np.sum(power[keep]))

  bright = [e["loop_brightness"] for e in some]
  assert np.corrcoef(bright, [centroid(e["wav"][:, 0]) for e in some])[0, 1] > 0.7


def test_it_repeats_itself_bar_by_bar():
  s = Source("train", secs=6.0, num_examples=3)
  for i in range(3):
    e = s[i]
    bar = round(240 / float(e["loop_tempo_bpm"]) * SR)
    a, b = e["wav"][: -bar - 2, 0], e["wav"][bar:-2, 0]
    assert (
      max(np.corrcoef(a, e["wav"][bar + d : len(a) + bar + d, 0])[0, 1] for d in (-1, 0, 1)) > 0.8
    )
    assert np.corrcoef(a, np.roll(b, bar // 7))[0, 1] < 0.5


def test_examples_do_not_depend_on_what_else_is_asked():
  a, b = Source("train", num_examples=20), Source("train", num_examples=40)
  _ = b[3]
  np.testing.assert_array_equal(a[7]["wav"], b[7]["wav"])
  assert a[7]["id"] == "loops/train/7" and a[7]["loop_tempo_bpm"] == b[7]["loop_tempo_bpm"]
  assert not np.array_equal(a[7]["wav"], Source("test", num_examples=20)[7]["wav"])
  assert not np.array_equal(a[7]["wav"], a[16]["wav"])  # of the same sub-genre
  with pytest.raises(IndexError):
    a[20]


def test_examples_and_columns():
  s = Source("validation", num_examples=108, sr=8000)
  assert s.classes == list(SUB_GENRES) and len(s) == 108
  assert Counter(zip(s.columns["label"].tolist(), s.columns["artist"].tolist())) == {
    (c, k): 1 + (k < 3) for c in range(9) for k in loops.KITS
  }
  for i in (0, 50):
    e = s[i]
    assert e["wav"].shape == (16000, 1) and e["wav"].dtype == np.float32 and e["sr"] == 8000
    assert 0.05 < np.abs(e["wav"]).max() < 1
    assert all(e[k] == v[i] for k, v in s.columns.items())
  pk.Sampler(s.columns, p=4, k=3, seed=0).batch(0)


def test_numbers_of_tracks_differ_between_splits():
  tracks = [set(Source(s, num_examples=50).columns["track"].tolist()) for s in loops.SPLITS]
  assert len(set.union(*tracks)) == 200


def draws(split, n=1800):
  """Truth of many loops by class, without rendering."""
  source = Source(split, num_examples=n)
  source._render = lambda *a: np.ones(8, np.float32)
  rows = [source[i] for i in range(n)]
  return [[r for r in rows if r["label"] == c] for c in range(9)]


def test_held_out_regions_are_drawn_in_no_other_split():
  held_out, others = draws("regions"), [draws(s) for s in ("train", "validation", "test")]
  for c, genre in enumerate(SUB_GENRES.values()):
    for key, (lo, hi) in (("loop_tempo_bpm", genre.tempo_bpm), ("loop_swing", genre.swing)):
      u = lambda rows: np.array([(r[key] - lo) / (hi - lo) for r in rows])
      inside = u(held_out[c])
      assert (inside > 0.333).all() and (inside < 0.667).all() and np.ptp(inside) > 0.3
      for split in others:
        outside = u(split[c])
        assert ((outside < 0.334) | (outside > 0.666)).all()
        assert outside.min() < 0.05 and outside.max() > 0.95
    kits = {r["artist"] for split in others for r in split[c]}
    assert kits == set(loops.KITS) and not kits & {r["artist"] for r in held_out[c]}


def test_no_single_parameter_tells_the_sub_genre():
  for field in ("tempo_bpm", "swing", "density", "brightness", "pattern"):
    for name, genre in SUB_GENRES.items():
      mine = getattr(genre, field)
      shared = [
        other for n, g in SUB_GENRES.items() if n != name
        for other in [getattr(g, field)]
        if mine == other or (field != "pattern" and max(mine[0], other[0]) < min(mine[1], other[1]))
      ]  # fmt: skip
      assert len(shared) >= 2, (name, field)


def test_what_cannot_be_drawn():
  with pytest.raises(ValueError, match='no split "region". Did you mean "regions"'):
    Source("region")
  for kw in (dict(sr=4000), dict(secs=0.1), dict(num_examples=10**8)):
    with pytest.raises(ValueError, match="expected sr >= 8000"):
      Source(**kw)


def nearest(a, la, b):
  mean, std = a.mean(0), a.std(0) + 1e-9
  a, b = (a - mean) / std, (b - mean) / std
  return la[((b**2).sum(1)[:, None] + (a**2).sum(1) - 2 * b @ a.T).argmin(1)]


def quadratic(a, la, b):
  """Ridge regression of the classes on all products of two features."""
  mean, std = a.mean(0), a.std(0)

  def expand(x):
    x = (x - mean) / std
    i, j = np.triu_indices(x.shape[1])
    return np.concatenate([x, x[:, i] * x[:, j], np.ones((len(x), 1))], 1)

  x = expand(a)
  w = np.linalg.solve(x.T @ x + 30 * np.eye(x.shape[1]), x.T @ np.eye(9)[la])
  return (expand(b) @ w).argmax(1)


@pytest.mark.slow
def test_spectra_do_not_tell_the_sub_genre_and_rhythm_does(capsys):
  mel = lambda hz: 1127 * np.log1p(hz / 700)
  edges, hz = np.linspace(mel(30), mel(SR / 2), 66), mel(np.fft.rfftfreq(512, 1 / SR))[:, None]
  bank = np.maximum(0, np.minimum((hz - edges[:-2]) / np.diff(edges)[:-1],
                                  (edges[2:] - hz) / np.diff(edges)[1:]))  # fmt: skip

  def features(split, n):
    s, spectra, rhythms = Source(split, num_examples=n), [], []
    for i in range(n):
      wav = s[i]["wav"][:, 0]
      level = np.log(magnitudes(wav, 512, 128) ** 2 @ bank + 1e-7)
      spectra.append(np.concatenate([level.mean(0), level.std(0)]))
      rhythms.append(rhythm(wav))
    return np.array(spectra), np.array(rhythms), s.columns["label"]

  spec, rhy, label = features("train", 630)
  for split in ("test", "regions"):
    s, r, want = features(split, 306)
    by_spectrum = np.mean(nearest(spec, label, s) == want)
    by_rhythm = np.mean(quadratic(rhy, label, r) == want)
    with capsys.disabled():
      print(f"\n{split}: {by_spectrum:.3f} by spectrum (1-NN), {by_rhythm:.3f} by rhythm")
    assert 0.35 < by_spectrum < 0.75 and by_rhythm > 0.95
