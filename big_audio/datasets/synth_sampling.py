"""Which parameters the sounds of a data set have: pure functions of a seed."""

import itertools
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
  if not 0 <= jitter <= 1:
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
    ValueError: unknown method; a grid smaller than size without jitter.
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
    values = grid(parameters, size, rng, jitter)
  else:
    values = lo + (hi - lo) * sobol(len(parameters), size, rng)
  return values[rng.permutation(size)] if shuffle else values


def grid_size(parameters: Sequence[Parameter]) -> int:
  """Number of combinations of classes."""
  return math.prod(p.count() for p in parameters)


def grid(
  parameters: Sequence[Parameter], size: int, rng: np.random.Generator, jitter: float = 0.0
) -> np.ndarray:
  """Systematic values: all combinations of class centres min + k step, the last parameter fastest.

  A grid larger than `size` is cut into that many equal pieces, one combination drawn from each: no
  combination comes twice. A smaller grid is gone through again and again, which needs jitter
  (without, items of the test split would be copies of items of the train split).

  Args:
    jitter: values lie within +- jitter step / 2 of their centre, and within the range.

  Returns:
    f64[size, P].
  """
  counts, total = [p.count() for p in parameters], grid_size(parameters)
  if size > total and not jitter:
    raise ValueError(
      f"synth_sampling: the grid has {total} combinations, and {size} items are asked for. Use "
      f"size={total} or less, or a jitter above 0."
    )
  if size >= total:
    cells = np.arange(size) % total
  else:
    # Whole numbers of any size: a grid of a dozen parameters has 10^12 combinations.
    edges = [j * total // size for j in range(size + 1)]
    cells = np.array([rng.integers(a, b) for a, b in itertools.pairwise(edges)])
  at = np.stack(np.unravel_index(cells, counts), axis=1)
  values = np.stack([p.values()[at[:, i]] for i, p in enumerate(parameters)], axis=1)
  if jitter:
    step = np.array([p.step for p in parameters])
    values = values + jitter * step * (rng.random(values.shape) - 0.5)
    values = np.clip(values, [p.min for p in parameters], [p.max for p in parameters])
  return values


def sobol(dims: int, size: int, rng: np.random.Generator) -> np.ndarray:
  """The first points of a Sobol sequence, all bits of each dimension flipped by the same pattern.

  The shift keeps the evenness of the sequence and makes it a function of `rng`.

  Returns:
    f64[size, dims] in (0,1).
  """
  from scipy.stats import qmc

  points = qmc.Sobol(dims, scramble=False, bits=_BITS).random_base2(max(size - 1, 0).bit_length())
  whole = (points[:size] * 2**_BITS).astype(np.int64) ^ rng.integers(2**_BITS, size=dims)
  return (whole + 0.5) / 2**_BITS
