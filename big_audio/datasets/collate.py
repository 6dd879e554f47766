"""Examples -> one batch."""

import collections
from typing import Any

import numpy as np

Batch = dict[str, Any]


def collate(examples: list[dict]) -> Batch:
  """Stacks examples.

  Args:
    examples: dicts with the same keys; values are arrays or numbers of one shape and dtype each,
      or strings, bytes and other objects. Python ints become i32, floats f32.

  Returns:
    arrays [B, ...]; object[B] for what is not numeric.

  Raises:
    ValueError: keys or shapes differ; names both examples and what to write.
  """
  first = examples[0]
  for e in examples:
    if e.keys() != first.keys():
      odd = sorted(e.keys() ^ first.keys())
      raise ValueError(
        f'config.input.data: examples "{_name(first)}" and "{_name(e)}" differ in keys '
        f"{', '.join(odd)}. End every pp with the same keep(...)."
      )
  return {k: _stack(k, [e[k] for e in examples], examples) for k in first}


def _stack(key, values, examples):
  kinds = collections.Counter(isinstance(v, (np.ndarray, np.generic, int, float)) for v in values)
  if not kinds[True]:
    out = np.empty(len(values), object)
    for i, v in enumerate(values):  # one by one: numpy would unpack lists
      out[i] = v
    return out
  arrays = [_numeric(v) for v in values]
  for a, e in zip(arrays, examples, strict=True):
    if a.shape != arrays[0].shape or a.dtype != arrays[0].dtype:
      raise ValueError(
        f'config.input.data: "{key}" is {_say(arrays[0])} in "{_name(examples[0])}" but {_say(a)} '
        f'in "{_name(e)}". A batch needs one shape: use "pad(...)|crop(...)", or drop({key!r}).'
      )
  return np.stack(arrays)


def _numeric(v) -> np.ndarray:
  if isinstance(v, bool):
    return np.asarray(v)
  if isinstance(v, (int, np.integer)) and -(2**31) <= v < 2**31:
    return np.asarray(v, np.int32)
  return np.asarray(v, np.float32) if isinstance(v, float) else np.asarray(v)


def _say(a) -> str:
  return f"{a.dtype}{list(a.shape)}"


def _name(example) -> str:
  return str(example.get("id", "no id"))
