"""Procedural notes and transients with their true parameters; needs no download.

An example is a mixture of 1 to `polyphony` events out of five kinds: a band-limited saw,
two-operator FM, a plucked string, a struck bar or bell, and a burst of filtered noise. Pitches lie
on a tempered scale with some detuning; peaks vary over 20 dB between examples; there are silent
gaps, and events may ring beyond the end. Example i of a split is drawn from hash(split, i) alone.
"""

import difflib
import hashlib

import numpy as np

from big_audio.dsp import synth

KINDS = ("saw", "fm", "pluck", "modal", "noise")
# "classifier" is the third split on which evaluation classifiers are trained.
SPLITS = ("train", "validation", "test", "classifier")

# Partials of a free bar (Euler-Bernoulli), a bell (hum to nominal) and a nearly harmonic rod.
_MODES = np.array(
  [[1, 2.756, 5.404, 8.933, 13.34], [0.5, 1, 1.19, 1.5, 2], [1, 2.01, 3.05, 4.12, 5.2]], np.float32
)


class Source:
  """Mixtures of notes as {"wav": f32[T,C], "sr", "id", "note_*": arrays [P]}, P = polyphony.

  The truth about the events, in order of onset, padded with zeros where `note_mask` is false:
  `note_kind` i32 (index into KINDS), `note_hz` f32 (centre for noise), `note_onset_secs` f32,
  `note_decay_secs` f32 (to 1/e), `note_velocity` f32 in [0,1] relative to the other
  events, `note_brightness` f32 in [0,1].
  """

  def __init__(
    self,
    split: str = "train",
    *,
    sr: int = 16000,
    secs: float = 1.0,
    num_examples: int = 100_000,
    channels: int = 1,
    polyphony: int = 4,
    kinds: tuple[str, ...] = KINDS,
    lo_hz: float = 65.4,
    hi_hz: float = 1046.5,
  ):
    """States the world; nothing is drawn yet.

    Args:
      split: one of SPLITS.
      sr: samples per second; at least 4 * hi_hz, so that each note has harmonics.
      secs: length of an example.
      num_examples: length of the split.
      channels: 1, or 2 with each event at its own place between left and right.
      polyphony: most events in an example.
      kinds: which kinds of events to draw from.
      lo_hz: lowest fundamental.
      hi_hz: highest fundamental.

    Raises:
      ValueError: an argument is out of its range.
    """
    _check("split", split, SPLITS)
    for kind in kinds:
      _check("kinds", kind, KINDS)
    if not kinds or channels not in (1, 2) or polyphony < 1 or num_examples < 0:
      raise ValueError(
        "worlds.notes: expected kinds, channels of 1 or 2, polyphony >= 1 and num_examples >= 0, "
        f"got kinds={kinds}, channels={channels}, polyphony={polyphony}, "
        f"num_examples={num_examples}."
      )
    if not 0 < lo_hz <= hi_hz <= sr / 4:
      raise ValueError(
        f"worlds.notes: expected 0 < lo_hz <= hi_hz <= sr/4 = {sr / 4:g}, got {lo_hz}, {hi_hz}."
      )
    self.samples = round(secs * sr)
    if self.samples < 16:
      raise ValueError(f"worlds.notes: secs={secs} at {sr} Hz is {self.samples} samples, too few.")
    self.split, self.sr, self.secs, self.num_examples = split, sr, secs, num_examples
    self.channels, self.polyphony, self.kinds = channels, polyphony, tuple(kinds)
    self.lo_hz, self.hi_hz = lo_hz, hi_hz

  def __len__(self) -> int:
    return self.num_examples

  def __getitem__(self, i: int) -> dict:
    if not 0 <= i < self.num_examples:
      raise IndexError(f"worlds.notes: item {i} of {self.num_examples}.")
    key = hashlib.blake2b(f"notes/{self.split}/{i}".encode(), digest_size=16).digest()
    rng = np.random.default_rng(int.from_bytes(key, "little"))
    truth = self._draw(rng)
    wav = np.zeros((self.samples, self.channels), np.float32)
    for p in range(int(truth["note_mask"].sum())):
      self._add(wav, {k: v[p] for k, v in truth.items()}, rng)
    # A level for the whole example; its peak is below 1 whatever the sum of events.
    wav *= np.float32(10 ** rng.uniform(-1.0, -0.05) / max(float(np.abs(wav).max()), 1e-6))
    return {"wav": wav, "sr": self.sr, "id": f"notes/{self.split}/{i}", **truth}

  def _draw(self, rng) -> dict[str, np.ndarray]:
    p, count = self.polyphony, int(rng.integers(1, self.polyphony + 1))
    mask = np.arange(p) < count
    u = rng.random((6, p))
    lo, hi = np.log2(self.lo_hz), np.log2(self.hi_hz)
    # Semitones of the tempered scale around 440 Hz, detuned by up to 20 cents.
    semitones = np.round(12 * (lo + (hi - lo) * u[1] - np.log2(440)))
    hz = 440 * 2 ** ((semitones + rng.uniform(-0.2, 0.2, p)) / 12)
    # Half of all mixtures begin at once, as music and speech recordings do; others anywhere.
    onset = np.sort(u[2] * 0.8 * self.secs)
    onset[0] *= rng.random() < 0.5
    columns = {
      "note_kind": np.array([KINDS.index(k) for k in self.kinds])[
        (u[0] * len(self.kinds)).astype(int)
      ],
      "note_hz": np.clip(hz, self.lo_hz, self.hi_hz),
      "note_onset_secs": np.where(mask, onset, 0),
      "note_decay_secs": 0.03 * 2 ** (5 * u[3]),  # 30 ms to 1 s
      "note_velocity": 0.2 + 0.8 * u[4],
      "note_brightness": u[5],
    }
    out = {k: np.where(mask, v, 0).astype(np.float32) for k, v in columns.items()}
    out["note_kind"] = out["note_kind"].astype(np.int32)
    return {**out, "note_mask": mask}

  def _add(self, wav, note, rng) -> None:
    """Adds one event to f32[T,C]."""
    onset = int(note["note_onset_secs"] * self.sr)
    decay = float(note["note_decay_secs"])
    # What has fallen below -75 dB is silence: nothing is computed there.
    n = min(len(wav) - onset, int(9 * decay * self.sr) + 64)
    t = np.arange(n, dtype=np.float32) / np.float32(self.sr)
    sound = _RENDER[KINDS[note["note_kind"]]](t, note, decay, self.sr, rng)
    sound *= np.float32(0.5 * note["note_velocity"])
    if self.channels == 1:
      wav[onset : onset + n, 0] += sound
    else:
      angle = rng.uniform(0, np.pi / 2)  # equal power between left and right
      wav[onset : onset + n] += sound[:, None] * np.float32([np.cos(angle), np.sin(angle)])


def _saw(t, note, decay, sr, rng):
  hz = float(note["note_hz"])
  vibrato = 1 + rng.uniform(0, 0.006) * np.sin(2 * np.pi * rng.uniform(4, 7) * t)
  cycles = synth.phase((hz * vibrato).astype(np.float32), sr)
  count = min(int(0.48 * sr / (1.006 * hz)), 400)
  sound = synth.saw(cycles, count, 0.6 + 0.39 * float(note["note_brightness"]))
  return sound * _envelope(t, decay, rng.uniform(0.003, 0.03))


def _fm(t, note, decay, sr, rng):
  hz = float(note["note_hz"])
  ratio = float(rng.choice((1, 2, 3, 0.5, 1.41)))
  # Carson's rule: energy ends near hz + (index + 1) ratio hz, which must stay below Nyquist.
  room = (0.48 * sr - hz) / (ratio * hz) - 1
  index = min(0.3 + 5 * float(note["note_brightness"]), max(room, 0.0))
  cycles = synth.phase(np.full_like(t, hz), sr)
  envelope = _envelope(t, decay, rng.uniform(0.002, 0.02))
  return synth.fm(cycles, ratio, np.float32(index) * envelope) * envelope


def _pluck(t, note, decay, sr, rng):
  hz = float(note["note_hz"])
  burst = rng.standard_normal(max(int(sr / hz), 2), dtype=np.float32)
  # A soft pluck excites fewer harmonics: mix the burst with its running mean.
  soft = np.convolve(burst, np.ones(4, np.float32) / 4, "same")
  b = np.float32(note["note_brightness"])
  burst, soft = burst - burst.mean(), soft - soft.mean()  # the loop would keep a constant for long
  sound = synth.pluck(b * burst + (1 - b) * soft, len(t), hz, decay, sr)
  return sound * np.float32(0.8 / max(float(np.abs(sound).max()), 1e-3)) * _fade(t)


def _modal(t, note, decay, sr, rng):
  ratios = _MODES[rng.integers(len(_MODES))] * rng.uniform(0.995, 1.005, 5).astype(np.float32)
  hz = np.float32(note["note_hz"]) * ratios
  order = np.arange(5, dtype=np.float32)
  amps = (0.25 + 0.65 * np.float32(note["note_brightness"])) ** order
  amps *= (hz < 0.48 * sr) / amps.sum()
  sound = synth.modal(t, hz, np.float32(decay) / (1 + 0.7 * order), amps.astype(np.float32))
  return sound * _envelope(t, 1e9, 0.001)


def _noise(t, note, decay, sr, rng):
  # Brightness places the band anywhere from the note's pitch to near the Nyquist frequency.
  top = np.log2(0.4 * sr / note["note_hz"])
  centre = float(note["note_hz"] * 2 ** (top * note["note_brightness"]))
  size = 1 << (len(t) - 1).bit_length()  # a power of two: a prime length would cost ten times more
  noise = rng.standard_normal(size, dtype=np.float32)
  sound = synth.band_noise(noise, centre, rng.uniform(0.3, 1.5), sr)[: len(t)]
  sound *= np.float32(0.25 / max(float(np.sqrt(np.mean(sound**2))), 1e-6))
  return sound * _envelope(t, decay * 0.5, 0.002)


_RENDER = {"saw": _saw, "fm": _fm, "pluck": _pluck, "modal": _modal, "noise": _noise}


def _envelope(t, decay, attack):
  return synth.decay(t, float(attack), float(decay)) * _fade(t)


def _fade(t):
  """The last 5 ms fall to zero where a note ends before the example does."""
  end = float(t[-1])
  return synth.gate(t, max(end - 0.005, 0), 0.005)


def _check(what, got, choices):
  if got not in choices:
    near = difflib.get_close_matches(got, choices, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise ValueError(f'worlds.notes: no {what} "{got}".{hint} Expected {", ".join(choices)}.')
