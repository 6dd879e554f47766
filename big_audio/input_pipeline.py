"""From sources to batches: what is seen at a step is a pure function of (seed, step).

The path of row g of the training stream (g = step * batch_size + row):

1. mix: blocks of 10,000 rows hold every source in proportion to its weight, in an order drawn
   from (seed, block);
2. shuffle: the m-th row that a source contributes is item m % N of its epoch m // N, and each
   epoch is a new permutation drawn from (seed, source, epoch), so every item is seen once an epoch;
3. preprocessing gets `rng(seed, g)`;
4. process p of n makes rows [pB/n, (p+1)B/n) of each global batch.

`sampler=dict(name="pk", ...)` takes the place of 1 and 2: batch s holds p classes, k tracks of each
(`datasets.pk`).

No state exists beside the step, so a run may resume with other numbers of threads, workers and
processes and sees the same data bit for bit. Grain runs the threads and worker processes.

A `DecodeError` in training draws another item of the same source from `rng(seed, g, attempt)`.
The batch says so: `_bad` i32[B] counts the failed draws of each row, `_failed` object[B] holds the
records to write down. `BadShare` adds them up and stops the run.
"""

import atexit
import functools
import math
import multiprocessing
import os
import signal
import sys
import weakref
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import grain
import numpy as np
import threadpoolctl
from absl import flags

from big_audio.datasets import data_sets, pk, splits
from big_audio.datasets.collate import Batch, collate
from big_audio.datasets.errors import DecodeError

_MIX_BLOCK = 10_000  # weights are resolved to 1/10,000
_MAX_ATTEMPTS = 100
_TABLE = 2**16  # sources up to here are shuffled by a table
# Streams of random numbers that must not coincide for equal (seed, index).
_RNG_PP, _RNG_REDRAW, _RNG_MIX, _RNG_SHUFFLE = range(4)


def train_batches(
  input_cfg, *, seed: int, start_step: int = 0, process_index: int = 0, process_count: int = 1
) -> "Batches":
  """The endless training stream of this process, from `start_step` on.

  Args:
    input_cfg: `batch_size` (over all processes), `data` {name: dict(source, weight=1.0, pp="",
      **arguments of the source)}, and optionally `sampler` (dict(name="pk", **arguments of
      `datasets.pk.Sampler`)), `num_threads` (default 2) and `num_workers` (processes, default 0).
      Sources read in C without the GIL want threads; Python-bound preprocessing wants workers.
    seed: the run's seed, >= 0.
    start_step: the first batch is the one that step `start_step` sees.
    process_index: which rows of the global batch: `[pB/n, (p+1)B/n)`.
    process_count: over how many processes the global batch is spread.

  Returns:
    a closeable iterator of dicts: numeric arrays [B/n, ...] (f32, i32, ...), object[B/n] for
    strings and bytes, `_bad` i32[B/n] and `_failed` object[B/n] (lists of dicts or None).

  Raises:
    ValueError: unknown sources, operations or arguments, an empty source, weights that are not
      above zero, a batch that does not divide by `process_count` or does not fit the sampler; while
      iterating: an example that preprocessing cannot take, examples of different shapes or keys.
  """
  batch_size = int(input_cfg.batch_size)
  rows = _rows(batch_size, process_index, process_count)
  stream = _TrainStream(data_sets.open_all(input_cfg.data), int(seed))
  if input_cfg.get("sampler"):
    stream = _PkStream(stream.opened, int(seed), batch_size, dict(input_cfg.sampler))
  batch_source = _TrainBatches(stream, batch_size, rows, int(start_step))
  return Batches(
    batch_source,
    num_threads=int(input_cfg.get("num_threads", 2)),
    num_workers=int(input_cfg.get("num_workers", 0)),
  )


def eval_batches(
  data,
  *,
  batch_size: int,
  process_index: int = 0,
  process_count: int = 1,
  limit: int | None = None,
  seed: int = 0,
  num_threads: int = 2,
) -> "Batches":
  """Every item once, in the order of the source; the last batch is padded.

  Args:
    data: one `dict(source, pp="", **arguments)`, or {name: such a dict}, read one after the
      other in the order of their names; or a function that gives what `data_sets.open_all` made
      of them, so that they are opened once for many readings.
    batch_size: rows over all processes; all processes yield equally many batches.
    process_index: as in `train_batches`.
    process_count: as in `train_batches`.
    limit: read only the first `limit` items.
    seed: seeds the preprocessing of item i with `rng(seed, i)`.
    num_threads: reader threads.

  Returns:
    a closeable iterator like that of `train_batches`, with `_mask` f32[B/n] (0 marks padding,
    which repeats the last item) and without `_bad` and `_failed`.

  Raises:
    ValueError: as `train_batches`; DecodeError for an item that cannot be read: an evaluation is
      defined by its items, so none is replaced.
  """
  rows = _rows(int(batch_size), process_index, process_count)
  opened = data() if callable(data) else data_sets.open_one_or_all(data)
  if limit is not None and limit <= 0:
    raise ValueError(f"eval_batches: limit must be above zero or None, got {limit}.")
  return Batches(
    _EvalBatches(opened, int(batch_size), rows, limit, int(seed)), num_threads=num_threads
  )


def num_examples(input_cfg) -> int:
  """Items in one epoch: the sum over the sources of `input_cfg.data`, whatever their weights."""
  return sum(len(s.source) for s in data_sets.open_all(input_cfg.data))


def claim_splits(input_cfg, workdir: str, *, begun: bool, write: bool) -> None:
  """Checks or keeps the splits of sources that say theirs (`datasets.splits.claim`).

  Args:
    input_cfg: as in `train_batches`.
    workdir: of the run.
    begun: a run is there.
    write: whether this process writes.
  """
  opened = data_sets.open_all(input_cfg.data)
  records = {o.name: o.source.split_record() for o in opened if hasattr(o.source, "split_record")}
  if begun or write:
    splits.claim(workdir, records, begun=begun)


def class_names(data) -> list[str] | None:
  """Names of classes by number, where the first source of `data` (see `eval_batches`) has any."""
  opened = data_sets.open_one_or_all(data)
  names = getattr(opened[0].source, "classes", None)
  return list(names) if names else None


def check_cut(train, judged, *, where: str) -> None:
  """Raises a ValueError where an evaluator's split is cut otherwise than the training data's.

  Args:
    train: `config.input.data`.
    judged: the data of an evaluator, one data set or {name: data set}.
    where: of the evaluator.
  """
  sets = {"data": judged} if "source" in judged else {f"data.{k}": v for k, v in judged.items()}
  for name, data in sets.items():
    for other in train.values():
      splits.check_cut(dict(other), dict(data), f"{where}.{name}")


def put(batch: Mapping[str, Any], sharding):
  """Numeric leaves of a batch -> global jax arrays; strings and other objects stay behind.

  Args:
    batch: what this process has read: [B/n, ...] leaves, possibly nested dicts.
    sharding: a `jax.sharding.Sharding` over the leading axis.

  Returns:
    the same dict of global arrays [B, ...].
  """
  import jax

  out = {}
  for k, v in batch.items():
    if isinstance(v, Mapping):
      out[k] = put(v, sharding)
    elif v.dtype.kind in "biufc" or v.dtype.name == "bfloat16":
      out[k] = jax.make_array_from_process_local_data(sharding, v)
  return out


class BadShare:
  """Adds up the draws that could not be decoded and stops a run that loses too many.

  Counts begin anew with each start of the program. The share is taken of at least 1000 draws, so
  that one damaged file in the first batch does not stop a run.
  """

  def __init__(self, max_bad_share: float):
    self.max_bad_share, self.bad, self.rows = float(max_bad_share), 0, 0

  @property
  def share(self) -> float:
    """Failed draws by all draws so far, in [0,1]."""
    return self.bad / max(self.bad + self.rows, 1)

  def update(self, batch: Batch) -> list[dict]:
    """Takes a batch of `train_batches` into account.

    Returns:
      the batch's failures: dicts(source, id, reason, index), for `failed.jsonl`.

    Raises:
      ValueError: the share exceeds `max_bad_share`; names the last failures.
    """
    failed = [record for records in batch["_failed"] if records for record in records]
    self.bad += int(batch["_bad"].sum())
    self.rows += len(batch["_bad"])
    if self.bad > self.max_bad_share * max(self.bad + self.rows, 1000):
      last = "; ".join(f'{r["source"]} "{r["id"]}": {r["reason"]}' for r in failed[-3:])
      raise ValueError(
        f"config.input.max_bad_share={self.max_bad_share}: {self.bad} of {self.bad + self.rows} "
        f"draws could not be decoded. The last: {last}. Repair or remove the files, or allow more."
      )
    return failed


class Batches(Iterator[Batch]):
  """An iterator over batches that owns threads or processes: `close()` it or use it in `with`.

  It also closes when it is collected and when the program exits.
  """

  def __init__(self, batch_source, *, num_threads: int = 0, num_workers: int = 0):
    for name, value in (("num_threads", num_threads), ("num_workers", num_workers)):
      if value < 0:
        raise ValueError(f"config.input.{name} must be >= 0, got {value}.")
    # Readers are the threads. Those of BLAS in each small product would only wait for cores that
    # the training step uses: ten times the time. Until this is closed.
    limits = threadpoolctl.threadpool_limits(1, user_api="blas")
    # One batch in the making for each thread and one ready; the default would hold 500 batches.
    options = grain.ReadOptions(
      num_threads=num_threads, prefetch_buffer_size=num_threads + 1 if num_threads else 0
    )
    ds = grain.MapDataset.source(batch_source).to_iter_dataset(options)
    if num_workers:
      # Grain reads absl flags, which only absl.app.run parses; notebooks and tests have none.
      if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
      ds = ds.mp_prefetch(
        grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=2),
        worker_init_fn=_init_worker,
      )
    # The only reference, in a box that closing empties: grain's iterators must be gone before the
    # interpreter takes its modules apart, or their __del__ fails loudly.
    self._box = [iter(ds)]
    self._close = weakref.finalize(self, _close, self._box, limits)
    # Before multiprocessing's own exit handler, which would wait for the workers.
    atexit.register(self._close)

  def __next__(self) -> Batch:
    if not self._close.alive:
      raise ValueError("Batches: this iterator is closed.")
    return next(self._box[0])

  def close(self) -> None:
    """Ends threads and worker processes; harmless when repeated."""
    self._close()
    atexit.unregister(self._close)

  def __enter__(self) -> "Batches":
    return self

  def __exit__(self, *exc) -> None:
    self.close()


def _close(box: list, limits) -> None:
  box.pop().close()
  limits.restore_original_limits()


def _init_worker(index: int, count: int) -> None:
  """Runs first in each worker process."""
  del index, count
  # A worker must not outlive a parent that was killed, nor take its accelerator or its cores.
  if sys.platform == "linux":
    import ctypes

    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 = PR_SET_PDEATHSIG
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # it was killed before the line above
      os._exit(1)
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
  os.environ.update(JAX_PLATFORMS="cpu", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
  if "jax" in sys.modules:
    sys.modules["jax"].config.update("jax_platforms", "cpu")


def _rows(batch_size: int, process_index: int, process_count: int) -> range:
  if batch_size <= 0 or batch_size % process_count:
    raise ValueError(
      f"config.input.batch_size={batch_size} is not a positive multiple of the {process_count} "
      f"process(es) that share it. Use {max(1, round(batch_size / process_count)) * process_count}."
    )
  if not 0 <= process_index < process_count:
    raise ValueError(f"process_index={process_index} is not in [0, {process_count}).")
  share = batch_size // process_count
  return range(process_index * share, (process_index + 1) * share)


class _TrainStream:
  """Row g -> (source, item) and the example there."""

  def __init__(self, opened: list[data_sets.Opened], seed: int):
    if seed < 0:
      raise ValueError(f"config.seed must be >= 0, got {seed}.")
    self.opened, self.seed = opened, seed
    self.salts = [zlib.crc32(o.name.encode()) for o in opened]
    self.quotas = _quotas([o.weight for o in opened], [o.name for o in opened])

  def locate(self, g: int) -> tuple[int, int]:
    """Row g of the stream -> (which source, which of its items)."""
    k, m = 0, g
    if len(self.opened) > 1:
      block, slot = divmod(g, _MIX_BLOCK)
      which, ordinal = _mix_block(self.seed, block, self.quotas)
      k = int(which[slot])
      m = block * self.quotas[k] + int(ordinal[slot])
    n = len(self.opened[k].source)
    epoch, i = divmod(m, n)
    return k, _shuffled(i, n, (self.seed, _RNG_SHUFFLE, self.salts[k], epoch))

  def example(self, g: int) -> dict:
    """Row g, with `_bad` and `_failed`."""
    k, i = self.locate(g)
    opened, failed = self.opened[k], []
    while True:
      rng = np.random.default_rng([self.seed, _RNG_PP, g, len(failed)])
      try:
        example = opened.example(i, rng)
        return {**example, "_bad": len(failed), "_failed": failed or None}
      except DecodeError as e:
        failed.append(
          {"source": opened.name, "id": getattr(e, "item", str(i)), "reason": str(e), "index": g}
        )
        if len(failed) == _MAX_ATTEMPTS:
          raise ValueError(
            f"config.input.data.{opened.name}: {_MAX_ATTEMPTS} draws in a row could not be "
            f'decoded. The last: "{failed[-1]["id"]}": {e}'
          ) from e
      redraw = np.random.default_rng([self.seed, _RNG_REDRAW, g, len(failed)])
      i = self.redraw(k, g, redraw)

  def redraw(self, k: int, g: int, rng: np.random.Generator) -> int:
    """An item of source k in place of that of row g, which cannot be decoded."""
    del g
    return int(rng.integers(len(self.opened[k].source)))


class _PkStream(_TrainStream):
  """Rows of batches of classes and tracks, out of the only source."""

  def __init__(self, opened, seed, batch_size, cfg):
    super().__init__(opened, seed)
    self.batch_size = batch_size
    self.sampler = pk.build(cfg, {o.name: o.source for o in opened}, batch_size, seed=seed)

  def locate(self, g: int) -> tuple[int, int]:
    step, row = divmod(g, self.batch_size)
    return 0, int(self.sampler.batch(step)[row])

  def redraw(self, k: int, g: int, rng: np.random.Generator) -> int:
    return self.sampler.stand_in(*divmod(g, self.batch_size), rng)


def _quotas(weights, names) -> tuple[int, ...]:
  """Rows of each source in a block: largest remainders, at least one each."""
  exact = [w / sum(weights) * _MIX_BLOCK for w in weights]
  quotas = [int(x) for x in exact]
  order = sorted(range(len(exact)), key=lambda k: quotas[k] - exact[k])
  for k in order[: _MIX_BLOCK - sum(quotas)]:
    quotas[k] += 1
  if 0 in quotas:
    name = names[quotas.index(0)]
    raise ValueError(
      f"config.input.data.{name}.weight is below 1/{_MIX_BLOCK} of all weights: no row would come "
      "from it. Raise it or remove the source."
    )
  return tuple(quotas)


def _shuffled(i: int, n: int, entropy: tuple[int, ...]) -> int:
  """Where a random permutation of range(n), drawn from `entropy`, sends i."""
  # A table for small sources: exactly uniform, and grain's cipher walks up to milliseconds through
  # its domain when n is tiny. The cipher for large ones: no table of a million entries per epoch.
  if n <= _TABLE:
    return int(_permutation(n, entropy)[i])
  key = int(np.random.SeedSequence(entropy).generate_state(1)[0])
  return grain.experimental.index_shuffle(i, max_index=n - 1, seed=key, rounds=4)


@functools.lru_cache(maxsize=32)
def _permutation(n: int, entropy: tuple[int, ...]) -> np.ndarray:
  return np.random.default_rng(entropy).permutation(n)


@functools.lru_cache(maxsize=16)
def _mix_block(seed: int, block: int, quotas: tuple[int, ...]):
  """For each slot of a block: u16 source and u16 ordinal among that source's rows there."""
  which = np.repeat(np.arange(len(quotas), dtype=np.uint16), quotas)
  which = np.random.default_rng([seed, _RNG_MIX, block]).permutation(which)
  ordinal = np.empty(len(which), np.uint16)
  for k, quota in enumerate(quotas):
    ordinal[which == k] = np.arange(quota)
  return which, ordinal


class _TrainBatches:
  """What grain reads: item s is this process's part of batch `start_step + s`."""

  def __init__(self, stream, batch_size, rows, start_step):
    self.stream, self.batch_size, self.rows, self.start_step = stream, batch_size, rows, start_step

  def __len__(self):
    return sys.maxsize - self.start_step

  def __getitem__(self, s: int) -> Batch:
    first = (self.start_step + int(s)) * self.batch_size
    return collate([self.stream.example(first + r) for r in self.rows])


class _EvalBatches:
  """What grain reads in evaluation: item s is this process's part of padded batch s."""

  def __init__(self, opened, batch_size, rows, limit, seed):
    self.opened, self.batch_size, self.rows, self.seed = opened, batch_size, rows, seed
    self.ends = np.cumsum([len(o.source) for o in opened])
    self.n = int(self.ends[-1]) if limit is None else min(limit, int(self.ends[-1]))

  def __len__(self):
    return math.ceil(self.n / self.batch_size)

  def __getitem__(self, s: int) -> Batch:
    examples = []
    for r in self.rows:
      g = int(s) * self.batch_size + r
      real = g < self.n
      g = min(g, self.n - 1)
      k = int(np.searchsorted(self.ends, g, side="right"))
      i = g - (int(self.ends[k - 1]) if k else 0)
      example = self.opened[k].example(i, np.random.default_rng([self.seed, _RNG_PP, g, 0]))
      examples.append({**example, "_mask": np.float32(real)})
    return collate(examples)
