"""Data sets of a config: sources with their weight and preprocessing.

    data = {"clips": dict(source="tracks", ..., weight=1.0, once="fbank", pp="warp_fbank(.2)|...")}

`once` are operations in front of `pp` that are run a single time for each item; their results stay
in memory, of each loader process. What is drawn at random belongs into `pp`.
"""

import difflib
import threading
from collections.abc import Mapping

import numpy as np

from big_audio.datasets import build as sources
from big_audio.datasets.errors import DecodeError
from big_audio.pp import builder

MOST_BYTES = 4 * 2**30  # that `once` may keep of a data set


class Opened:
  """A source with its weight and preprocessing; the latter is rebuilt after pickling.

  Attributes:
    name: of the data set; weight: its share of a mixture.
    source: see `datasets.build`.
  """

  def __init__(self, name: str, source, weight: float, pp: str, once: str = ""):
    self.name, self.source, self.weight, self._texts = name, source, weight, (pp, once)
    try:
      self._pp = builder.build(pp)
      self._once = builder.build(once) if once else None
    except ValueError as e:
      raise ValueError(f"config.input.data.{name}.{e}") from e
    self._kept: dict[int, dict] = {}
    self._bytes, self._lock = 0, threading.Lock()

  def __reduce__(self):
    return Opened, (self.name, self.source, self.weight, *self._texts)

  def example(self, i: int, rng: np.random.Generator) -> dict:
    """Item i, preprocessed and read into arrays.

    Raises:
      DecodeError: it cannot be read; carries the item's name as `item`.
      ValueError: an operation cannot take it, or `once` keeps too much.
    """
    item = i
    try:
      example = self._kept.get(i)
      if example is None:
        example = self.source[i]
        item = example.get("id", i)
        if self._once:
          # Of the item alone: whoever reads it first, and after a resume, gets the same.
          example = _read(self._once(example, np.random.default_rng(i)))
          self._keep(i, example)
      return _read(self._pp(example, rng))
    except DecodeError as e:
      e.item = str(item)
      raise
    except ValueError as e:
      dot = "." if str(e).startswith("pp: ") else ": "
      raise ValueError(f"config.input.data.{self.name}{dot}{e}") from e

  def _keep(self, i, example):
    for v in example.values():
      if isinstance(v, np.ndarray):
        v.setflags(write=False)
    with self._lock:
      if i in self._kept:  # another thread was quicker, with the same
        return
      self._kept[i] = example
      self._count(example)

  def _count(self, example):
    self._bytes += sum(v.nbytes for v in example.values() if isinstance(v, np.ndarray))
    if self._bytes > MOST_BYTES:
      raise ValueError(
        f"once keeps more than {MOST_BYTES / 2**30:g} GiB after {len(self._kept) - 1} of "
        f"{len(self.source)} items. Move its operations to pp, or prepare the data as files."
      )


def _read(example):
  return {k: v.numpy() if hasattr(v, "read") else v for k, v in example.items()}


def open_one_or_all(data: Mapping) -> list[Opened]:
  """`open_all` of an evaluator's data: one data set, or {name: data set}."""
  return open_all({"data": data} if "source" in data else data)


def open_all(data: Mapping) -> list[Opened]:
  """The data sets of `config.input.data` or of an evaluator, in the order of their names.

  Args:
    data: {name: dict(source, weight=1.0, once="", pp="", **arguments of the source)}.

  Raises:
    ValueError: none, one without a source, an unknown source, argument or operation, or a weight
      that is not above zero.
  """
  if not data:
    raise ValueError("config.input.data is empty: expected {name: dict(source=..., pp=...)}.")
  opened = []
  # By name: the order of a dict does not survive every way of storing a config.
  for name, spec in sorted(data.items()):
    where = f"config.input.data.{name}"
    spec = spec.to_dict() if hasattr(spec, "to_dict") else dict(spec)
    if "source" not in spec:
      near = difflib.get_close_matches("source", spec)
      hint = f' Did you mean "{near[0]}" to be it?' if near else ""
      raise ValueError(f'{where} has no "source", only {", ".join(spec) or "nothing"}.{hint}')
    kind, pp, once = spec.pop("source"), spec.pop("pp", ""), spec.pop("once", "")
    weight = float(spec.pop("weight", 1.0))
    if not 0 < weight < float("inf"):
      raise ValueError(f"{where}.weight must be above zero, got {weight}.")
    opened.append(Opened(name, sources.build(kind, where, **spec), weight, pp, once))
  return opened
