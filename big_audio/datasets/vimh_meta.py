"""What `vimh_dataset_info.json` says of a VIMH data set: pictures, parameters, sound.

A VIMH data set ("variable image, multiple heads") is a folder with the binary files `train` and
`test` (see `datasets.vimh_records`), perhaps their pickled twins, and this JSON file. A label byte
q of a parameter stands for min + q/255 (max - min); a head that classifies has one class for each
`step`, as many as fit between min and max.
"""

import difflib
import json
import reprlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

FILE = "vimh_dataset_info.json"
MAX_BYTES = 2**24  # of the JSON file
RESERVED = ("image", "spec_scale", "labels", "id")  # other keys of items
# What is claimed may be anything; these are far beyond what anybody has.
MAX_PIXELS = 2**24  # of one picture
MAX_ITEMS = 2**31  # of a file
MAX_SAMPLES = 2**27  # of a sound
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxlist, _REPR.maxdict = 2, 6, 3


@dataclass(frozen=True)
class Parameter:
  """A synthesiser parameter that varies within a data set.

  Attributes:
    name: as in the JSON file.
    min, max: range in physical units, min < max.
    step: distance of neighbouring classes, above 0.
    description: free text.
  """

  name: str
  min: float
  max: float
  step: float
  description: str = ""

  def count(self, classes: str | int = "step") -> int:
    """K, the number of classes: one for each step, round((max-min)/step) + 1, or 256 (bytes)."""
    if classes == "step":
      return round((self.max - self.min) / self.step) + 1
    if classes == 256 and not isinstance(classes, bool):
      return 256
    raise ValueError(f'vimh: classes={classes!r}: expected "step" or 256.')

  @property
  def whole(self) -> bool:
    """Whether the steps end at max."""
    steps = (self.max - self.min) / self.step
    return abs(steps - round(steps)) < 1e-6 * max(steps, 1)

  def encode(self, values) -> np.ndarray:
    """Physical values -> u8 bytes: 255 (v-min)/(max-min) cut (not rounded) to an integer.

    So a byte decodes to half a 255th below its value on average, and only max itself gives 255.
    """
    share = (np.asarray(values, np.float64) - self.min) / (self.max - self.min)
    return np.clip((255 * share).astype(np.int64), 0, 255).astype(np.uint8)

  def decode(self, quantised) -> np.ndarray:
    """u8 bytes -> f64 physical values, min + q/255 (max - min)."""
    return self.min + np.asarray(quantised, np.float64) / 255 * (self.max - self.min)

  def to_class(self, quantised, classes: str | int = "step") -> np.ndarray:
    """u8 bytes -> i32 classes in [0, K): the nearest step, a half goes to the even one."""
    if classes == 256:
      return np.asarray(quantised).astype(np.int32)
    at = np.round((self.decode(quantised) - self.min) / self.step)
    return np.clip(at, 0, self.count(classes) - 1).astype(np.int32)

  def values(self, classes: str | int = "step") -> np.ndarray:
    """f64[K]: the physical value that each class stands for, none above max."""
    if classes == 256:
      return self.decode(np.arange(256))
    return np.minimum(self.min + self.step * np.arange(self.count(classes)), self.max)


@dataclass(frozen=True)
class Metadata:
  """A data set's description, checked.

  Attributes:
    height, width, channels: of the pictures.
    parameters: those that vary; their place is their id in the records.
    fixed: {name: value} of all others.
    sr: of the sounds, Hz; secs: their length; voice: what made them ("simple": saw and filter).
    train, test: number of items.
    header_bytes: in front of a record's labels: 14, or 6 of the older layout without dB range;
      None where the file does not say.
    raw: the JSON object as it is.
    where: the file, for messages.
  """

  height: int
  width: int
  channels: int
  parameters: tuple[Parameter, ...]
  fixed: Mapping[str, float]
  sr: float
  secs: float
  voice: str
  train: int
  test: int
  header_bytes: int | None
  raw: Mapping[str, Any] = field(repr=False)
  where: str = "metadata"

  @property
  def names(self) -> tuple[str, ...]:
    """Names of the varying parameters in the order of their ids."""
    return tuple(p.name for p in self.parameters)

  @property
  def pixels(self) -> int:
    """Bytes of one picture."""
    return self.height * self.width * self.channels

  def heads(self, classes: str | int = "step") -> dict[str, int]:
    """{parameter: number of classes}, in the order of ids."""
    return {p.name: p.count(classes) for p in self.parameters}

  def parameter(self, name: str) -> Parameter:
    """The varying parameter of that name; raises ValueError with the nearest names."""
    for p in self.parameters:
      if p.name == name:
        return p
    near = difflib.get_close_matches(name, self.names) or self.names
    raise ValueError(f"{self.where}: no parameter {name!r} varies. There are {', '.join(near)}.")


def read(folder) -> Metadata:
  """The metadata of a data set's folder; nothing is ever written.

  Raises:
    ValueError: no such folder or file, not JSON, or `parse` refuses it.
  """
  path = Path(folder).expanduser() / FILE
  try:
    if (size := path.stat().st_size) > MAX_BYTES:
      raise ValueError(f"{size} bytes, and no description has more than {MAX_BYTES}")
    raw = json.loads(path.read_text(encoding="utf-8"))
  except OSError as e:
    raise ValueError(
      f"{path} cannot be read: {e.strerror}. A VIMH data set is a folder with {FILE} and the files "
      "train and test; make one with python -m big_audio.tools.make_vimh generate."
    ) from None
  except (ValueError, RecursionError) as e:
    raise ValueError(f"{path} is not JSON: {e}.") from None
  return parse(raw, where=str(path))


def parse(raw: Mapping[str, Any], *, where: str = "metadata") -> Metadata:
  """Checks a JSON object of the format and takes out what is needed.

  Keys that are not known, such as the `num_classes` that other readers add, are left alone.

  Raises:
    ValueError: a missing key, a value of the wrong kind or out of range, a varying parameter
      without a range; names the place.
  """
  if not isinstance(raw, Mapping):
    raise ValueError(f"{where}: expected a JSON object, got {type(raw).__name__}.")
  height, width, channels = (
    _whole(where, raw, k, 1, 65535) for k in ("height", "width", "channels")
  )
  if height * width * channels > MAX_PIXELS:
    raise ValueError(
      f"{where}: pictures of {height}x{width}x{channels} are beyond {MAX_PIXELS} bytes."
    )
  names = _get(where, raw, "parameter_names", list)
  short = all(isinstance(n, str) and len(n) <= 100 for n in names)
  if not names or not short or len(set(names)) != len(names):
    raise ValueError(
      f"{where}: parameter_names must hold different names (100 letters at most), got "
      f"{shown(names)}."
    )
  taken = [n for n in names if n in RESERVED or "/" in n or not n or n[0] == "_"]
  if taken:
    raise ValueError(
      f"{where}: a parameter cannot be called {taken[0]!r}: items have {', '.join(RESERVED)} and "
      "<parameter>/value beside the parameters."
    )
  if len(names) > 255:
    raise ValueError(f"{where}: {len(names)} parameters; a record counts them in one byte.")
  if _whole(where, raw, "varying_parameters", 1, 255) != len(names):
    raise ValueError(
      f"{where}: varying_parameters={raw['varying_parameters']}, but parameter_names has "
      f"{len(names)}."
    )
  mappings = _get(where, raw, "parameter_mappings", Mapping)
  fixed = raw.get("fixed_parameters", {})
  if not isinstance(fixed, Mapping):
    raise ValueError(f"{where}: fixed_parameters must be an object, got {shown(fixed)}.")
  encoding = raw.get("label_encoding", {})
  if not isinstance(encoding, Mapping):
    raise ValueError(f"{where}: label_encoding must be an object, got {shown(encoding)}.")
  stated = encoding.get("metadata_bytes")
  if stated not in (None, 3, 6, 14):
    raise ValueError(
      f"{where}: label_encoding.metadata_bytes={shown(stated)}: expected 14, or 3 or 6."
    )
  sr, secs = (_number(where, raw, k) for k in ("sample_rate", "duration"))
  if not (sr > 0 and secs > 0 and sr * secs <= MAX_SAMPLES):
    raise ValueError(
      f"{where}: sample_rate={sr:g} and duration={secs:g}: expected numbers above 0, and no more "
      f"than {MAX_SAMPLES} samples."
    )
  return Metadata(
    height=height,
    width=width,
    channels=channels,
    parameters=tuple(_parameter(where, n, mappings) for n in names),
    fixed={n: _number(f"{where}: fixed_parameters.{n:.100}", v, "value") for n, v in fixed.items()},
    sr=sr,
    secs=secs,
    voice=_get(where, raw, "synth_type", str),
    train=_whole(where, raw, "train_samples", 0, MAX_ITEMS),
    test=_whole(where, raw, "test_samples", 0, MAX_ITEMS),
    header_bytes=None if stated is None else (14 if stated == 14 else 6),
    raw=raw,
    where=where,
  )


def _parameter(where, name, mappings):
  if name not in mappings or not isinstance(mappings[name], Mapping):
    near = difflib.get_close_matches(name, list(mappings)) or list(mappings)[:5]
    there = ", ".join(n[:100] for n in near) or "nothing"
    raise ValueError(f"{where}: parameter_mappings has no {name!r}. It has {there}.")
  at = f"{where}: parameter_mappings.{name}"
  lo, hi = (_number(at, mappings[name], k) for k in ("min", "max"))
  if not lo < hi:
    raise ValueError(f"{at}: expected min < max of a parameter that varies, got [{lo}, {hi}].")
  # Sixteen steps are what generators of the format take where none is given.
  step = _number(at, mappings[name], "step") if "step" in mappings[name] else (hi - lo) / 16
  if not step > 0 or (hi - lo) / step > 65535:
    raise ValueError(f"{at}: step={step} does not divide [{lo}, {hi}] into classes.")
  text = mappings[name].get("description")
  return Parameter(name, lo, hi, step, text if isinstance(text, str) else "")


def shown(value: Any) -> str:
  """A value of a file in a message: short, whatever it is."""
  try:
    return f"{_REPR.repr(value):.120}"
  except ValueError:  # whole numbers of thousands of digits
    return f"a huge {type(value).__name__}"


def _get(where, raw, key, kind):
  if key not in raw:
    near = difflib.get_close_matches(key, list(raw))
    hint = f" Did {near[0]!r} mean to be it?" if near else ""
    raise ValueError(f"{where}: the key {key!r} is missing.{hint}")
  if not isinstance(raw[key], kind):
    raise ValueError(f"{where}: {key} must be {kind.__name__}, got {shown(raw[key])}.")
  return raw[key]


def _number(where, raw, key):
  if not isinstance(raw, Mapping):
    raise ValueError(f"{where}: expected an object with {key!r}, got {shown(raw)}.")
  value = _get(where, raw, key, object)
  number = isinstance(value, int | float) and not isinstance(value, bool)
  if not number or not abs(value) <= sys.float_info.max:
    raise ValueError(f"{where}: {key} must be a finite number, got {shown(value)}.")
  return float(value)


def _whole(where, raw, key, lo, hi):
  value = _get(where, raw, key, object)
  if isinstance(value, bool) or not isinstance(value, int) or not lo <= value <= hi:
    raise ValueError(f"{where}: {key} must be a whole number in [{lo}, {hi}], got {shown(value)}.")
  return value
