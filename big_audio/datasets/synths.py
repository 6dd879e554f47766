"""Named recipes of synthesised data sets: a voice, ranges of its parameters, and the pictures.

A recipe holds everything that the bytes of a data set depend on, so equal recipes are equal data.
The four named after NSMT's configurations have their numbers.
"""

import dataclasses
import difflib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from big_audio.datasets import vimh_meta, vimh_name, vimh_write
from big_audio.datasets.synth_images import Spectrogram
from big_audio.datasets.synth_sampling import check_grid, check_method, train_items
from big_audio.datasets.vimh_meta import Metadata, Parameter
from big_audio.dsp.voices import VOICES, note_hz

SEED = 12345
_PREFIX = "synth/generate_"  # in NSMT's names of its configurations
_LARGE = "_large"

_PERIODS = Spectrogram("stft", n_fft=80, n_window=80, hop=80, window="rectangular")  # of 100 Hz
_MELS = Spectrogram("mel", n_fft=512, n_window=256, hop=240, window="hann")  # 32 frames of 1 s


@dataclass(frozen=True)
class Recipe:
  """What a data set is made of; `build` makes checked ones.

  Attributes:
    name: of the recipe.
    voice: a key of `dsp.voices.VOICES`.
    parameters: of the voice, in the order in which they are drawn; min == max: fixed.
    height, width: of the pictures; channels: copies of the picture, 1 or 3 (1 with envelopes).
    sr: Hz; secs: length of the sounds (s).
    size: items, train and test.
    spectrogram: how sounds become pictures; pre_emphasis: coefficient before that, 0 is none.
    temporal, spectral: planes of envelopes behind the picture; normalize, joint_scaling: see
      `synth_images.envelopes`.
    seed, sampling, jitter: see `synth_sampling.draw`.
    shuffle: permute the items before the last fifth becomes the test split. None: yes for "grid",
      whose last fifth would else have values that the rest lacks.
  """

  name: str
  voice: str
  parameters: tuple[Parameter, ...]
  height: int = 32
  width: int = 32
  channels: int = 1
  sr: int = 8000
  secs: float = 1.0
  size: int = 256
  spectrogram: Spectrogram = _PERIODS
  pre_emphasis: float = 0.0
  temporal: bool = False
  spectral: bool = False
  normalize: bool = False
  joint_scaling: bool = False
  seed: int = SEED
  sampling: str = "legacy"
  jitter: float = 0.0
  shuffle: bool | None = None

  @property
  def varying(self) -> tuple[Parameter, ...]:
    """The parameters that are drawn; their place is their id."""
    return tuple(p for p in self.parameters if p.min != p.max)

  @property
  def planes(self) -> int:
    """Channels of the pictures with envelopes."""
    return 1 + self.temporal + self.spectral if self.temporal or self.spectral else self.channels

  @property
  def shuffled(self) -> bool:
    """Whether items are permuted."""
    return self.sampling == "grid" if self.shuffle is None else self.shuffle

  @property
  def samples(self) -> int:
    """Samples of a sound that its picture shows; no others are made for it."""
    return min(int(self.secs * self.sr), self.spectrogram.samples(self.width))

  def metadata_json(self, pickle: bool = False) -> dict[str, Any]:
    """The content of the data set's `vimh_dataset_info.json`; keys of our own come last."""
    spec, train = self.spectrogram, train_items(self.size)
    planes = vimh_name.planes(self._labels())
    suffixes = [planes] * bool(planes) + ["shuffled"] * self.shuffled
    raw = vimh_write.metadata_json(
      height=self.height,
      width=self.width,
      channels=self.planes,
      channel_labels=self._labels(),
      parameters=self.parameters,
      train=train,
      test=self.size - train,
      sr=self.sr,
      secs=self.secs,
      spectrogram={
        "sample_rate": self.sr,
        "type": spec.type,
        "n_fft": spec.n_fft,
        "n_window": spec.n_window,
        "hop_length": spec.hop,
        "window_type": spec.window,
        "bins_per_harmonic": 1.0,
        "n_bins": self.height,
        # A name and no more: NSMT writes it beside the same plain spectrogram.
        "method": "efficient_leaf",
      },
      mel={"freq_min": float(spec.freq_min), "freq_max_ratio": float(spec.freq_max_ratio)},
      voice=self.voice,
      pre_emphasis=self.pre_emphasis,
      suffixes=suffixes,
      pickle=pickle,
    )
    ours: dict[str, Any] = {"recipe": self.name, "seed": self.seed, "sampling": self.sampling}
    if self.sampling == "grid":
      ours["jitter"] = float(self.jitter)
    if self.temporal or self.spectral:
      ours["scaling"] = "joint" if self.joint_scaling else "per plane"
    return raw | {"generator": ours}

  def metadata(self) -> Metadata:
    """The data set's metadata."""
    return vimh_meta.parse(self.metadata_json(), where=f"synth {self.name!r}")

  def _labels(self) -> Sequence[str]:
    if not (self.temporal or self.spectral):
      return ["Gray"] if self.channels == 1 else ["R", "G", "B"]
    first = "Gray_normalized" if self.normalize else "Gray"
    return (
      [first]
      + ["Gray_temporal_envelope"] * self.temporal
      + ["Gray_spectral_envelope"] * self.spectral
    )


def build(name: str, /, **overrides: Any) -> Recipe:
  """The recipe of that name with other values in it.

  Args:
    name: a key of RECIPES; `NAME_large` has 64 times as many items; NSMT's
      "synth/generate_NAME" is the same as NAME.
    **overrides: fields of Recipe. `parameters` is {name: value, (min, max) or (min, max, step)},
      put in place of these alone (16 steps where none is given; what the recipe does not have comes
      last); `spectrogram` is a Spectrogram or {field: value} put in place of these alone.

  Raises:
    ValueError: an unknown name, a value out of its range, pictures larger than what the sounds
      fill; with the nearest names.
  """
  if not isinstance(name, str):
    raise ValueError(f"synth: expected the name of a recipe, got {vimh_meta.shown(name)}.")
  short = name.removeprefix(_PREFIX)
  base = short.removesuffix(_LARGE)
  _known("synth", base, RECIPES, name)
  recipe = RECIPES[base]
  if short != base:
    recipe = dataclasses.replace(recipe, name=short, size=64 * recipe.size)
  where = f"synth {short!r}"
  fields = [f.name for f in dataclasses.fields(Recipe) if f.name not in ("name", "voice")]
  for key in overrides:
    _known(f"{where}: argument", key, fields)
  if "parameters" in overrides:
    overrides["parameters"] = _replaced(where, recipe, overrides["parameters"])
  spectrogram = overrides.get("spectrogram", recipe.spectrogram)
  if isinstance(spectrogram, Mapping):
    for key in spectrogram:
      _known(f"{where}: spectrogram", key, [f.name for f in dataclasses.fields(Spectrogram)])
    overrides["spectrogram"] = dataclasses.replace(recipe.spectrogram, **spectrogram)
  elif not isinstance(spectrogram, Spectrogram):
    raise ValueError(
      f"{where}: spectrogram={vimh_meta.shown(spectrogram)}: expected {{field: value}} or a "
      "Spectrogram."
    )
  recipe = dataclasses.replace(recipe, **overrides)
  _check(where, recipe)
  return recipe


def _replaced(where, recipe, changes):
  """The recipe's parameters with some of other ranges."""
  if not isinstance(changes, Mapping):
    raise ValueError(
      f"{where}: parameters={vimh_meta.shown(changes)}: expected {{name: value, (min, max) or "
      "(min, max, step)}."
    )
  known = VOICES[recipe.voice].parameters
  out = {p.name: p for p in recipe.parameters}
  for name, value in changes.items():
    _known(f"{where}: parameter", name, known)
    numbers = tuple(value) if isinstance(value, Sequence) else (value, value, 0.0)
    if len(numbers) not in (2, 3) or not all(map(_number, numbers)):
      raise ValueError(
        f"{where}: {name}={vimh_meta.shown(value)}: expected a number (fixed), (min, max) or (min, "
        "max, step)."
      )
    text = out[name].description if name in out else known[name].text
    out[name] = _parameter(name, *numbers, text=text)
  return tuple(out.values())


def _check(where, r):
  check_method(where, r.sampling, r.jitter)
  least = dict(height=1, width=1, size=2, sr=1, seed=0)
  most = dict(height=65535, width=65535, size=vimh_meta.MAX_ITEMS, sr=10**6, seed=2**32 - 1)
  for key in least:
    value = getattr(r, key)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not least[key] <= value <= most[key]:
      raise ValueError(
        f"{where}: {key}={vimh_meta.shown(value)}: expected a whole number of {least[key]} to "
        f"{most[key]}."
      )
  if not _number(r.secs) or not 1 <= r.secs * r.sr <= vimh_meta.MAX_SAMPLES:
    raise ValueError(
      f"{where}: secs={vimh_meta.shown(r.secs)}: expected seconds of 1 to {vimh_meta.MAX_SAMPLES} "
      f"samples at {r.sr} Hz."
    )
  for key in ("temporal", "spectral", "normalize", "joint_scaling", "shuffle"):
    value = getattr(r, key)
    if not isinstance(value, bool) and not (key == "shuffle" and value is None):
      raise ValueError(f"{where}: {key}={vimh_meta.shown(value)}: expected True or False.")
  if isinstance(r.channels, bool) or r.channels not in (1, 3):
    raise ValueError(f"{where}: channels={vimh_meta.shown(r.channels)}: expected 1 or 3.")
  if (r.temporal or r.spectral) and r.channels != 1:
    raise ValueError(f"{where}: envelopes go with channels=1, got {r.channels}.")
  if (r.normalize or r.joint_scaling) and not (r.temporal or r.spectral):
    raise ValueError(f"{where}: normalize and joint_scaling need a plane of an envelope.")
  if not _number(r.pre_emphasis) or not 0 <= r.pre_emphasis <= 1:
    raise ValueError(
      f"{where}: pre_emphasis={vimh_meta.shown(r.pre_emphasis)}: expected a number in [0,1]."
    )
  if not r.varying:
    raise ValueError(f"{where}: no parameter varies.")
  if r.height * r.width * r.planes > vimh_meta.MAX_PIXELS:
    raise ValueError(
      f"{where}: pictures of {r.height}x{r.width}x{r.planes} are beyond {vimh_meta.MAX_PIXELS} "
      "bytes."
    )
  for p in r.parameters:
    _check_parameter(where, p, r)
  if r.sampling == "grid":
    check_grid(where, r.varying, r.size, r.jitter)
  r.spectrogram.check(where, r.height, r.width, int(r.secs * r.sr), r.sr)


def _check_parameter(where, p, r):
  voice = VOICES[r.voice]
  _known(f"{where}: parameter", p.name, voice.parameters)
  control = voice.parameters[p.name]
  if p.min > p.max or (p.min < p.max and not 0 < p.step <= p.max - p.min):
    raise ValueError(
      f"{where}: {p.name}: expected min <= max and 0 < step <= max - min, got [{p.min}, {p.max}] "
      f"and {p.step}."
    )
  if not control.low <= p.min <= p.max <= control.high:
    raise ValueError(
      f"{where}: {p.name} ({control.text}): expected a range in [{control.low:g},"
      f"{control.high:g}], got [{p.min:g}, {p.max:g}]."
    )
  if control.whole and (p.min < p.max or not p.min.is_integer()):
    raise ValueError(
      f"{where}: {p.name} ({control.text}): expected one whole number for all items, got "
      f"[{p.min:g}, {p.max:g}]."
    )
  if p.name == "note_number":
    lowest, highest = note_hz(p.min), note_hz(p.max)
    if not (voice.lowest_hz <= lowest and highest < r.sr / 2):
      raise ValueError(
        f"{where}: {p.name}: notes of {lowest:.6g} to {highest:.6g} Hz; voice {r.voice!r} has "
        f"those of {voice.lowest_hz:g} Hz to below sr/2 = {r.sr / 2:g} Hz."
      )


def _number(value):
  return (
    isinstance(value, int | float)
    and not isinstance(value, bool)
    and abs(value) <= sys.float_info.max
  )


def _known(what, name, names, shown=None):
  if name not in names:
    near = difflib.get_close_matches(str(name), list(names)) or list(names)
    raise ValueError(f"{what}: no {shown or name!r}. Nearest: {', '.join(near[:12])}.")


def _parameter(name, lo, hi=None, step=None, *, text=""):
  hi = lo if hi is None else hi
  step = (hi - lo) / 16 if step is None else step
  return Parameter(name, float(lo), float(hi), float(step) if lo != hi else 0.0, text)


def _parameters(voice, **ranges):
  """Ranges as Parameters. Voices of our own are described; NSMT writes no more than names."""
  known = VOICES[voice].parameters
  texts = {"note_number": "MIDI note number (fixed at 100 Hz)",
           "filter_enabled": "Enable Moog VCF filter",
           "filter_env_sustain": "Filter envelope sustain level (0-1) - full",
           "filter_env_amount": "Filter envelope depth (octaves) - disabled"}  # fmt: skip
  out = []
  for name, numbers in ranges.items():
    numbers = numbers if isinstance(numbers, tuple) else (numbers,)
    fixed = len(numbers) == 1
    text = (texts[name] if fixed else "") if voice == "simple" else known[name].text
    out.append(_parameter(name, *numbers, text=text))
  return tuple(out)


RECIPES: dict[str, Recipe] = {
  r.name: r
  for r in (
    Recipe(
      "simple_saw",
      "simple",
      _parameters(
        "simple",
        note_number=43.35,
        note_velocity=(126, 127, 0.5),
        log10_decay_time=(-2, 0.3, 0.1),
      ),
    ),
    Recipe(
      "moog_basic",
      "simple",
      _parameters(
        "simple",
        note_number=43.35,
        note_velocity=(100, 127, 5),
        log10_decay_time=(-1, 0, 0.1),
        filter_enabled=1,
        filter_cutoff=(200, 2000, 100),
        filter_resonance=(0, 0.9, 0.1),
      ),
    ),
    Recipe(
      "moog_envelope",
      "simple",
      _parameters(
        "simple",
        note_number=(36, 60, 12),
        note_velocity=(100, 127, 10),
        log10_decay_time=(0, 0.6, 0.15),
        filter_enabled=1,
        filter_cutoff=(80, 400, 40),
        filter_resonance=(0.3, 0.85, 0.1),
        filter_env_attack=(0, 0.3, 0.05),
        filter_env_decay=(0.1, 1.5, 0.1),
        filter_env_sustain=(0, 0.6, 0.1),
        filter_env_release=(0.1, 1, 0.1),
        filter_env_amount=(1, 4, 0.5),
      ),
      width=64,
      secs=2.0,
      size=512,
      spectrogram=Spectrogram(n_fft=128, n_window=64, hop=32, window="hann"),
    ),
    Recipe(
      "moog_resonance",
      "simple",
      _parameters(
        "simple",
        note_number=(40, 54, 7),
        note_velocity=(110, 127, 5),
        log10_decay_time=(-0.5, 0.5, 0.2),
        filter_enabled=1,
        filter_cutoff=(200, 1400, 150),
        filter_resonance=(0.5, 0.95, 0.05),
        filter_env_attack=(0, 0.01),
        filter_env_decay=(0, 0.1),
        filter_env_sustain=1,
        filter_env_release=(0, 0.05),
        filter_env_amount=0,
      ),
      height=48,
      width=48,
      secs=1.5,
      size=384,
      spectrogram=Spectrogram(n_fft=256, n_window=128, hop=32, window="hann"),
    ),
    Recipe(
      "fm",
      "fm",
      _parameters(
        "fm",
        note_number=(45, 69, 1),
        note_velocity=100,
        log10_decay_time=(-1, 0, 0.1),
        fm_ratio=(0.5, 4, 0.5),
        fm_index=(0, 8, 1),
        log10_index_decay_time=(-1, 0, 0.25),
      ),
      spectrogram=_MELS,
    ),
    Recipe(
      "additive",
      "additive",
      _parameters(
        "additive",
        note_number=(36, 60, 1),
        note_velocity=100,
        log10_decay_time=(-1, 0, 0.1),
        rolloff_db=(0, 18, 3),
        even_level=(0, 1, 0.1),
      ),
      spectrogram=_MELS,
    ),
    Recipe(
      "pluck",
      "pluck",
      _parameters(
        "pluck",
        note_number=(36, 72, 1),
        note_velocity=(64, 127, 9),
        log10_decay_time=(-1, 0.3, 0.1),
        brightness=(0, 1, 0.1),
        excitation_seed=0,
      ),
      spectrogram=_MELS,
    ),
  )
}
