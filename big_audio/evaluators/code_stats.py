"""How a codebook is used, and how many bits its codes need. numpy only."""

from collections.abc import Sequence

import numpy as np

_WEIGHTS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0)  # of the order-0 statistics in those of order 1


def code_statistics(items: Sequence[np.ndarray], sizes: Sequence[int]) -> dict[str, float]:
  """Usage, perplexity and bits per token of the codes of some recordings.

  Entropies are empirical: of few codes they come out too low, above all the one given the previous
  code, which has as many parameters as there are pairs. `coded_bits*` are what a coder with fixed
  tables would spend: tables of one half of the recordings, applied to the other half, both ways.

  Args:
    items: int[F, G] for each recording, codes in [0, sizes[g]).
    sizes: codebook size of each group.

  Returns:
    "usage" (share of all codebook entries that occur), "perplexity" (2^entropy, mean over groups),
    "perplexity/<g>", "nominal_bits" (sum of log2 sizes), "entropy_bits",
    "entropy_bits_given_previous", and for two recordings or more "coded_bits",
    "coded_bits_given_previous": bits per token, summed over groups; "tokens".

  Raises:
    ValueError: no codes, or codes that do not fit the sizes.
  """
  items = [np.asarray(c) for c in items if len(c)]
  if not items:
    raise ValueError("code_statistics: there are no codes.")
  for c in items:
    if c.ndim != 2 or c.shape[1] != len(sizes):
      raise ValueError(f"code_statistics: expected [F, {len(sizes)}], got shape {c.shape}.")
    if np.any(c < 0) or np.any(c.max(0) >= np.asarray(sizes)):
      raise ValueError(f"code_statistics: codes up to {c.max(0)} for codebooks of {list(sizes)}.")
  out = {"tokens": float(sum(map(len, items))), "nominal_bits": float(np.sum(np.log2(sizes)))}
  used, entropy, given = 0, [], []
  for g, size in enumerate(sizes):
    columns = [c[:, g].astype(np.int64) for c in items]
    counts = np.bincount(np.concatenate(columns), minlength=size)
    used += int(np.sum(counts > 0))
    entropy.append(_entropy(counts))
    given.append(_conditional_entropy(columns, size))
  out["usage"] = used / float(np.sum(sizes))
  out["perplexity"] = float(np.mean(2.0 ** np.array(entropy)))
  out |= {f"perplexity/{g}": float(2.0**h) for g, h in enumerate(entropy)}
  out["entropy_bits"], out["entropy_bits_given_previous"] = float(sum(entropy)), float(sum(given))
  if len(items) > 1:
    halves = [items[::2], items[1::2]]
    for order, name in enumerate(("coded_bits", "coded_bits_given_previous")):
      bits = sum(_coded_bits(a, b, sizes, order) for a, b in (halves, halves[::-1]))
      out[name] = bits / out["tokens"]
  return out


def _entropy(counts):
  p = counts[counts > 0] / counts.sum()
  return float(-np.sum(p * np.log2(p)))


def _conditional_entropy(columns, size):
  """H(pair) - H(previous) over neighbours within a recording; 0 where there are none."""
  pairs = np.concatenate([c[:-1] * size + c[1:] for c in columns])
  if not len(pairs):
    return 0.0
  _, joint = np.unique(pairs, return_counts=True)
  return _entropy(joint) - _entropy(np.bincount(pairs // size))


def _coded_bits(known, coded, sizes, order):
  """Bits of all tokens of `coded` under tables of `known`.

  Order 1 mixes the counts after the previous code with the order-0 table, worth some weight of
  counts; one of a few weights is chosen per group. The first code of a recording has no previous.
  """
  total = 0.0
  for g, size in enumerate(sizes):
    a, b = ([c[:, g].astype(np.int64) for c in half] for half in (known, coded))
    counts = np.bincount(np.concatenate(a), minlength=size)
    p0 = (counts + 0.5) / (counts.sum() + 0.5 * size)
    if order == 0:
      total -= np.sum(np.log2(p0[np.concatenate(b)]))
      continue
    total -= np.sum(np.log2(p0[[c[0] for c in b]]))
    pairs, found = (np.concatenate([c[:-1] * size + c[1:] for c in half]) for half in (a, b))
    if not len(found):
      continue
    keys, joint = np.unique(pairs, return_counts=True)
    at = np.minimum(np.searchsorted(keys, found), max(len(keys) - 1, 0))
    hits = np.where(keys[at] == found, joint[at], 0) if len(keys) else np.zeros(len(found))
    after = np.bincount(pairs // size, minlength=size)[found // size]
    total += min(-np.sum(np.log2((hits + w * p0[found % size]) / (after + w))) for w in _WEIGHTS)
  return float(total)
