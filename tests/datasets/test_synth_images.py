"""Pictures against those of the public generator, and their envelopes against plain loops."""

import json

import numpy as np
import pytest

from big_audio.datasets import synth_images as images
from tests.datasets import public

SR = 8000


def golden():
  """(arrays, settings of the spectrograms) of the public generator."""
  with np.load(public.REFERENCE / "golden_synth.npz") as z:
    arrays = dict(z)
  return arrays, json.loads((public.REFERENCE / "golden_synth.json").read_text())["spectrograms"]


@public.needed
@pytest.mark.parametrize("setting", ["pitch_sync", "filter128", "hires256", "mel"])
def test_golden_pictures(setting):
  arrays, settings = golden()
  s = settings[setting]["stft"]
  spec = images.Spectrogram(s["type"], s["n_fft"], s["n_window"], s["hop_length"], s["window_type"])
  size = settings[setting]["height"], settings[setting]["width"]
  for case in ("case0", "case2", "case3"):
    wav = arrays[f"{case}_audio"][None].astype(np.float64)
    db = images.decibels(wav, spec, *size, SR)
    want = arrays[f"{case}_{setting}_db"]
    np.testing.assert_allclose(db[0], want, rtol=0, atol=2e-3)
    got, scale = images.to_bytes(db)
    np.testing.assert_allclose(scale[0], [want.min(), want.max()], rtol=0, atol=2e-3)
    off = np.abs(got[0].astype(int) - arrays[f"{case}_{setting}_u8"])
    assert off.max() <= 1 and off.mean() <= 1e-3
    # Single precision, and no more of the sound than the frames cover.
    short = images.decibels(wav[:, : spec.samples(size[1])].astype(np.float32), spec, *size, SR)
    np.testing.assert_allclose(short, db, rtol=0, atol=1e-2)


@public.needed
def test_golden_mel_bank():
  bank = images.mel_bank(images.Spectrogram("mel", 512, 256, 64, "hamming"), 24, SR)
  np.testing.assert_allclose(bank, golden()[0]["mel_bank_8k_512_24"], atol=5e-7)


def test_bytes_round_to_even_and_constants_are_zero():
  db = np.array([[0, 127.5, 126.5, 255], [7, 7, 7, 7]])
  got, scale = images.to_bytes(db)
  np.testing.assert_array_equal(got, [[0, 128, 126, 255], [0, 0, 0, 0]])
  np.testing.assert_array_equal(scale, np.float32([[0, 255], [7, 7]]))


def test_a_short_sound_is_padded_and_silence_is_at_the_floor():
  spec = images.Spectrogram(n_fft=64, n_window=64, hop=16)
  db = images.decibels(np.ones((2, 40)), spec, 32, 1, SR)
  full = images.decibels(np.pad(np.ones((2, 40)), ((0, 0), (0, 24))), spec, 32, 1, SR)
  np.testing.assert_array_equal(db, full)
  np.testing.assert_allclose(images.decibels(np.zeros((1, 64)), spec, 32, 1, SR), -200)


def test_pictures_beyond_frames_or_bins_are_refused():
  spec = images.Spectrogram()
  wav = np.zeros((1, 8000))
  assert images.decibels(wav, spec, 40, 100, SR).shape == (1, 40, 100)
  with pytest.raises(ValueError, match="width=101, but 8000 samples .1 s. have 100 frames"):
    images.decibels(wav, spec, 32, 101, SR)
  with pytest.raises(ValueError, match="height=41, but n_fft=80 has 40 bins"):
    images.decibels(wav, spec, 41, 32, SR)
  with pytest.raises(ValueError, match="n_window=81 exceeds"):
    images.decibels(wav, images.Spectrogram(n_window=81), 32, 32, SR)
  with pytest.raises(ValueError, match="Did you mean 'hann'"):
    images.decibels(wav, images.Spectrogram(window="han"), 32, 32, SR)
  with pytest.raises(ValueError, match="band 0 of 64 mel bands lies between two bins"):
    images.decibels(wav, images.Spectrogram("mel", freq_min=10.0), 64, 32, SR)
  with pytest.raises(ValueError, match="freq_min < freq_max_ratio"):
    images.decibels(wav, images.Spectrogram("mel", freq_min=3700.0), 8, 32, SR)


def plain_planes(image, normalize):
  """Float planes of one picture, by loops."""
  h, w = image.shape
  x = image.astype(float)
  at = lambda v, i: v[i] if 0 <= i < len(v) else 0.0
  columns, rows = x.sum(axis=0), x.mean(axis=1)
  course = np.array([sum(at(columns, i + k) for k in range(-2, 3)) / 5 for i in range(w)])
  profile = np.array([sum(at(rows, i + k) for k in range(-3, 4)) / 7 for i in range(h)])
  if normalize:
    x = x / (course[None] + 1e-10) / (profile[:, None] + 1e-10)
  return x, np.tile(course, (h, 1)), np.tile(profile[:, None], (1, w))


@pytest.mark.parametrize("normalize", [False, True])
def test_envelopes_of_each_kind(normalize):
  rng = np.random.default_rng(0)
  u8, scale = rng.integers(0, 256, (3, 9, 12)).astype(np.uint8), np.float32([[-80, 0]] * 3)
  unit = lambda p: (p - p.min()) / (p.max() - p.min())
  kw = dict(normalize=normalize)
  got, kept = images.envelopes(u8, scale, temporal=True, spectral=True, **kw)
  assert got.shape == (3, 3, 9, 12) and got.dtype == np.uint8 and kept is scale
  both, ranges = images.envelopes(u8, scale, temporal=True, spectral=True, joint_scaling=True, **kw)
  for i in range(3):
    planes = plain_planes(u8[i], normalize)
    for c, plane in enumerate(planes):
      np.testing.assert_allclose(got[i, c], 255 * unit(plane), rtol=0, atol=0.5001)
      assert got[i, c].min() == 0 and got[i, c].max() == 255
    joint = 255 * unit(np.stack(planes))
    assert np.all((joint - both[i] > -1e-3) & (joint - both[i] < 1.001))  # cut, not rounded
    np.testing.assert_allclose(
      ranges[i], [np.min(planes), np.max(planes)], rtol=1e-5, atol=1e-6
    )  # fmt: skip
  for c, kind in ((1, "temporal"), (2, "spectral")):
    one, _ = images.envelopes(
      u8, scale, temporal=kind == "temporal", spectral=kind == "spectral", **kw
    )
    np.testing.assert_array_equal(one, got[:, [0, c]])


def test_envelopes_of_constant_and_small_pictures():
  flat = np.zeros((1, 4, 3), np.uint8)
  kw = dict(temporal=True, spectral=True)
  assert not images.envelopes(flat, np.zeros((1, 2), np.float32), **kw)[0].any()
  joint = images.envelopes(flat, np.zeros((1, 2), np.float32), joint_scaling=True, **kw)[0]
  assert (joint == 128).all()
  u8 = np.arange(12, dtype=np.uint8).reshape(1, 4, 3)  # smaller than the boxes: not averaged
  planes = images.envelopes(u8, np.zeros((1, 2), np.float32), **kw)[0][0]
  np.testing.assert_array_equal(planes[1, 0], [0, 128, 255])
  np.testing.assert_array_equal(planes[2, :, 0], [0, 85, 170, 255])
