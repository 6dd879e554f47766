"""Perceptual scores of speech and audio, by the packages of the extra `metrics`.

  scores = Scores(("pesq_nb", "stoi"), sr)
  for reference, estimate in pairs:
    scores.add(reference, estimate)
  scores.means()     # {"pesq_nb": 3.1, "stoi": "unavailable"} where pystoi is not installed
  scores.failed      # {"pesq_nb": ["item 3: No utterances detected"]}

Every measure is a function (reference, estimate, sr) -> float of numpy waves [T] or [T, C] in
[-1, 1]; several channels give the mean over channels. A package that is missing raises
`MissingPackage`, an item that has no score raises `NoScore`; nothing is replaced by a number.
Waves are resampled (soxr) where a measure is defined at one rate only.
"""

import functools
import importlib
import warnings
from collections.abc import Callable, Iterable

import numpy as np

from big_audio.dsp.namespace import check_choice

UNAVAILABLE = "unavailable"


class MissingPackage(ImportError):
  """The package of a measure is not installed."""


class NoScore(ValueError):
  """A measure has no value for this pair, e.g. PESQ finds no speech."""


def pesq_nb(reference: np.ndarray, estimate: np.ndarray, sr: int) -> float:
  """PESQ, narrow band (ITU-T P.862.1 MOS-LQO, about 1.0 to 4.55), at 8 or 16 kHz.

  Other rates are resampled to 16 kHz.

  Args:
    reference: f32|f64[T] or [T, C] in [-1, 1].
    estimate: same shape.
    sr: Hz.

  Raises:
    MissingPackage: no package `pesq`.
    NoScore: silence, no utterance, or too short.
    ValueError: the shapes differ.
  """
  return _pesq(reference, estimate, sr, "nb", sr if sr in (8000, 16000) else 16000)


def pesq_wb(reference: np.ndarray, estimate: np.ndarray, sr: int) -> float:
  """PESQ, wide band (ITU-T P.862.2), at 16 kHz; see `pesq_nb`."""
  return _pesq(reference, estimate, sr, "wb", 16000)


def stoi(reference: np.ndarray, estimate: np.ndarray, sr: int) -> float:
  """Short-time objective intelligibility, up to 1 (Taal et al. 2011); see `pesq_nb`.

  `pystoi` resamples to 10 kHz itself.
  """
  return _stoi(reference, estimate, sr, extended=False)


def estoi(reference: np.ndarray, estimate: np.ndarray, sr: int) -> float:
  """Extended STOI (Jensen and Taal 2016), which hears modulated noise; see `stoi`."""
  return _stoi(reference, estimate, sr, extended=True)


def visqol_speech(reference: np.ndarray, estimate: np.ndarray, sr: int) -> float:
  """ViSQOL v3, speech mode at 16 kHz (MOS-LQO, 1 to 5) with the lattice mapping of the original.

  The polynomial mapping of older versions scores one or two points higher; it is not used. See
  `pesq_nb`; needs `visqol-python[lattice]`.
  """
  return _visqol(reference, estimate, sr, "speech", 16000)


def visqol_audio(reference: np.ndarray, estimate: np.ndarray, sr: int) -> float:
  """ViSQOL v3, audio mode at 48 kHz (MOS-LQO, 1 to about 4.73); see `pesq_nb`."""
  return _visqol(reference, estimate, sr, "audio", 48000)


MEASURES: dict[str, Callable[[np.ndarray, np.ndarray, int], float]] = {
  f.__name__: f for f in (pesq_nb, pesq_wb, stoi, estoi, visqol_speech, visqol_audio)
}
_PACKAGES = {
  "pesq_nb": ("pesq",), "pesq_wb": ("pesq",), "stoi": ("pystoi",), "estoi": ("pystoi",),
  "visqol_speech": ("visqol", "ai_edge_litert"), "visqol_audio": ("visqol",),
}  # fmt: skip


class Scores:
  """Collects measures over pairs: values, failures by item, and what is not installed.

  Args:
    names: of `MEASURES`.
    sr: Hz of all waves.

  Attributes:
    values: {name: list of float, NaN where an item has no score}; None where a package is missing.
    failed: {name: list of "item 3: reason"}.

  Raises:
    ValueError: an unknown name, with the nearest one.
  """

  def __init__(self, names: Iterable[str], sr: int):
    self._sr, self._items = sr, 0
    self.values: dict[str, list[float] | None] = {}
    self.failed: dict[str, list[str]] = {}
    for name in names:
      check_choice("perceptual measure", name, MEASURES)
      self.values[name] = [] if available(name) else None
      self.failed[name] = []

  def add(self, reference: np.ndarray, estimate: np.ndarray) -> dict[str, float]:
    """Scores one pair; what has no score is NaN here, and its reason is kept."""
    for name, found in self.values.items():
      if found is None:
        continue
      try:
        found.append(MEASURES[name](reference, estimate, self._sr))
      except NoScore as e:
        found.append(float("nan"))
        self.failed[name].append(f"item {self._items}: {e}")
    self._items += 1
    return {name: found[-1] for name, found in self.values.items() if found is not None}

  def means(self) -> dict[str, float | str]:
    """{name: mean over the items that have a score, or "unavailable"}; NaN if none has one."""
    out: dict[str, float | str] = {}
    for name, found in self.values.items():
      real = [] if found is None else [v for v in found if np.isfinite(v)]
      out[name] = UNAVAILABLE if found is None else float(np.mean(real)) if real else float("nan")
    return out


def available(name: str) -> bool:
  """Whether the packages of a measure are installed."""
  try:
    for package in _PACKAGES[name]:
      _load(package)
  except MissingPackage:
    return False
  return True


def _load(package: str):
  try:
    return importlib.import_module(package)
  except ImportError as e:
    raise MissingPackage(
      f"the package {package} is not installed: `uv sync --extra metrics` or "
      "`pip install -e '.[metrics]'`."
    ) from e


def _pesq(reference, estimate, sr, mode, rate):
  package = _load("pesq")

  def one(a, b):
    if not np.any(b):  # its level alignment divides by zero
      raise NoScore("the estimate is silent")
    try:
      return float(package.pesq(rate, a, b, mode))
    except package.PesqError as e:
      text = e.args[0].decode() if e.args and isinstance(e.args[0], bytes) else str(e)
      raise NoScore(text or type(e).__name__) from e

  return _channels(one, reference, estimate, sr, rate)


def _stoi(reference, estimate, sr, *, extended):
  package = _load("pystoi")

  def one(a, b):
    state = np.random.get_state()  # ESTOI adds noise of 1e-16 from the global generator
    np.random.seed(0)
    try:
      with warnings.catch_warnings():
        # Too few frames are a warning and 1e-5 there; here they are no score.
        warnings.simplefilter("error", RuntimeWarning)
        return float(package.stoi(a, b, sr, extended=extended))
    except RuntimeWarning as e:
      raise NoScore(str(e).partition(".")[0]) from e
    finally:
      np.random.set_state(state)

  return _channels(one, reference, estimate, sr, sr)


@functools.cache
def _visqol_api(mode):
  if mode == "speech":
    _load("ai_edge_litert")
  api = _load("visqol").VisqolApi()
  api.create(mode=mode, **({"use_lattice_model": True} if mode == "speech" else {}))
  return api


def _visqol(reference, estimate, sr, mode, rate):
  api = _visqol_api(mode)

  def one(a, b):
    if not np.any(a) or not np.any(b):
      raise NoScore("silence")
    try:
      score = float(api.measure_from_arrays(a, b, rate).moslqo)
    except (IndexError, ValueError) as e:  # no patch fits into the reference
      raise NoScore(f"too short, or no active speech ({e})") from e
    if not np.isfinite(score):
      raise NoScore(f"its score is {score}")
    return score

  return _channels(one, reference, estimate, sr, rate)


def _channels(one, reference, estimate, sr, rate):
  if reference.shape != estimate.shape or reference.ndim not in (1, 2):
    raise ValueError(
      f"perceptual: expected reference and estimate [T] or [T, C] alike, got {reference.shape} and "
      f"{estimate.shape}."
    )
  waves = []
  for wav in (reference, estimate):
    wav = np.asarray(wav, np.float64).reshape(len(wav), -1)
    if rate != sr:
      import soxr

      wav = soxr.resample(wav, sr, rate)
    waves.append(wav)
  return float(np.mean([one(a, b) for a, b in zip(waves[0].T, waves[1].T, strict=True)]))
