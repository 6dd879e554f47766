"""Procedural drum loops in sub-genres, for music similarity; needs no download.

A sub-genre is a region of tempo, swing, density, brightness and pattern. Regions overlap in each of
these, so that no single one, and no spectrum without time, tells the sub-genre: two sub-genres of a
genre may differ in tempo or swing alone. Loop i of a split is drawn from hash(split, i).
"""

import difflib
import functools
import hashlib
from dataclasses import dataclass

import numpy as np

from big_audio.dsp import synth

# "regions" is the harder test: its tempos and drum kits occur in no other split.
SPLITS = ("train", "validation", "test", "regions")
_TRACKS = 10_000_000  # tracks of a split, so that their numbers differ between splits
_STEPS = 16  # of a bar: sixteenths


@dataclass(frozen=True)
class SubGenre:
  """A region: (least, most) of each parameter, and its pattern.

  Attributes:
    tempo_bpm: quarters a minute.
    swing: where between two eighths the sixteenth lies: 0.5 is straight, 2/3 a triplet.
    density: chance of the strokes that the pattern leaves open.
    brightness: of the drums, in [0,1].
    pattern: a name of `PATTERNS`.
  """

  tempo_bpm: tuple[float, float]
  swing: tuple[float, float]
  density: tuple[float, float]
  brightness: tuple[float, float]
  pattern: str


# One character a sixteenth: X always, x mostly, o open (by density), . never.
PATTERNS = {
  "four": dict(
    kick="X...X...X...X...",
    snare="....X.......X...",
    hat="xoXoxoXoxoXoxoXo",
    tom="......o.......oo",
  ),
  "broken": dict(
    kick="X.....X...X.....",
    snare="....X..o.o..X..o",
    hat="XoxoXoxoXoxoXoxo",
    tom="..o.......o.....",
  ),
  "half": dict(
    kick="X..X....o.......",
    snare="........X.......",
    hat="X.oxX.oxX.oxX.ox",
    tom="......o.....o.o.",
  ),
}
_SLOW, _FAST = (102.0, 120.0), (128.0, 150.0)
_STRAIGHT, _SWUNG = (0.5, 0.53), (0.59, 0.66)
SUB_GENRES = {
  "techno/dub": SubGenre(_SLOW, _STRAIGHT, (0.2, 0.5), (0.0, 0.4), "four"),
  "techno/driving": SubGenre(_FAST, _STRAIGHT, (0.5, 0.9), (0.4, 0.9), "four"),
  "techno/shuffled": SubGenre(_FAST, _SWUNG, (0.4, 0.8), (0.2, 0.6), "four"),
  "breaks/boombap": SubGenre(_SLOW, _SWUNG, (0.2, 0.6), (0.1, 0.5), "broken"),
  "breaks/straight": SubGenre(_SLOW, _STRAIGHT, (0.4, 0.8), (0.3, 0.8), "broken"),
  "breaks/rolling": SubGenre(_FAST, _STRAIGHT, (0.5, 0.9), (0.6, 1.0), "broken"),
  "bass/halfstep": SubGenre(_FAST, _STRAIGHT, (0.3, 0.7), (0.2, 0.7), "half"),
  "bass/lurching": SubGenre(_FAST, _SWUNG, (0.4, 0.9), (0.5, 1.0), "half"),
  "bass/heavy": SubGenre(_SLOW, _STRAIGHT, (0.3, 0.7), (0.0, 0.4), "half"),
}
KITS, KITS_OF_REGIONS = tuple(range(9)), tuple(range(9, 12))
_VOICES = ("kick", "snare", "hat", "tom")


class Source:
  """Loops as {"wav": f32[T,1], "sr", "id", "label", "track", "artist", "loop_*": their truth}.

  `label` is the sub-genre, `artist` the drum kit; every loop is a track of its own. The truth:
  `loop_tempo_bpm`, `loop_swing`, `loop_density`, `loop_brightness`, `loop_start_steps` (where in
  the bar the loop begins), f32 each.

  Attributes:
    classes: names of the sub-genres.
    columns: {"label", "track", "artist": i32[len]}.
  """

  def __init__(
    self, split: str = "train", *, sr: int = 16000, secs: float = 2.0, num_examples: int = 5400
  ):
    """States the world; nothing is rendered yet.

    Args:
      split: one of SPLITS. "regions" takes the middle third of each range of tempos and swings and
        three of the twelve kits, the others the rest.
      sr: samples per second, 8000 or more.
      secs: length of a loop, 0.5 or more.
      num_examples: length of the split; classes follow each other in turn.

    Raises:
      ValueError: an argument is out of its range.
    """
    if split not in SPLITS:
      near = difflib.get_close_matches(split, SPLITS, n=1)
      hint = f' Did you mean "{near[0]}"?' if near else ""
      raise ValueError(f'worlds.loops: no split "{split}".{hint} Expected {", ".join(SPLITS)}.')
    if sr < 8000 or secs < 0.5 or not 0 <= num_examples <= _TRACKS:
      raise ValueError(
        f"worlds.loops: expected sr >= 8000, secs >= 0.5 and num_examples in [0, {_TRACKS}], got "
        f"{sr}, {secs}, {num_examples}."
      )
    self.split, self.sr, self.secs, self.num_examples = split, sr, secs, num_examples
    self.classes = list(SUB_GENRES)
    i = np.arange(num_examples)
    kits = np.array(KITS_OF_REGIONS if split == "regions" else KITS)
    self.columns = {
      "label": (i % len(self.classes)).astype(np.int32),
      "track": (i + SPLITS.index(split) * _TRACKS).astype(np.int32),
      # Each class meets each kit equally often.
      "artist": kits[i // len(self.classes) % len(kits)].astype(np.int32),
    }

  def __len__(self) -> int:
    return self.num_examples

  def __getitem__(self, i: int) -> dict:
    if not 0 <= i < self.num_examples:
      raise IndexError(f"worlds.loops: item {i} of {self.num_examples}.")
    rng = _rng(f"{self.split}/{i}")
    numbers = {k: int(v[i]) for k, v in self.columns.items()}
    genre = SUB_GENRES[self.classes[numbers["label"]]]
    held_out = self.split == "regions"
    truth = {
      "loop_tempo_bpm": _inside(rng, genre.tempo_bpm, held_out),
      "loop_swing": _inside(rng, genre.swing, held_out),
      "loop_density": rng.uniform(*genre.density),
      "loop_brightness": rng.uniform(*genre.brightness),
      "loop_start_steps": rng.uniform(0, _STEPS),
    }
    wav = self._render(PATTERNS[genre.pattern], numbers["artist"], truth, rng)
    # A peak between 0 and -20 dB, over a floor of noise 45 to 75 dB below it.
    peak = 10 ** rng.uniform(-1.0, -0.05)
    wav *= np.float32(peak / np.abs(wav).max())
    floor = np.float32(peak * 10 ** rng.uniform(-3.75, -2.25) * np.sqrt(3))
    wav += floor * (2 * rng.random(len(wav), dtype=np.float32) - 1)
    truth = {k: np.float32(v) for k, v in truth.items()}
    name = f"loops/{self.split}/{i}"
    return {"wav": wav[:, None], "sr": self.sr, "id": name, **numbers, **truth}

  def _render(self, pattern, kit, truth, rng):
    """f32[T]: the bar of a pattern again and again, from somewhere within it."""
    sounds = _kit(kit, truth["loop_brightness"], self.sr, rng)
    step = 15 / truth["loop_tempo_bpm"] * self.sr  # samples of a sixteenth
    late = (2 * truth["loop_swing"] - 1) * step
    n, begin = round(self.secs * self.sr), truth["loop_start_steps"] * step
    longest = max(len(s) for s in sounds.values())
    wav = np.zeros(n + 2 * longest, np.float32)
    for voice in _VOICES:
      strokes = _strokes(pattern[voice], truth["loop_density"], rng)
      steps = np.flatnonzero(strokes)
      at = steps * step + np.where(steps % 2, late, 0.0)
      bars = np.arange(-1, 1 + int((begin + n) / (step * _STEPS)))
      times = np.round(at[None, :] + bars[:, None] * step * _STEPS - begin).astype(int)
      for onsets in times:
        for onset, stroke in zip(onsets.tolist(), strokes[steps].tolist(), strict=True):
          if -longest <= onset < n:  # what began before may still ring
            place = wav[longest + onset : longest + onset + len(sounds[voice])]
            place += np.float32(stroke) * sounds[voice]
    return wav[longest : longest + n].copy()


def _inside(rng, bounds, held_out):
  """Uniform over the middle third of a range, or over the outer two."""
  lo, hi = bounds
  u = rng.random()
  third = (1 + u) / 3 if held_out else (2 * u if u < 0.5 else 2 * u + 1) / 3
  return lo + (hi - lo) * third


def _strokes(pattern, density, rng):
  """Loudness of each sixteenth of a bar, f64[16]; 0 where there is none."""
  chance = np.array([{"X": 1.0, "x": 0.9, "o": density, ".": 0.0}[c] for c in pattern])
  accent = np.array([{"X": 1.0, "x": 0.8, "o": 0.55, ".": 0.0}[c] for c in pattern])
  there = rng.random(_STEPS) < chance
  return there * accent * rng.uniform(0.75, 1.0, _STEPS)


def _kit(kit, brightness, sr, rng):
  """{voice: f32[T]} of a kit, somewhat out of tune."""
  of = _rng(f"kit/{kit}")
  octaves = lambda lo, hi: lo * (hi / lo) ** of.random()
  detune = 2 ** rng.uniform(-1 / 12, 1 / 12)
  top = min(0.42 * sr, 7000.0)
  # Bright drums are higher and their noise is louder beside the tone.
  colour = 2 ** (1.6 * brightness - 0.8)
  return {
    "kick": _drum(octaves(42, 62) * detune, octaves(2, 5), octaves(0.05, 0.11), sr),
    "snare": 0.5 * _drum(octaves(160, 240) * detune, 1.5, octaves(0.03, 0.06), sr)
    + _burst(octaves(1700, 2300) * colour, 1.0, octaves(0.04, 0.08), 0.26, sr, rng),
    "hat": _burst(
      min(octaves(4400, 5300) * colour, top), 0.5, octaves(0.015, 0.03),
      0.2 + 0.3 * brightness, sr, rng,
    ),
    "tom": 0.7 * _drum(octaves(90, 150) * detune, 1.6, octaves(0.05, 0.1), sr),
  }  # fmt: skip


def _drum(hz, sweep, decay, sr):
  """A sine that falls from `sweep` times its frequency within 20 ms, f32[0.2 sr]."""
  t, fall, ends = _times(sr)
  # The integral of hz (1 + (sweep - 1) fall).
  cycles = np.float32(hz) * (t + np.float32((sweep - 1) * 0.02) * (1 - fall))
  return np.sin(np.float32(2 * np.pi) * cycles) * (np.exp(t * np.float32(-1 / decay)) * ends)


def _burst(hz, width, decay, level, sr, rng):
  """Noise around a frequency that decays, f32[0.2 sr]."""
  t, _, ends = _times(sr)
  noise = rng.standard_normal(1 << (len(t) - 1).bit_length(), dtype=np.float32)
  noise = synth.band_noise(noise, hz, width, sr)[: len(t)]
  scale = np.float32(level * np.sqrt(len(t) / np.dot(noise, noise)))
  return scale * noise * (np.exp(t * np.float32(-1 / decay)) * ends)


@functools.lru_cache
def _times(sr):
  """Seconds, exp(-t / 20 ms), and a factor by which a sound begins and ends softly: f32[0.2 sr]."""
  t = np.arange(int(0.2 * sr)) / sr
  ends = np.minimum(t / 0.002, 1) * np.minimum((t[-1] - t) / 0.04, 1)
  return tuple(x.astype(np.float32) for x in (t, np.exp(-t / 0.02), ends))


def _rng(name):
  key = hashlib.blake2b(f"loops/{name}".encode(), digest_size=16).digest()
  return np.random.default_rng(int.from_bytes(key, "little"))
