"""Finds a source by name and builds it with arguments that are checked by name."""

import difflib
import importlib
import importlib.util
import inspect
import pkgutil
from typing import Any, Protocol


class DataSource(Protocol):
  """Random access to examples: item i is the same whenever and wherever it is read."""

  def __len__(self) -> int: ...

  def __getitem__(self, i: int) -> dict[str, Any]: ...


def build(source: str, where: str = "source", /, **kwargs) -> DataSource:
  """Builds `Source(**kwargs)` of the module that `source` names.

  Args:
    source: `audio_dir` or `worlds.notes` for a module in `big_audio/datasets`; a name that begins
      with `proj.` is a module as it stands.
    where: how error messages call the place, e.g. `config.input.data.fsdd`.
    **kwargs: arguments of the module's `Source`.

  Raises:
    ValueError: no such module or argument (with the nearest names); a source without examples.
  """
  module = _module(source, where)
  signature = inspect.signature(module.Source)
  try:
    signature.bind(**kwargs)
  except TypeError as e:
    known = [n for n in signature.parameters if n not in ("source", "weight", "pp")]
    unknown = [k for k in kwargs if k not in known]
    near = difflib.get_close_matches(unknown[0], known) if unknown else []
    hint = f" Did you mean {', '.join(near)}?" if near else ""
    raise ValueError(f"{where}: {source}: {e}.{hint} Its arguments are {signature}.") from None
  built = module.Source(**kwargs)
  if len(built) == 0:
    raise ValueError(f'{where}: source "{source}" has no examples with {kwargs}.')
  return built


def default_split(source: str) -> str | None:
  """The split of a source where its config names none; None where it has no splits."""
  found = inspect.signature(_module(source, "source").Source).parameters.get("split")
  return None if found is None or found.default is inspect.Parameter.empty else found.default


def _module(source: str, where: str):
  name = source if source.startswith("proj.") else f"big_audio.datasets.{source}"
  try:
    module = importlib.import_module(name)
  except ModuleNotFoundError as e:
    # Only a missing source is the config's mistake; a source that misses its own import is not.
    if e.name is None or not (name == e.name or name.startswith(e.name + ".")):
      raise
    known = names()
    near = difflib.get_close_matches(source, known)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(
      f'{where}: no source "{source}".{hint} There are {", ".join(known)}.'
    ) from None
  if not hasattr(module, "Source"):
    raise ValueError(f"{where}: module {name} has no class Source. There are {', '.join(names())}.")
  return module


def names() -> list[str]:
  """Names of the sources in `big_audio/datasets`."""
  import big_audio.datasets as package

  prefix = package.__name__ + "."
  helpers = {
    "audio", "audio_av", "build", "chunks", "collate", "data_sets", "errors", "manifest", "pk",
    "records", "splits", "stratified", "synths", "synth_images", "synth_render", "synth_sampling",
    "vimh_meta", "vimh_records", "vimh_pickle", "vimh_write", "vimh_name", "vimh_check",
    "vimh_convert",
  }  # fmt: skip
  found = [
    m.name.removeprefix(prefix)
    for m in pkgutil.walk_packages(package.__path__, prefix)
    if not m.ispkg
  ]
  return sorted(n for n in found if n not in helpers)
