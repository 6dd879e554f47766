"""Turns `"crop(secs=1)|mono|keep('wav')"` into a function on examples."""

import ast
import importlib
import inspect
from collections.abc import Callable

import numpy as np

from big_audio.pp import registry
from big_audio.pp.registry import Example, nearest, quoted

# Importing a module registers its operations.
_MODULES = (
  "ops_general",
  "ops_audio",
  "ops_augment",
  "ops_fbank",
  "ops_image",
  "ops_spectrogram",
)


def build(spec: str) -> Callable[[Example, np.random.Generator], Example]:
  """Builds a pipeline of operations.

  The text is read as a Python expression, never evaluated: arguments are literals. An operation
  of a project is written with its module: `proj.name.module.operation(arg)`.

  Args:
    spec: operations separated by `|`; an operation without arguments needs no brackets; an empty
      string leaves the example as it is.

  Returns:
    `fn(example, rng) -> example`; the given dict is not modified.

  Raises:
    ValueError: here, for text that does not parse and for unknown operations or arguments (with
      the nearest names); when called, for an example that an operation cannot take.
  """
  steps = [_step(node, spec) for node in _calls(spec)]

  def run(example: Example, rng: np.random.Generator) -> Example:
    example = dict(example)
    for text, fn in steps:
      try:
        example = fn(example, rng)
      except registry.OpError as e:
        raise ValueError(f"pp: {text} {e}") from e
    return example

  return run


def _calls(spec: str) -> list[ast.expr]:
  if not spec.strip():
    return []
  try:
    node = ast.parse(spec.strip(), mode="eval").body
  except SyntaxError as e:
    raise ValueError(
      f'pp: cannot read "{spec}": {e.msg} at column {e.offset}. '
      "Expected operations separated by |, as in \"crop(secs=1)|keep('wav')\"."
    ) from None
  calls = []
  while isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
    calls.append(node.right)
    node = node.left
  return [node, *reversed(calls)]


def _step(node: ast.expr, spec: str) -> tuple[str, Callable]:
  text = ast.unparse(node)
  func, args, keywords = node, [], []
  if isinstance(node, ast.Call):
    func, args, keywords = node.func, node.args, node.keywords
  name = ast.unparse(func)
  if not all(part.isidentifier() for part in name.split(".")):
    raise ValueError(f'pp: "{text}" in "{spec}" is not an operation: name or name(arguments).')
  factory = _factory(name)
  try:
    args = [ast.literal_eval(a) for a in args]
    kwargs = {k.arg: ast.literal_eval(k.value) for k in keywords}
  except ValueError:
    raise ValueError(
      f"pp: arguments of {text} must be literals (numbers, strings, lists). Strings need quotes."
    ) from None
  try:
    inspect.signature(factory).bind(*args, **kwargs)
  except TypeError as e:
    signature = inspect.signature(factory)
    unknown = [k for k in kwargs if k not in signature.parameters]
    hint = nearest(unknown[0], signature.parameters) if unknown else ""
    raise ValueError(f"pp: {text}: {e}. Its arguments are {name}{signature}.{hint}") from None
  try:
    return text, factory(*args, **kwargs)
  except registry.OpError as e:
    raise ValueError(f"pp: {text} {e}") from e


def _factory(name: str) -> Callable:
  module, _, short = name.rpartition(".")
  if module:
    importlib.import_module(module)
    factory = registry.OPS.get(short)
    if factory is None or factory.__module__ != module:
      raise ValueError(f'pp: module {module} registers no operation "{short}".')
    return factory
  for m in _MODULES:
    importlib.import_module(f"big_audio.pp.{m}")
  if name not in registry.OPS:
    raise ValueError(
      f'pp: unknown operation "{name}".{nearest(name, registry.OPS)} '
      f"There are {quoted(sorted(registry.OPS))}."
    )
  return registry.OPS[name]
