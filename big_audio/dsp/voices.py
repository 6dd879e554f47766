"""Synthesiser voices, vectorised over a batch: parameters f[B] each -> sounds f[B,T].

A sound is a pure function of its parameters, its rate and its length, and does not depend on what
else is in the batch; the first samples of a sound are the same whether or not the rest is made. In
numpy voices compute in float64, in jax in the dtype of their parameters, where they can be compiled
and differentiated. Amplitudes are note_velocity / 127 and fall by exp(-t / tau),
tau = 10^log10_decay_time s; a note n has 440 2^((n-69)/12) Hz.
"""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from big_audio.dsp import envelopes, ladder, synth
from big_audio.dsp.envelopes import column
from big_audio.dsp.namespace import check_choice, constant, namespace

Array = Any
PARTIALS = 128  # most harmonics of "additive"
LOWEST_HZ = 20.0  # of "pluck": it bounds the string's period


class Control(NamedTuple):
  """A parameter of a voice.

  Attributes:
    default: its value where none is given.
    low, high: what makes sense; `render` takes other values too.
    text: what it is.
    whole: whether it is a whole number that picks something, and cannot be a label.
  """

  default: float
  low: float
  high: float
  text: str
  whole: bool = False


@dataclass(frozen=True)
class Voice:
  """A kind of sound.

  Attributes:
    fn: (parameters {name: f[B] or number}, like f[B], sr, total samples, samples) -> f[B,samples].
    parameters: {name: Control}.
    text: one line about it.
    lowest_hz: notes below have no sound.
  """

  fn: Callable[..., Array]
  parameters: Mapping[str, Control]
  text: str
  lowest_hz: float = 0.0


def render(
  voice: str,
  values: Mapping[str, float | Array],
  sr: float,
  secs: float,
  samples: int | None = None,
) -> Array:
  """Sounds of a voice.

  Args:
    voice: a key of VOICES.
    values: {parameter: f[B] or a number for all sounds}, at least one array; what is not named has
      its default.
    sr: samples per second.
    secs: length; T = int(secs sr).
    samples: only the first that many samples (they are the same bits); default all.

  Returns:
    f64[B,T] in numpy (whatever the dtype of values), in jax of the dtype of the arrays.

  Raises:
    ValueError: unknown voice or parameter, arrays of different lengths, no samples.
  """
  check_choice("voices.render: voice", voice, VOICES)
  known = VOICES[voice].parameters
  for name in values:
    check_choice(f"voices.render: parameter of {voice!r}", name, known)
  total = int(secs * sr)
  samples = total if samples is None else samples
  if not 0 < samples <= total:
    raise ValueError(
      f"voices.render: {samples} samples of a sound that has {total} ({secs:g} s at {sr:g} Hz)."
    )
  arrays = {k: v for k, v in values.items() if getattr(v, "ndim", 0)}
  if len({v.shape for v in arrays.values()}) != 1 or any(v.ndim != 1 for v in arrays.values()):
    shapes = {k: tuple(v.shape) for k, v in arrays.items()}
    raise ValueError(f"voices.render: expected arrays [B] of one length, got {shapes or 'none'}.")
  first = next(iter(arrays.values()))
  if isinstance(first, np.ndarray):
    first = first.astype(np.float64)
    values = {k: np.asarray(v, np.float64) if k in arrays else v for k, v in values.items()}
  parameters = {name: control.default for name, control in known.items()} | dict(values)
  return VOICES[voice].fn(parameters, first, sr, total, samples)


def pre_emphasis(x: Array, coefficient: float) -> Array:
  """y[0] = x[0], y[t] = x[t] - coefficient x[t-1]; f[...,T] -> f[...,T]."""
  if coefficient == 0:
    return x
  xp = namespace("voices.pre_emphasis", x)
  return xp.concatenate([x[..., :1], x[..., 1:] - coefficient * x[..., :-1]], axis=-1)


def note_hz(note: float | Array) -> float | Array:
  """Frequency of a MIDI note in Hz; 69 is 440 Hz."""
  return 440.0 * 2.0 ** ((note - 69.0) / 12.0)


def _simple(p, like, sr, total, samples):
  xp = namespace("voices.simple", like)
  t = _time(like, sr, samples)
  # Half a period late, so that the sound starts with 0 and rises. Naive on purpose: its aliases
  # are part of the sound that data sets of this voice hold.
  cycles = column(note_hz(p["note_number"])) * t - 0.5
  x = column(p["note_velocity"] / 127.0) * (2.0 * (cycles - xp.floor(cycles)) - 1.0)
  x = x * xp.exp(-t / column(10.0 ** p["log10_decay_time"]))
  x = xp.broadcast_to(x, (like.shape[0], samples))
  enabled = p["filter_enabled"]
  if _all(enabled, 0):
    return x
  cutoff = p["filter_cutoff"]
  if not _all(p["filter_env_amount"], 0):
    envelope = envelopes.adsr(
      *(p[f"filter_env_{k}"] for k in ("attack", "decay", "sustain", "release")),
      sr=sr, total=total, like=like, samples=samples,
    )  # fmt: skip
    cutoff = column(cutoff) * 2.0 ** (column(p["filter_env_amount"]) * envelope)
    cutoff = xp.broadcast_to(cutoff, x.shape)
  filtered = ladder.moog(x, cutoff, p["filter_resonance"], sr)
  return xp.where(column(xp.asarray(enabled)) != 0, filtered, x)


def _fm(p, like, sr, total, samples):
  xp = namespace("voices.fm", like)
  t = _time(like, sr, samples)
  cycles = column(note_hz(p["note_number"])) * t
  index = column(p["fm_index"]) * xp.exp(-t / column(10.0 ** p["log10_index_decay_time"]))
  out = _decaying(p, t, synth.fm(cycles, column(p["fm_ratio"]), index))
  return xp.broadcast_to(out, (like.shape[0], samples))


def _additive(p, like, sr, total, samples):
  xp = namespace("voices.additive", like)
  t = _time(like, sr, samples)
  hz = xp.asarray(note_hz(p["note_number"])).reshape(-1, 1).astype(like.dtype)
  k = np.arange(1, PARTIALS + 1)
  # dB for each octave above the fundamental; the even ones on top of that.
  octaves, even = constant(np.log2(k), like), constant((k % 2 == 0) * 1.0, like)
  amps = 10.0 ** (-xp.asarray(p["rolloff_db"], like.dtype).reshape(-1, 1) / 20 * octaves)
  amps = amps * (1 - even + even * xp.asarray(p["even_level"], like.dtype).reshape(-1, 1))
  amps = xp.where(hz * constant(k * 1.0, like) < sr / 2, amps, 0)
  amps = amps / xp.maximum(xp.sum(amps, axis=1, keepdims=True), 1e-12)
  cycles = hz * t
  angle = 2 * math.pi * (cycles - xp.floor(cycles))
  # Known only outside of jit: beyond which harmonic all are silent.
  count = int(np.nonzero(amps.any(axis=0))[0].max()) + 1 if xp is np else PARTIALS
  # Clenshaw's sum of sines, from sin (k+1)w = 2 cos w sin kw - sin (k-1)w: no sine a harmonic.
  twice = 2 * xp.cos(angle)
  now, before = xp.zeros_like(angle), xp.zeros_like(angle)
  for n in range(count - 1, -1, -1):
    now, before = twice * now - before + amps[:, n : n + 1], now
  out = _decaying(p, t, now * xp.sin(angle))
  return xp.broadcast_to(out, (like.shape[0], samples))


def _pluck(p, like, sr, total, samples):
  """`synth.pluck` for a batch: the loop's response in the spectrum, on a circle beyond 1."""
  xp = namespace("voices.pluck", like)
  longest = math.ceil(sr / LOWEST_HZ)
  full = lambda name: xp.broadcast_to(xp.asarray(p[name], like.dtype), like.shape)
  hz = note_hz(full("note_number"))
  if xp is np and not (np.all(hz >= LOWEST_HZ) and np.all(hz < sr / 2)):
    raise ValueError(f"voices.pluck: expected notes of {LOWEST_HZ:g} to {sr / 2:g} Hz.")
  burst = constant(_noise(p["excitation_seed"], longest), like)
  soft = sum(xp.roll(burst, s, axis=-1) for s in range(4)) / 4
  bright = column(full("brightness"))
  burst = bright * burst + (1 - bright) * soft
  # One period sets the string in motion, without mean, which the loop would keep for long.
  inside = constant(np.arange(longest, dtype=np.float64), like) < column(xp.floor(sr / hz))
  burst = xp.where(inside, burst, 0)
  burst = burst - xp.where(inside, xp.sum(burst, 1, keepdims=True) / xp.sum(inside, 1)[:, None], 0)
  burst = burst / xp.max(xp.abs(burst), axis=1, keepdims=True)
  size = 1 << (total + longest - 1).bit_length()
  radius = 10 ** (4 / size)
  gain, stretch, delay = (column(v) for v in _string_loop(xp, hz, full("log10_decay_time"), sr))
  k = constant(np.arange(size // 2 + 1, dtype=np.float64) / size, like)  # cycles a sample
  turn = lambda cycles: xp.exp(-2j * math.pi * (cycles - xp.floor(cycles)))
  response = 1 / (
    1 - gain * radius**-delay * turn(delay * k) * (1 - stretch + stretch / radius * turn(k))
  )
  ramp = constant(radius ** np.arange(max(total, longest), dtype=np.float64), like)
  spectrum = xp.fft.rfft(burst / ramp[:longest], size) * response
  sound = xp.fft.irfft(spectrum, size)[:, :samples] * ramp[:samples]
  return (column(full("note_velocity")) / 127.0 * sound).astype(like.dtype)


def _string_loop(xp, hz, log10_decay, sr):
  """`synth.string_loop` of f[B]."""
  w = 2 * math.pi * hz / sr
  keep = xp.exp(-1 / (hz * 10.0**log10_decay))
  room = 0.8 * (1 - keep**2) / (2 * (1 - xp.cos(w)))
  # The double where keeps the root's slope at 0 out of gradients.
  left = xp.maximum(1 - 4 * room, 0)
  stretch = (1 - xp.where(left > 0, xp.sqrt(xp.where(left > 0, left, 1)), 0)) / 2
  real, imag = 1 - stretch + stretch * xp.cos(w), stretch * xp.sin(w)
  return keep / xp.hypot(real, imag), stretch, sr / hz - xp.arctan2(imag, real) / w


def _noise(seeds, length):
  """f64[1 or B, length] in [-1,1], a function of each seed alone."""
  rows = [_noise_row(int(s), length) for s in np.asarray(seeds).reshape(-1)]
  return np.stack(rows)


@functools.lru_cache(maxsize=256)
def _noise_row(seed, length):
  return np.random.default_rng(seed).uniform(-1, 1, length)


def _time(like, sr, samples):
  return constant(np.arange(samples, dtype=np.float64) / sr, like)


def _decaying(p, t, x):
  xp = namespace("voices", t)
  return column(p["note_velocity"] / 127.0) * x * xp.exp(-t / column(10.0 ** p["log10_decay_time"]))


def _all(value, number):
  """Whether a parameter is known to be `number` for every sound (a traced one never is)."""
  if isinstance(value, int | float | np.ndarray):
    return bool(np.all(value == number))
  return False


_NOTE = {
  "note_number": Control(69.0, 0.0, 127.0, "MIDI note, 69 is 440 Hz"),
  "note_velocity": Control(100.0, 0.0, 127.0, "MIDI velocity, amplitude = velocity / 127"),
  "log10_decay_time": Control(
    -0.301, -4.0, 2.0, "log10 of the seconds in which the sound falls to 1/e"
  ),
}

VOICES: dict[str, Voice] = {
  "simple": Voice(
    _simple,
    _NOTE
    | {
      "filter_enabled": Control(0.0, 0.0, 1.0, "1 puts the Moog filter in", whole=True),
      "filter_cutoff": Control(1000.0, 1.0, 1e5, "cutoff of the filter, Hz"),
      "filter_resonance": Control(0.0, 0.0, 0.99, "feedback of the filter, 0 to 0.99"),
      "filter_env_attack": Control(0.01, 0.0, 60.0, "cutoff envelope: attack, s"),
      "filter_env_decay": Control(0.1, 0.0, 60.0, "cutoff envelope: decay, s"),
      "filter_env_sustain": Control(0.3, 0.0, 1.0, "cutoff envelope: sustain level, 0 to 1"),
      "filter_env_release": Control(0.2, 0.0, 60.0, "cutoff envelope: release, s"),
      "filter_env_amount": Control(
        0.0, -10.0, 10.0, "octaves by which the envelope lifts the cutoff"
      ),
    },
    "a plain sawtooth through a Moog filter (SimpleSawSynth of NSMT)",
  ),
  "fm": Voice(
    _fm,
    _NOTE
    | {
      "fm_ratio": Control(2.0, 0.0, 64.0, "modulator by carrier frequency"),
      "fm_index": Control(2.0, 0.0, 100.0, "modulation index at the start, radians"),
      "log10_index_decay_time": Control(
        -0.301, -4.0, 2.0, "log10 of the seconds in which the index falls to 1/e"
      ),
    },
    "two-operator FM",
  ),
  "additive": Voice(
    _additive,
    _NOTE
    | {
      "rolloff_db": Control(
        6.0, -24.0, 96.0, "fall of the harmonics in dB an octave; 6 is a sawtooth's"
      ),
      "even_level": Control(
        1.0, 0.0, 1.0, "level of even harmonics, 0 to 1; 0 leaves the odd ones"
      ),
    },
    "sum of harmonics below the Nyquist frequency",
  ),
  "pluck": Voice(
    _pluck,
    _NOTE
    | {
      "brightness": Control(0.5, 0.0, 1.0, "0 plucks softly, 1 with plain noise"),
      "excitation_seed": Control(
        0.0, 0.0, 2.0**32 - 1, "whole number that picks the noise of the pluck", whole=True
      ),
    },
    "plucked string (Karplus-Strong)",
    LOWEST_HZ,
  ),
}
