"""Public checkpoints and ours: file -> parameters, parameters -> file.

A family is a module of this package with

  DIALECTS                              tables of keys, those of preferred spelling first
  given(where, config_json) -> dict     what a public config.json says of the model
  described(net) -> dict                what of a model its shapes do not tell
  configure(where, sizes, given)        arguments of the model, from {our name: shape in the file}
  shapes(config, sizes)                 {our name: shape} of all parameters that there must be
  fit(where, params, config, net, how)  the parameters for a network of another size of input
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from big_audio import config as C
from big_audio import trees
from big_audio.convert import table
from big_audio.convert.weights import Weights, write

_README_BYTES = 1 << 20


@dataclass(frozen=True)
class Loaded:
  """What `load` found.

  Attributes:
    params: {"net": parameters of the model, and of its heads where there are any}.
    config: arguments of the model.
    dialect: how the keys are spelt.
    sha256: of the source.
    metadata: {"licence", ...}, all text.
    table: what was mapped, as text.
  """

  params: dict
  config: dict[str, Any]
  dialect: str
  sha256: str
  metadata: dict[str, str]
  table: str


def dialects(family: str) -> list[table.Dialect]:
  """Tables of a family, and last the "native" one with our own names.

  Raises:
    ValueError: no such family.
  """
  found = getattr(C.resolve("convert", family), "DIALECTS", None)
  if found is None:
    raise ValueError(f"convert: {family!r} is not a family of checkpoints.")
  names = dict.fromkeys(n for d in found for r in d.rules for n in r.names)
  groups = frozenset(n.partition("/")[0] for n in names)
  return [*found, table.Dialect("native", tuple(table.Rule(n, n) for n in names), groups)]


def load(
  path: str | os.PathLike,
  family: str,
  *,
  dtype: Any = np.float32,
  config: Mapping[str, Any] | None = None,
) -> Loaded:
  """Parameters from a public checkpoint, or from one that `save` wrote.

  Args:
    path: a .safetensors, .bin, .pt or .pth file, or a folder that holds one (see `Weights`).
    family: name of its table, such as "ast".
    dtype: of the parameters; None keeps that of the file.
    config: what neither the shapes nor a config.json beside the file tell of the model, such as
      its heads; see the family.

  Returns:
    Parameters as numpy arrays, and where they come from.

  Raises:
    ValueError: a damaged file; keys that are missing, unknown or of another shape; a model that
      the shapes do not tell.
  """
  module, tables = C.resolve("convert", family), dialects(family)
  weights = Weights(path)
  where = f"{family} {path}"
  dialect = table.recognise(where, weights, tables)
  found = table.sources(dialect, weights)
  sizes = {name: weights.shape(key) for name, (key, _) in found.items()}
  known = {**module.given(where, weights.config), **_stored(where, weights), **(config or {})}
  kwargs = module.configure(where, sizes, known)
  want = module.shapes(kwargs, sizes)
  flat = table.to_ours(where, weights, dialect, want)
  if dtype is not None:
    flat = {k: v.astype(dtype) for k, v in flat.items()}
  metadata = {k: v for k, v in weights.metadata.items() if k != "format"}
  metadata["licence"] = _licence(weights)
  text = table.summary(found, want)
  return Loaded(trees.unflatten(flat), kwargs, dialect.name, weights.sha256(), metadata, text)


def save(
  path: str | os.PathLike,
  params: Mapping,
  family: str,
  dialect: str = "a",
  *,
  config: Mapping[str, Any] | None = None,
  metadata: Mapping[str, str] | None = None,
) -> None:
  """Writes parameters as a .safetensors file; the inverse of `load`.

  Args:
    path: of the file, which appears when it is complete.
    params: as `load` gives them.
    family: name of the table.
    dialect: one of the family's, or "native": our own names.
    config: arguments of the model; kept in the header, so that `load` need not guess.
    metadata: more for the header, all text.

  Raises:
    ValueError: an unknown dialect, or parameters that it has no keys for.
  """
  path = os.fspath(path)
  where, tables = f"{family} {path}", dialects(family)
  if not path.endswith(".safetensors"):
    raise ValueError(f"{where}: expected a name that ends in .safetensors.")
  same = [d for d in tables if d.name == dialect or d.name.startswith(f"{dialect}.")]
  if not same:
    raise ValueError(
      f"{where}: no dialect {dialect!r}. {C.nearest(dialect, [d.name for d in tables])}"
    )
  exact = [d for d in same if d.name == dialect and "." in dialect]
  fits = exact or [d for d in same if set(params) <= d.writes]
  if not fits:
    raise ValueError(
      f'{where}: dialect "{dialect}" has no keys for all of {sorted(params)}. Use "native".'
    )
  arrays = table.to_theirs(where, trees.flatten(params), fits[0])
  header = {"format": "big_audio" if dialect == "native" else "pt", **(metadata or {})}
  if config is not None:
    header["config"] = json.dumps(dict(config), sort_keys=True)
  write(path, arrays, header)


def fit(
  where: str, params: Mapping, family: str, config: Mapping[str, Any], net: Any, how: str | None
) -> dict:
  """Parameters of a family's network for one that takes another size of input; see the family."""
  return C.resolve("convert", family).fit(where, params, config, net, how)


def _stored(where, weights) -> dict[str, Any]:
  """The model's arguments that `save` put in the header."""
  if "config" not in weights.metadata:
    return {}
  try:
    found = json.loads(weights.metadata["config"])
  except (ValueError, RecursionError):
    found = None
  if not isinstance(found, dict):
    raise ValueError(f"{where}: the header's config is not a JSON object.")
  return found


def _licence(weights) -> str:
  """As the header, a README's front matter or config.json states it; else "unknown"."""
  if "licence" in weights.metadata:
    return weights.metadata["licence"]
  folder = weights.path if os.path.isdir(weights.path) else os.path.dirname(weights.path)
  readme = os.path.join(folder, "README.md")
  if os.path.isfile(readme):
    with open(readme, encoding="utf-8", errors="replace") as f:
      front = re.match(r"---\n(.*?)\n---", f.read(_README_BYTES), re.DOTALL)
    if front and (found := re.search(r"^license: *([\w.-]+)", front[1], re.MULTILINE)):
      return found[1]
  found = weights.config.get("license")
  return found if isinstance(found, str) else "unknown"
