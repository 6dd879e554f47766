"""Which parameters the sounds of a data set have: pure functions of a seed."""

import math
from collections.abc import Sequence

import numpy as np

from big_audio.datasets.vimh_meta import Parameter
from big_audio.dsp.namespace import check_choice

METHODS = ("legacy", "grid", "sobol")
_BITS = 30


def check_method(where: str, method: str, jitter: float) -> None:
  """Raises ValueError for an unknown method, or for a jitter that does not go with it."""
  check_choice(f"{where}: sampling", method, METHODS)
  number = isinstance(jitter, int | float) and not isinstance(jitter, bool)
  if not number or not 0 <= jitter <= 1:
    raise ValueError(f"{where}: jitter={jitter!r}: expected 0 (class centres) to 1 (whole steps).")
  if jitter and method != "grid":
    raise ValueError(f'{where}: jitter={jitter:g} goes with sampling="grid", not {method!r}.')


def draw(
  parameters: Sequence[Parameter],
  size: int,
  seed: int,
  method: str = "legacy",
  *,
  jitter: float = 0.0,
  shuffle: bool = False,
) -> np.ndarray:
  """Values of the parameters that vary.

  Args:
    parameters: all with min < max.
    size: items.
    seed: 0 to 2^32 - 1.
    method: "legacy": uniform, one draw for each parameter and item in turn from numpy's
      RandomState(seed), as generators of the format have it after `numpy.random.seed(seed)`;
      "grid": see `grid`; "sobol": a Sobol sequence with a random digital shift.
    jitter: of "grid", as a share of a step.
    shuffle: permute the items (of "legacy" by the same RandomState, as the format's generator).

  Returns:
    f64[size, P].

  Raises:
    ValueError: unknown method; as `grid`.
  """
  check_method("synth_sampling", method, jitter)
  lo, hi = np.array([p.min for p in parameters]), np.array([p.max for p in parameters])
  if method == "legacy":
    legacy = np.random.RandomState(seed)
    values = lo + (hi - lo) * legacy.random_sample((size, len(parameters)))
    if shuffle:
      order = np.arange(size)
      legacy.shuffle(order)
      values = values[order]
    return values
  rng = np.random.default_rng([seed, METHODS.index(method)])
  if method == "grid":
    return grid(parameters, size, rng, jitter, shuffle)
  shift = rng.integers(2**_BITS, size=len(parameters))
  values = lo + (hi - lo) * sobol(len(parameters), size, shift)
  return values[rng.permutation(size)] if shuffle else values


def grid_size(parameters: Sequence[Parameter]) -> int:
  """Number of combinations of classes."""
  return math.prod(p.count() for p in parameters)


def train_items(size: int) -> int:
  """How many of a data set's items, the first ones, are its file `train`."""
  return int(0.8 * size)


def check_grid(where: str, parameters: Sequence[Parameter], size: int, jitter: float) -> None:
  """Raises ValueError if items of a grid would be copies of others.

  That is, where label bytes do not tell the classes of a parameter apart, and where a grid is gone
  through several times and the jitter has no room for as many different labels.
  """
  for p in parameters:
    if p.count() > 256 or len(np.unique(p.encode(p.values()))) < p.count():
      raise ValueError(
        f"{where}: {p.name} has {p.count()} classes, which the bytes of labels cannot tell apart "
        f"in a grid. Use a step of {(p.max - p.min) / 254:.4g} or more."
      )
  if size <= (total := grid_size(parameters)):
    return
  times = -(-size // total) + 1
  # Different labels of a cell at the edge, where half of the jitter is cut off.
  spans = [math.floor(255 * jitter * p.step / 2 / (p.max - p.min)) for p in parameters]
  if total < 2 or math.prod(max(s, 1) for s in spans) < times:
    raise ValueError(
      f"{where}: the grid has {total} combinations, and {size} items are asked for. Use "
      f"size={total} or less, or a jitter that makes {times} different items of each "
      f"(jitter={jitter:g} is too small)."
    )


def grid(
  parameters: Sequence[Parameter],
  size: int,
  rng: np.random.Generator,
  jitter: float = 0.0,
  shuffle: bool = False,
) -> np.ndarray:
  """Systematic values: combinations of class centres min + k step, the last parameter fastest.

  Of a grid larger than `size`, points of a Sobol sequence pick the combinations: none twice, and
  the classes of each parameter, and of each pair, about equally often. In a grid smaller than
  `size` each combination comes several times, all of them among the first `train_items(size)` items
  or all behind these, so that none is in train and test both. (Validation is drawn from the items
  of train: there, near ones are in both.) This needs a jitter that makes different items of them.

  Args:
    jitter: values are uniform within +- jitter step / 2 of their centre, as far as that is within
      the range.
    shuffle: permute the items; of a repeated grid first the combinations, then train and test each.

  Returns:
    f64[size, P].

  Raises:
    ValueError: as `check_grid`.
  """
  check_grid("synth_sampling", parameters, size, jitter)
  if size <= grid_size(parameters):
    at = _part([p.count() for p in parameters], size, rng)
    at = at[rng.permutation(size)] if shuffle else at
  else:
    at = _repeated([p.count() for p in parameters], size, rng, shuffle)
  values = np.stack([p.values()[at[:, i]] for i, p in enumerate(parameters)], axis=1)
  if jitter:
    half = jitter / 2 * np.array([p.step for p in parameters])
    lo = np.maximum(values - half, [p.min for p in parameters])
    hi = np.minimum(values + half, [p.max for p in parameters])
    values = lo + (hi - lo) * rng.random(values.shape)
  return values


def _part(counts, size, rng):
  """i64[size, P], different cells of a grid in row-major order."""
  total = math.prod(counts)
  left_out = total - size
  if left_out < size:  # few enough to be listed; what an even choice leaves is even
    keep = np.ones(total, bool)
    if left_out:
      keep[np.ravel_multi_index(tuple(_sobol_cells(counts, left_out, rng).T), counts)] = False
    return np.stack(np.unravel_index(np.flatnonzero(keep), counts), axis=1)
  return np.unique(_sobol_cells(counts, size, rng), axis=0)


def _sobol_cells(counts, size, rng):
  """i64[size, P], the first different cells that a Sobol sequence comes to; at most every other."""
  shift, points = rng.integers(2**_BITS, size=len(counts)), size
  while True:
    cells = (sobol(len(counts), points, shift) * counts).astype(np.int64)
    first = np.sort(np.unique(cells, axis=0, return_index=True)[1])
    if len(first) >= size:
      return cells[first[:size]]
    points *= 2


def _repeated(counts, size, rng, shuffle):
  """i64[size, P], cells of a grid smaller than size."""
  total, train = math.prod(counts), train_items(size)
  cells = rng.permutation(total) if shuffle else np.arange(total)
  border = min(max(round(train / size * total), 1), total - 1)
  spread = lambda cells, items: cells[np.arange(items) * len(cells) // items]
  sides = [spread(cells[:border], train), spread(cells[border:], size - train)]
  if shuffle:
    sides = [rng.permutation(side) for side in sides]
  return np.stack(np.unravel_index(np.concatenate(sides), counts), axis=1)


def sobol(dims: int, size: int, shift: np.ndarray) -> np.ndarray:
  """The first points of a Sobol sequence, the bits of each dimension flipped by the same pattern.

  Args:
    shift: i64[dims], patterns of 30 bits. Random ones scramble the sequence and keep it even.

  Returns:
    f64[size, dims] in (0,1).
  """
  from scipy.stats import qmc

  points = qmc.Sobol(dims, scramble=False, bits=_BITS).random_base2(max(size - 1, 0).bit_length())
  whole = (points[:size] * 2**_BITS).astype(np.int64) ^ shift
  return (whole + 0.5) / 2**_BITS
