"""Scores by packages: the same as calling them, "unavailable" without them, failures counted."""

import sys
import types

import numpy as np
import pytest
import soxr

from big_audio.dsp import perceptual


def speech_like(sr, secs=3.0, seed=0):
  """Syllables of a voiced sound: what PESQ takes for utterances."""
  t = np.arange(int(sr * secs)) / sr
  phase = 2 * np.pi * np.cumsum(120 + 20 * np.sin(2 * np.pi * 1.3 * t)) / sr
  voice = sum(np.sin(k * phase) / k for k in range(1, 20))
  gate = np.clip(np.sin(2 * np.pi * 2.5 * t), 0, 1) ** 0.5
  noise = np.random.default_rng(seed).standard_normal(len(t))
  return 0.2 * voice * gate + 1e-3 * noise


def pair(sr=8000, level=0.02):
  clean = speech_like(sr)
  return clean, clean + level * np.random.default_rng(1).standard_normal(len(clean))


def test_the_same_as_the_packages():
  pesq, pystoi = pytest.importorskip("pesq"), pytest.importorskip("pystoi")
  a, b = pair()
  assert perceptual.pesq_nb(a, b, 8000) == pesq.pesq(8000, a, b, "nb")
  up = [soxr.resample(x, 8000, 16000) for x in (a, b)]
  assert perceptual.pesq_wb(a, b, 8000) == pesq.pesq(16000, *up, "wb")
  assert perceptual.stoi(a, b, 8000) == pystoi.stoi(a, b, 8000)
  got = perceptual.estoi(a, b, 8000)
  assert got == pytest.approx(pystoi.stoi(a, b, 8000, extended=True), abs=1e-9)
  # Silent frames fall back on the package's noise: it must not depend on the global generator.
  assert got == perceptual.estoi(a, b, 8000)
  stereo = [np.stack([a, x], axis=1) for x in (a, b)]
  want = (pesq.pesq(8000, a, a, "nb") + pesq.pesq(8000, a, b, "nb")) / 2
  assert perceptual.pesq_nb(np.stack([a, a], 1), np.stack([a, b], 1), 8000) == pytest.approx(want)
  assert perceptual.stoi(*stereo, 8000) > perceptual.stoi(a, b, 8000)


def test_more_noise_scores_lower_and_failures_are_counted():
  pytest.importorskip("pesq"), pytest.importorskip("pystoi")
  scores = perceptual.Scores(("pesq_nb", "stoi"), 8000)
  scores.add(*pair(level=0.003))
  scores.add(*pair(level=0.1))
  a, _ = pair()
  third = scores.add(a, 0 * a)
  scores.add(0 * a, a)
  scores.add(a[:500], a[:500])
  assert np.isnan(third["pesq_nb"])
  better, worse = scores.values["pesq_nb"][:2]
  assert better > worse
  assert [f.partition(":")[0] for f in scores.failed["pesq_nb"]] == ["item 2", "item 3", "item 4"]
  assert "utterances" in scores.failed["pesq_nb"][1]
  assert [f.partition(":")[0] for f in scores.failed["stoi"]] == ["item 4"]
  assert scores.means()["pesq_nb"] == pytest.approx((better + worse) / 2)


@pytest.mark.slow
def test_visqol_speech():
  pytest.importorskip("visqol"), pytest.importorskip("ai_edge_litert")
  a, b = pair()
  same, noisy = perceptual.visqol_speech(a, a, 8000), perceptual.visqol_speech(a, b, 8000)
  assert 5 >= same > noisy >= 1
  with pytest.raises(perceptual.NoScore, match="silence"):
    perceptual.visqol_speech(a, 0 * a, 8000)
  with pytest.raises(perceptual.NoScore, match="too short"):
    perceptual.visqol_speech(a[:400], a[:400], 8000)


@pytest.mark.slow
def test_visqol_audio():
  visqol = pytest.importorskip("visqol")
  a, b = pair(44100)
  api = visqol.VisqolApi()
  api.create(mode="audio")
  up = [soxr.resample(x, 44100, 48000) for x in (a, b)]
  want = api.measure_from_arrays(*up, 48000).moslqo
  assert perceptual.visqol_audio(a, b, 44100) == pytest.approx(want)


def test_a_missing_package_is_told_and_not_replaced(monkeypatch):
  for package in ("pesq", "pystoi", "visqol"):
    monkeypatch.setitem(sys.modules, package, None)  # import raises
  perceptual._visqol_api.cache_clear()
  scores = perceptual.Scores(perceptual.MEASURES, 8000)
  assert scores.add(*pair()) == {}
  assert scores.means() == dict.fromkeys(perceptual.MEASURES, perceptual.UNAVAILABLE)
  for fn in perceptual.MEASURES.values():
    with pytest.raises(perceptual.MissingPackage, match="--extra metrics"):
      fn(*pair(), 8000)


def test_audio_mode_needs_no_lattice(monkeypatch):
  monkeypatch.setitem(sys.modules, "visqol", types.ModuleType("visqol"))
  monkeypatch.setitem(sys.modules, "ai_edge_litert", None)  # import raises
  assert perceptual.available("visqol_audio") and not perceptual.available("visqol_speech")


def test_errors():
  with pytest.raises(ValueError, match="pesq_nb"):
    perceptual.Scores(("pesk_nb",), 8000)
  a, b = pair()
  if perceptual.available("stoi"):
    with pytest.raises(ValueError, match="alike"):
      perceptual.stoi(a, b[:-1], 8000)
