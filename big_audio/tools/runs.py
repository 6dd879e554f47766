"""Workdirs on a command line: one, one at a step, or a folder of them, with their settings."""

import functools
import json
import os
from typing import Any

from big_audio import config as C
from big_audio.tools import manifests

SWEEP = "sweep.jsonl"


def expand(specs) -> list[tuple[str, int | str | None]]:
  """[(workdir, step)] of "workdir" (step None), "workdir:step", "workdir:best" or a folder of them.

  Raises:
    ValueError: a spec that is none of these.
  """
  out = []
  for spec in specs:
    path, step = C.parse_spec(str(spec))
    path = os.path.normpath(path)
    if os.path.isfile(os.path.join(path, "config.json")):
      out.append((path, step))
      continue
    inside = sorted(os.listdir(path)) if os.path.isdir(path) else []
    found = [
      os.path.join(path, n) for n in inside if os.path.isfile(os.path.join(path, n, "config.json"))
    ]
    if not found or step is not None:
      there = (
        os.listdir(os.path.dirname(path) or ".")
        if os.path.isdir(os.path.dirname(path) or ".")
        else []
      )
      raise ValueError(
        f"{spec!r} is neither the workdir of a run (with config.json) nor a folder of workdirs. "
        f"{C.nearest(os.path.basename(path), there)}"
      )
    out += [(f, None) for f in found]
  return out


def settings(workdir: str) -> dict[str, Any]:
  """The config arguments and overrides with which a sweep started a run; {} for other runs."""
  parent, name = os.path.split(os.path.abspath(workdir))
  for row in manifests.read(os.path.join(parent, SWEEP), missing_ok=True):
    if row.get("name") == name:
      return dict(row.get("settings") or {})
  return {}


@functools.lru_cache(maxsize=4096)
def _config(workdir: str) -> dict:
  try:
    with open(os.path.join(workdir, "config.json")) as f:
      return {"config": json.load(f)}
  except (OSError, ValueError):
    return {}  # numbers outlive their workdirs


def value(workdir: str, key: str, given: dict | None = None) -> Any:
  """What a run has under a key: an argument of its sweep, or `config.a.b` of its stored config.

  Returns:
    the value; None where the run has none.
  """
  found = settings(workdir) if given is None else given
  if key in found:
    return found[key]
  if key.partition(".")[0] != "config":
    return None
  node = _config(os.path.abspath(workdir))
  for part in key.split("."):
    if not isinstance(node, dict) or part not in node:
      return None
    node = node[part]
  return node
