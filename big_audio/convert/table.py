"""Tables of keys: which tensor of a public checkpoint is which of our parameters, and how it turns.

A table is a list of rules; each key must fit exactly one rule and every parameter must be given.
The same table exports: names and values go back the way they came, bit by bit.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from big_audio.convert.weights import Weights

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Transform:
  """How the values of one tensor become those of one or several parameters, and back.

  Attributes:
    name: for the printed table.
    forward: (array, shapes of the parameters) -> one array for each.
    backward: list of arrays -> array, the exact inverse.
  """

  name: str
  forward: Callable[[np.ndarray, Sequence[tuple[int, ...]]], list[np.ndarray]]
  backward: Callable[[Sequence[np.ndarray]], np.ndarray]


def permute(name: str, *axes: int) -> Transform:
  """Another order of axes, as `np.transpose` takes it."""
  back = np.argsort(axes).tolist()
  return Transform(name, lambda x, _: [x.transpose(axes)], lambda xs: xs[0].transpose(back))


def same_size(name: str, shape: Callable[[tuple[int, ...]], tuple[int, ...]]) -> Transform:
  """Another shape of the same values; `shape` gives that of the tensor from the parameter's."""

  def forward(x, shapes):
    _expect(x, shape(shapes[0]))
    return [x.reshape(shapes[0])]

  return Transform(name, forward, lambda xs: xs[0].reshape(shape(xs[0].shape)))


def _expect(x, shape):
  if x.shape != tuple(shape):
    raise ValueError(f"expected {shape}, got {x.shape}.")


def _to_heads(x, shapes):
  """[n H Dh, D] -> n times [D, H, Dh], or [n H Dh] -> n times [H, Dh]."""
  size = lambda s: (math.prod(s[-2:]), *s[:-2])
  _expect(x, (len(shapes) * size(shapes[0])[0], *size(shapes[0])[1:]))
  return [part.T.reshape(s) for part, s in zip(np.split(x, len(shapes)), shapes, strict=True)]


def _from_heads(xs):
  return np.concatenate([x.reshape(*x.shape[:-2], -1).T for x in xs])


def _joined(x, shapes):
  """[D, H Dh] -> [H, Dh, D]."""
  heads, dim, out = shapes[0]
  _expect(x, (out, heads * dim))
  return [x.T.reshape(shapes[0])]


SAME = Transform("same", lambda x, _: [x], lambda xs: xs[0])
LINEAR = permute("transposed", 1, 0)  # [out, in] -> [in, out]
CONV2D = permute("OIHW->HWIO", 2, 3, 1, 0)
# Queries, keys or values, or all three in one tensor, get an axis for the heads.
HEADS = Transform("to heads", _to_heads, _from_heads)
# So does the input of the layer that joins the heads.
JOIN = Transform("of heads", _joined, lambda xs: xs[0].reshape(-1, xs[0].shape[-1]).T)


@dataclass(frozen=True)
class Rule:
  """One line of a table.

  Attributes:
    theirs: key; `{i}` and `{j}` stand for numbers.
    ours: '/'-name of the parameter, or names, with the same `{i}` and `{j}`.
    transform: of the values.
  """

  theirs: str
  ours: str | tuple[str, ...]
  transform: Transform = SAME

  @property
  def names(self) -> tuple[str, ...]:
    """Our names as a tuple."""
    return (self.ours,) if isinstance(self.ours, str) else self.ours


@dataclass(frozen=True)
class Dialect:
  """One way of naming a family's tensors.

  Attributes:
    name: such as "a"; variants that are only told apart in reading are "a.x".
    rules: the table.
    writes: subtrees ("net", ...) for which an export uses exactly these names.
    drops: keys that a checkpoint may have and that mean nothing to the model.
  """

  name: str
  rules: tuple[Rule, ...]
  writes: frozenset[str] = frozenset()
  drops: tuple[str, ...] = ()
  _patterns: list = field(default_factory=list, init=False, repr=False, compare=False)

  def __post_init__(self):
    for rule in self.rules:
      theirs = pattern(rule.theirs)
      self._patterns.append((theirs, [pattern(n) for n in rule.names], rule))

  def match(self, key: str) -> tuple[Rule, tuple[str, ...]] | None:
    """(rule, our names) of a key, or None."""
    for theirs, _, rule in self._patterns:
      if found := theirs.fullmatch(key):
        return rule, tuple(n.format(**found.groupdict()) for n in rule.names)
    return None

  def key(self, name: str) -> tuple[str, Rule, tuple[str, ...]] | None:
    """(key, rule, all our names that the key gives) of one of our names, or None."""
    for _, ours, rule in self._patterns:
      for one in ours:
        if found := one.fullmatch(name):
          numbers = found.groupdict()
          return rule.theirs.format(**numbers), rule, tuple(n.format(**numbers) for n in rule.names)
    return None


def pattern(text: str) -> re.Pattern:
  """The regex of a key or name with `{i}` and `{j}` for numbers."""
  parts = re.split(r"\{([ij])\}", text)
  return re.compile(
    "".join(f"(?P<{p}>0|[1-9][0-9]*)" if i % 2 else re.escape(p) for i, p in enumerate(parts))
  )


def recognise(where: str, keys: Iterable[str], dialects: Sequence[Dialect]) -> Dialect:
  """The dialect whose table knows most of the keys; the first of equals.

  Raises:
    ValueError: none knows any.
  """
  keys = list(keys)
  scores = [sum(d.match(k) is not None or k in d.drops for k in keys) for d in dialects]
  if not scores or max(scores) == 0:
    raise ValueError(
      f"{where}: no table knows these keys, such as {keys[:4]}. Expected one like "
      + ", or ".join(f"{d.rules[0].theirs!r} ({d.name})" for d in dialects)
      + "."
    )
  return dialects[scores.index(max(scores))]


def sources(dialect: Dialect, keys: Iterable[str]) -> dict[str, tuple[str, Rule]]:
  """{our name: (key, rule)} of the keys that the table knows."""
  return {
    name: (key, rule)
    for key in keys
    if (found := dialect.match(key))
    for rule in (found[0],)
    for name in found[1]
  }


def to_ours(where: str, weights: Weights, dialect: Dialect, want: Shapes) -> dict[str, np.ndarray]:
  """Every tensor under our name, in our shape and still in its own type.

  Args:
    where: named in errors.
    weights: the checkpoint.
    dialect: its table.
    want: {our name: shape} of all parameters that there must be.

  Raises:
    ValueError: both set differences, in the names of the checkpoint, and every wrong shape.
  """
  found = sources(dialect, weights)
  absent = {(dialect.key(n) or (n,))[0] for n in want.keys() - found.keys()}
  known = {k for k, _ in (found[n] for n in found.keys() & want.keys())}
  extra = set(weights) - known - set(dialect.drops)
  wrong: list[str] = []
  out: dict[str, np.ndarray] = {}
  if not absent and not extra:
    for key in sorted(known):
      rule, names = dialect.match(key)
      value, shapes = weights[key], [tuple(want[n]) for n in names]
      try:
        parts = rule.transform.forward(value, shapes)
      except ValueError:
        parts = []
      if [p.shape for p in parts] != shapes:
        wrong.append(f"{key} has {weights.shape(key)} for {', '.join(names)} {shapes[0]}")
      out |= dict(zip(names, parts, strict=False))
  if absent or extra or wrong:
    raise ValueError(
      f'{where}: not a checkpoint of this family (dialect "{dialect.name}"): {len(absent)} keys '
      f"are missing {sorted(absent)[:8]}; {len(extra)} are unknown {sorted(extra)[:8]}; shapes: "
      f"{wrong[:8]}."
    )
  return out


def to_theirs(
  where: str, flat: Mapping[str, np.ndarray], dialect: Dialect
) -> dict[str, np.ndarray]:
  """The inverse of `to_ours`.

  Raises:
    ValueError: a parameter that the dialect has no key for, or a part of a tensor that is missing.
  """
  out: dict[str, np.ndarray] = {}
  for name in flat:
    found = dialect.key(name)
    if found is None:
      raise ValueError(f'{where}: dialect "{dialect.name}" has no key for {name}.')
    key, rule, names = found
    if missing := [n for n in names if n not in flat]:
      raise ValueError(f"{where}: {key} also needs {missing}.")
    if key not in out:
      out[key] = rule.transform.backward([np.asarray(flat[n]) for n in names])
  return out


def summary(found: Mapping[str, tuple[str, Rule]], shapes: Shapes) -> str:
  """What was mapped, one line a rule: tensors, scalars, names there and here, transform."""
  lines: dict[Rule, list[str]] = {}
  for name, (_, rule) in found.items():
    lines.setdefault(rule, []).append(name)
  rows = []
  for rule, names in lines.items():
    scalars = sum(math.prod(shapes[n]) for n in names)
    rows.append(
      (f"{len(names) // len(rule.names)}", f"{scalars:,}", rule.theirs, ", ".join(rule.names),
       rule.transform.name)
    )  # fmt: skip
  widths = [max(len(r[c]) for r in rows) for c in range(4)]
  return "\n".join(
    f"  {n:>{widths[0]}} {s:>{widths[1]}}  {a:<{widths[2]}}  {b:<{widths[3]}}  {t}"
    for n, s, a, b, t in rows
  )
