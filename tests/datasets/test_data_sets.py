"""Operations that run once for an item, and what they keep."""

import pickle

import numpy as np
import pytest

from big_audio import input_pipeline
from big_audio.datasets import data_sets
from big_audio.pp import registry

CALLS = []


@registry.op("count_calls")
def count_calls():
  def fn(example, rng):
    CALLS.append((example["id"], float(rng.random())))
    return {**example, "drawn": np.float32([CALLS[-1][1]])}

  return fn


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
  from tests import fake_source

  CALLS.clear()
  monkeypatch.setattr(
    data_sets.sources, "build", lambda kind, where, **kw: fake_source.Source(**kw)
  )


COUNT = f"{__name__}.count_calls"


def open_one(**kw):
  (found,) = data_sets.open_all({"a": dict(source="x", **kw)})
  return found


def test_once_runs_a_single_time_and_pp_each_time():
  data = open_one(once=COUNT, pp="crop(samples=5)|keep('wav', 'drawn', 'id')")
  draws = [data.example(3, np.random.default_rng(s)) for s in range(20)]
  (call,) = CALLS
  assert call == ("id3", float(np.random.default_rng(3).random()))
  assert len({float(d["wav"][0, 0]) for d in draws}) > 5  # crops differ
  assert len({float(d["drawn"][0]) for d in draws}) == 1
  plain = open_one(pp=f"{COUNT}|crop(samples=5)|keep('wav', 'id')")
  for s, d in enumerate(draws):
    same = plain.example(3, np.random.default_rng(s))
    assert same["wav"].shape == d["wav"].shape


def test_what_is_kept_cannot_be_written_and_travels_without_it():
  data = open_one(once=COUNT, pp="")
  got = data.example(0, np.random.default_rng(0))
  with pytest.raises(ValueError, match="read-only"):
    got["drawn"][0] = 1
  again = pickle.loads(pickle.dumps(data))
  again.example(0, np.random.default_rng(0))
  assert len(CALLS) == 2


def test_a_limit_of_memory(monkeypatch):
  monkeypatch.setattr(data_sets, "MOST_BYTES", 3 * 50 * 4 + 20)
  data = open_one(once="keep('wav')", pp="")
  for i in range(3):
    data.example(i, np.random.default_rng(0))
  with pytest.raises(ValueError, match="after 3 of 20 items"):
    data.example(3, np.random.default_rng(0))


def test_batches_do_not_depend_on_who_read_first():
  from ml_collections import ConfigDict

  cfg = lambda threads: ConfigDict(dict(
    batch_size=8, num_threads=threads,
    data=dict(a=dict(source="x", once=COUNT, pp="crop(samples=5)|keep('wav', 'drawn')")),
  ))  # fmt: skip
  with input_pipeline.train_batches(cfg(0), seed=1) as whole:
    want = [next(whole) for _ in range(6)]
  for threads, start in ((2, 0), (0, 3)):
    with input_pipeline.train_batches(cfg(threads), seed=1, start_step=start) as it:
      for batch in want[start:]:
        got = next(it)
        np.testing.assert_array_equal(got["wav"], batch["wav"])
        np.testing.assert_array_equal(got["drawn"], batch["drawn"])
