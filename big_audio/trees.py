"""Parameter trees with '/'-joined names: flatten, regex masks, split and merge, counts."""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

Tree = Any


def names_and_leaves(tree: Tree) -> list[tuple[str, Any]]:
  """('a/b/c', leaf) in tree order; sequence indices and attribute names are name parts too."""
  flat, _ = jax.tree_util.tree_flatten_with_path(tree)
  return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in flat]


def map_with_name(fn: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
  """`fn(name, leaf, *rest)` over all leaves."""
  key = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
  return jax.tree_util.tree_map_with_path(lambda p, *x: fn(key(p), *x), tree, *rest)


def flatten(tree: Mapping) -> dict[str, Any]:
  """A nested dict as {'a/b/c': leaf}.

  Raises:
    ValueError: a key with '/' in it, which `unflatten` would take apart.
  """
  for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]:
    for key in path:
      if "/" in str(getattr(key, "key", "")):
        raise ValueError(f"trees.flatten: {key.key!r} has a '/'; give that parameter another name.")
  return dict(names_and_leaves(tree))


def unflatten(flat: Mapping[str, Any]) -> dict:
  """The inverse of `flatten`."""
  out: dict = {}
  for name, leaf in flat.items():
    *parents, last = name.split("/")
    node = out
    for p in parents:
      node = node.setdefault(p, {})
    node[last] = leaf
  return out


def first_match(name: str, patterns: Iterable[str]) -> int | None:
  """Index of the first pattern that matches the whole of `name`, or None."""
  for i, pattern in enumerate(patterns):
    if re.fullmatch(pattern, name):
      return i
  return None


def assign(names: Iterable[str], patterns: list[str], where: str) -> dict[str, int]:
  """name -> index of its first matching pattern.

  Raises:
    ValueError: names that no pattern covers, or a pattern that matches nothing at all.
  """
  names = list(names)
  out = {n: first_match(n, patterns) for n in names}
  bare = [n for n, i in out.items() if i is None]
  if bare:
    raise ValueError(
      f"{where}: {len(bare)} parameters match no pattern, such as {', '.join(bare[:5])}. "
      f'Patterns match whole names; end the list with ".*".'
    )
  for i, pattern in enumerate(patterns):
    if not any(re.fullmatch(pattern, n) for n in names):
      heads = sorted({n.partition("/")[0] for n in names})
      raise ValueError(
        f"{where}: pattern {pattern!r} (number {i}) matches no parameter. "
        f"Names begin with {', '.join(heads)}; an example is {names[0]!r}."
      )
  return out


def split(tree: Mapping, keep: Callable[[str], bool]) -> tuple[dict, dict]:
  """(leaves whose name is kept, the others), both as nested dicts."""
  flat = flatten(tree)
  yes = {n: v for n, v in flat.items() if keep(n)}
  no = {n: v for n, v in flat.items() if not keep(n)}
  return unflatten(yes), unflatten(no)


def merge(a: Mapping, b: Mapping) -> dict:
  """Two nested dicts as one; a name in both raises a ValueError."""
  fa, fb = flatten(a), flatten(b)
  both = fa.keys() & fb.keys()
  if both:
    raise ValueError(f"merge: {sorted(both)[:5]} are in both trees.")
  return unflatten({**fa, **fb})


def count(tree: Tree) -> int:
  """Number of scalars in the tree."""
  return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


def table(tree: Mapping, depth: int = 2) -> str:
  """Parameter counts by name, `depth` levels deep, one line each."""
  sums: dict[str, int] = {}
  for name, x in flatten(tree).items():
    head = "/".join(name.split("/")[:depth])
    sums[head] = sums.get(head, 0) + int(np.prod(x.shape))
  width = max((len(n) for n in sums), default=0)
  return "\n".join(f"  {n:{width}} {c:>12,}" for n, c in sums.items())


def strict_update(
  target: Mapping,
  source: Mapping,
  *,
  where: str,
  rename: Iterable[tuple[str, str]] = (),
  missing: str = "",
  unused: str = "",
) -> dict:
  """`target` with its leaves taken from `source`; every difference must be excused.

  Args:
    target: nested dict of arrays, the tree to fill.
    source: nested dict of arrays.
    where: named in errors.
    rename: (regex, substitution) pairs applied in turn to each source name; a pair whose
      substitution begins with "+" adds a copy under the new name and keeps the old one.
    missing: regex of target names that the source need not have (they keep their values).
    unused: regex of source names that the target need not have.

  Raises:
    ValueError: both set differences, and every shape that does not fit.
  """
  flat: dict[str, Any] = {}
  for name, leaf in flatten(source).items():
    names = [name]
    for pattern, sub in rename:
      if sub.startswith("+"):
        copies = [re.sub(pattern, sub[1:], n) for n in names if re.search(pattern, n)]
        names += [c for c in copies if c not in names]
      else:
        names = [re.sub(pattern, sub, n) for n in names]
    for n in names:
      if n in flat:
        raise ValueError(f"{where}: rename gives {n!r} twice.")
      flat[n] = leaf
  want = flatten(target)
  absent = sorted(want.keys() - flat.keys())
  extra = sorted(flat.keys() - want.keys())
  bad_absent = [n for n in absent if not (missing and re.fullmatch(missing, n))]
  bad_extra = [n for n in extra if not (unused and re.fullmatch(unused, n))]
  shapes = [
    f"{n} has {tuple(flat[n].shape)}, expected {tuple(want[n].shape)}"
    for n in want.keys() & flat.keys()
    if tuple(flat[n].shape) != tuple(want[n].shape)
  ]
  if absent or extra:
    print(f"{where}: kept from the start {absent[:20]}, unused of the source {extra[:20]}")
  if bad_absent or bad_extra or shapes:
    raise ValueError(
      f"{where}: {len(bad_absent)} parameters are missing in the source {bad_absent[:8]}; "
      f"{len(bad_extra)} of the source are unused {bad_extra[:8]}; shapes: {shapes[:8]}. "
      f"Excuse them with the regexes `missing` and `unused`, or map names with `rename`."
    )
  return unflatten({n: flat.get(n, v) for n, v in want.items()})


def sha256(tree: Tree) -> str:
  """Hex digest over names, shapes, dtypes and bytes of all leaves (host copies are made)."""
  digest = hashlib.sha256()
  for name, leaf in sorted(names_and_leaves(tree), key=lambda p: p[0]):
    x = np.asarray(leaf)
    digest.update(f"{name}{x.shape}{x.dtype}".encode())
    digest.update(np.ascontiguousarray(x).tobytes())
  return digest.hexdigest()
