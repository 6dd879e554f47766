"""The procedural world is a function of (split, i), loud enough, and tells the truth."""

import time

import numpy as np
import pytest

from big_audio.datasets.worlds import notes


def test_an_example_depends_on_split_and_index_alone():
  a, b = notes.Source("train", sr=8000), notes.Source("train", sr=8000, num_examples=50)
  for i in (0, 7, 49):
    x, y = a[i], b[i]
    assert all(np.array_equal(x[k], y[k]) for k in x)
  other = notes.Source("test", sr=8000)
  assert not np.array_equal(a[0]["wav"], other[0]["wav"]) and a[0]["id"] != other[0]["id"]
  assert not np.array_equal(a[0]["wav"], a[1]["wav"])
  with pytest.raises(IndexError):
    b[50]


def test_the_notes_do_not_depend_on_the_rate():
  lo, hi = notes.Source(sr=8000)[5], notes.Source(sr=44100)[5]
  assert all(np.array_equal(lo[k], hi[k]) for k in lo if k.startswith("note_"))


@pytest.mark.parametrize("sr,channels", [(8000, 1), (16000, 2)])
def test_audio_is_sensible(sr, channels):
  s = notes.Source(sr=sr, secs=0.8, channels=channels, num_examples=60)
  wavs = [e["wav"] for e in map(s.__getitem__, range(60))]
  assert all(w.shape == (round(0.8 * sr), channels) and w.dtype == np.float32 for w in wavs)
  peaks = np.array([abs(w).max() for w in wavs])
  rms = 20 * np.log10([np.sqrt(np.mean(w**2)) for w in wavs])
  assert 0.09 < peaks.min() < 0.2 and 0.7 < peaks.max() < 1
  assert rms.min() > -50 and rms.max() < -5 and rms.std() > 4
  silent = np.array([np.mean(abs(w[:-10]).max(1) < 1e-4) for w in wavs])
  assert 0.05 < silent.mean() < 0.6  # gaps, but no empty examples
  if channels == 2:
    assert not np.allclose(wavs[0][:, 0], wavs[0][:, 1])


def test_truth_is_padded_and_in_order():
  s = notes.Source(polyphony=3, num_examples=100, sr=8000)
  counts = set()
  for e in map(s.__getitem__, range(100)):
    mask = e["note_mask"]
    n = int(mask.sum())
    counts.add(n)
    assert mask.shape == (3,) and mask[:n].all() and not mask[n:].any()
    for k in ("note_hz", "note_onset_secs", "note_decay_secs", "note_velocity", "note_brightness"):
      assert e[k].shape == (3,) and e[k].dtype == np.float32 and not e[k][n:].any()
    assert (np.diff(e["note_onset_secs"][:n]) >= 0).all()
    assert (e["note_hz"][:n] >= 65).all() and (e["note_hz"][:n] <= 1047).all()
    assert e["note_kind"].dtype == np.int32
  assert counts == {1, 2, 3}


@pytest.mark.parametrize("kind", ["saw", "pluck"])
def test_the_pitch_is_the_one_that_is_told(kind):
  s = notes.Source(sr=16000, secs=1, polyphony=1, kinds=(kind,), lo_hz=110, num_examples=200)
  checked = 0
  for e in map(s.__getitem__, range(200)):
    onset, decay, hz = (float(e[f"note_{k}"][0]) for k in ("onset_secs", "decay_secs", "hz"))
    if decay < 0.15 or onset > 0.4:
      continue
    w = e["wav"][int(onset * 16000) :, 0]
    lines = abs(np.fft.rfft(w * np.hanning(len(w)), 65536))
    f = np.fft.rfftfreq(65536, 1 / 16000)
    # The fundamental stands out from everything between it and half an octave around.
    near = (f > hz / 1.4) & (f < hz * 1.4)
    assert abs(f[near][lines[near].argmax()] / hz - 1) < 0.02
    assert e["note_kind"][0] == notes.KINDS.index(kind)
    checked += 1
  assert checked > 20


def test_an_onset_is_where_it_is_told():
  s = notes.Source(sr=8000, polyphony=1, num_examples=50)
  for e in map(s.__getitem__, range(50)):
    onset = int(e["note_onset_secs"][0] * 8000)
    w = abs(e["wav"][:, 0])
    assert not w[: max(onset, 0)].any() and w[onset : onset + 1600].max() > 0.2 * w.max()


@pytest.mark.parametrize(
  "kw,message",
  [
    (dict(split="trian"), r'no split "trian"\. Did you mean train'),
    (dict(kinds=("sew",)), r'no kinds "sew"\. Did you mean saw'),
    (dict(sr=2000), r"hi_hz <= sr/4 = 500"),
    (dict(channels=3), "channels of 1 or 2"),
    (dict(secs=0.0001), "too few"),
  ],
)
def test_arguments_out_of_range(kw, message):
  with pytest.raises(ValueError, match=message):
    notes.Source(**kw)


def test_speed():
  s = notes.Source(sr=8000, num_examples=60)
  s[0]
  start = time.process_time()
  for i in range(60):
    s[i]
  assert 60 / (time.process_time() - start) > 100  # 700 on an idle core; slower where it is shared
