"""What is seen is a pure function of (seed, step); failures are redrawn, counted and named."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from big_audio import input_pipeline as ip
from tests import fake_source


@pytest.fixture(autouse=True)
def fake(monkeypatch):
  monkeypatch.setattr(
    ip.data_sets.sources, "build", lambda kind, where="", **kw: fake_source.Source(**kw)
  )


def cfg(batch_size=6, pp="crop(samples=10)", num_threads=0, num_workers=0, **kw):
  data = kw.pop("data", None) or {"a": dict(source="fake", pp=pp, **kw)}
  return ConfigDict(
    dict(batch_size=batch_size, data=data, num_threads=num_threads, num_workers=num_workers)
  )


def read(c, steps, seed=3, **kw):
  with ip.train_batches(c, seed=seed, **kw) as it:
    return [next(it) for _ in range(steps)]


def assert_same(a, b):
  assert len(a) == len(b)
  for x, y in zip(a, b, strict=True):
    assert x.keys() == y.keys()
    for k in x:
      assert x[k].dtype == y[k].dtype and x[k].shape == y[k].shape, k
      assert np.array_equal(x[k], y[k]), k


def test_batches_are_arrays_of_the_expected_kinds():
  (b,) = read(cfg(), 1)
  assert b["wav"].shape == (6, 10, 1) and b["wav"].dtype == np.float32
  assert b["label"].dtype == np.int32 and b["sr"].tolist() == [100] * 6
  assert b["id"].dtype == object and b["id"][0] == f"id{b['label'][0]}"
  assert b["_bad"].dtype == np.int32 and b["_bad"].shape == (6,) and not b["_bad"].any()
  assert b["_failed"].shape == (6,) and set(b["_failed"]) == {None}


@pytest.mark.parametrize("threads,workers", [(2, 0), (0, 2), (2, 1)])
def test_threads_and_workers_change_nothing(threads, workers):
  c = dict(data={"a": dict(source="fake", pp="crop(samples=10)", n=7, broken=(2,))})
  assert_same(read(cfg(**c), 5), read(cfg(num_threads=threads, num_workers=workers, **c), 5))


def test_starting_at_a_step_equals_skipping_to_it():
  assert_same(read(cfg(), 9)[5:], read(cfg(num_threads=2), 4, start_step=5))


@pytest.mark.parametrize("n", [2, 3])
def test_processes_share_the_global_batch_in_order(n):
  parts = [read(cfg(), 4, process_index=p, process_count=n) for p in range(n)]
  joined = [{k: np.concatenate([q[k] for q in step]) for k in step[0]} for step in zip(*parts)]
  assert_same(read(cfg(), 4), joined)


def test_each_epoch_holds_every_item_once_in_a_new_order():
  labels = np.concatenate([b["label"] for b in read(cfg(batch_size=5, n=20), 12)])
  epochs = labels.reshape(3, 20)
  assert all(sorted(e) == list(range(20)) for e in epochs.tolist())
  assert len({tuple(e) for e in epochs.tolist()}) == 3
  other = np.concatenate([b["label"] for b in read(cfg(batch_size=5, n=20), 4, seed=4)])
  assert (other != epochs[0]).any()


def test_shuffle_is_close_to_uniform():
  # Position of item 0 over many epochs: no position may be preferred.
  stream = ip._TrainStream(ip.data_sets.open_all(cfg(n=10).data), 0)
  where = Counter(g % 10 for g in range(20_000) if stream.locate(g)[1] == 0)
  assert min(where.values()) > 140 and max(where.values()) < 260  # 200 +- 4.4 sigma


@pytest.mark.parametrize("n", [1, 2, 1000, 70_000])
def test_shuffled_is_a_permutation_that_depends_on_its_key(n):
  p = [ip._shuffled(i, n, (5, 3)) for i in range(n)]
  assert sorted(p) == list(range(n))
  if n >= 1000:
    assert abs(np.corrcoef(p, range(n))[0, 1]) < 0.1
    assert p[:20] != [ip._shuffled(i, n, (5, 4)) for i in range(20)]


def test_crops_differ_between_epochs_and_rows():
  starts = np.concatenate([b["wav"][:, 0, 0] % 1000 for b in read(cfg(batch_size=40), 10)])
  assert len(set(starts.tolist())) > 30 and starts.max() == 40


def test_mixture_keeps_weights_and_each_sources_epochs():
  data = {
    "a": dict(source="fake", weight=3.0, n=20, pp="crop(samples=10)"),
    "b": dict(source="fake", weight=1, n=10, offset=100, pp="crop(samples=10)"),
  }
  labels = np.concatenate([b["label"] for b in read(cfg(batch_size=500, data=data), 40)])
  b = labels[labels >= 100]
  assert len(b) == 5000  # exact over whole blocks of 10,000 rows
  assert all(sorted(e) == list(range(100, 110)) for e in b.reshape(-1, 10).tolist())
  assert 90 < np.sum(labels[:400] >= 100) < 1000 and (labels[:50] >= 100).any()
  assert ip.num_examples(cfg(data=data)) == 30


def test_quotas_are_largest_remainders_and_refuse_a_lost_source():
  assert ip._quotas([1, 1, 1], "abc") == (3334, 3333, 3333)
  with pytest.raises(ValueError, match=r"data\.b\.weight is below 1/10000"):
    ip._quotas([1, 1e-6], "ab")


def test_broken_items_are_redrawn_counted_and_named():
  c = cfg(batch_size=20, n=10, broken=(3, 4))
  (b,) = read(c, 1)
  assert not set(b["label"].tolist()) & {3, 4}
  assert b["_bad"].sum() >= 4 and b["_bad"].dtype == np.int32
  share = ip.BadShare(0.5)
  records = share.update(b)
  assert len(records) == b["_bad"].sum() and {r["id"] for r in records} == {"3", "4"}
  assert set(records[0]) == {"source", "id", "reason", "index"}
  assert records[0]["source"] == "a" and "is broken" in records[0]["reason"]
  assert share.share == len(records) / (20 + len(records))


def test_bad_share_stops_beyond_the_limit_only():
  batch = {"_bad": np.int32([1, 0]), "_failed": np.empty(2, object)}
  batch["_failed"][0] = [{"source": "a", "id": "x.wav", "reason": "cut off", "index": 0}]
  share = ip.BadShare(0.01)
  for _ in range(10):  # 10 of at least 1000 is 1 %
    share.update(batch)
  with pytest.raises(ValueError, match=r'max_bad_share=0\.01: 11 of 33.*a "x\.wav": cut off'):
    share.update(batch)
  with pytest.raises(ValueError, match="max_bad_share"):
    ip.BadShare(0.0).update(batch)


def test_a_source_of_broken_items_stops():
  with pytest.raises(ValueError, match=r"data\.a: 100 draws in a row"):
    read(cfg(n=3, broken=(0, 1, 2)), 1)


def test_eval_reads_in_order_and_pads():
  data = dict(source="fake", n=10, pp="crop(samples=10)")
  with ip.eval_batches(data, batch_size=4) as it:
    batches = list(it)
  assert [b["label"].tolist() for b in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 9, 9]]
  assert batches[2]["_mask"].tolist() == [1, 1, 0, 0] and batches[0]["_mask"].dtype == np.float32
  assert "_bad" not in batches[0]
  parts = []
  for p in range(2):
    with ip.eval_batches(data, batch_size=4, process_index=p, process_count=2) as it:
      parts.append(list(it))
  joined = [{k: np.concatenate([q[k] for q in step]) for k in step[0]} for step in zip(*parts)]
  assert_same(batches, joined)
  with ip.eval_batches({"x": data, "y": data}, batch_size=6, limit=12) as it:
    assert np.concatenate([b["label"] for b in it]).tolist() == [*range(10), 0, 1]


def test_eval_refuses_to_replace_a_broken_item():
  with (
    ip.eval_batches(dict(source="fake", n=4, broken=(2,)), batch_size=4) as it,
    pytest.raises(ip.DecodeError, match="item 2"),
  ):
    list(it)


@pytest.mark.parametrize("threads,workers", [(0, 0), (2, 0), (0, 1)])
def test_errors_of_examples_reach_the_caller_with_their_place(threads, workers):
  c = cfg(pp="crop(secs=10)", num_threads=threads, num_workers=workers)
  with pytest.raises(ValueError, match=r"config\.input\.data\.a\.pp: crop\(secs=10\) needs 1000"):
    read(c, 1)


def test_unequal_shapes_say_what_to_write():
  with pytest.raises(ValueError, match=r'"wav" is float32\[\d+, 1\] in "id\d+" but .*pad\(...\)'):
    read(cfg(pp="", ragged=True), 1)


def test_unequal_keys_say_what_to_write():
  data = {"a": dict(source="fake", pp="keep('wav')"), "b": dict(source="fake", pp="")}
  with pytest.raises(ValueError, match=r"differ in keys.*keep"):
    read(cfg(data=data, batch_size=50), 1)


@pytest.mark.parametrize(
  "change,message",
  [
    (dict(data={"a": dict(sourc="fake")}), r'data\.a has no "source"'),
    (dict(data={"a": dict(source="fake", weight=0)}), r"data\.a\.weight must be above zero"),
    (dict(pp="corp(1)"), r'data\.a\.pp: unknown operation "corp".*"crop"'),
    (dict(num_threads=-1), r"num_threads must be >= 0"),
  ],
)
def test_wrong_configs(change, message):
  with pytest.raises(ValueError, match=message):
    read(cfg(**change), 1)


def test_wrong_batch_sizes():
  with pytest.raises(ValueError, match=r"batch_size=7 is not .* the 2 process.*Use 8"):
    read(cfg(batch_size=7), 1, process_count=2)
  with pytest.raises(ValueError, match="process_index=2"):
    read(cfg(), 1, process_index=2, process_count=2)
  with pytest.raises(ValueError, match=r"config\.input\.data is empty"):
    ip.num_examples(ConfigDict(dict(data={})))


def test_close_ends_threads_and_processes():
  import multiprocessing

  before = threading.active_count()
  it = ip.train_batches(cfg(num_threads=2, num_workers=1), seed=0)
  next(it)
  assert multiprocessing.active_children()
  it.close()
  it.close()
  deadline = time.time() + 40  # a busy machine ends them late
  while (multiprocessing.active_children() or threading.active_count() > before) and (
    time.time() < deadline
  ):
    time.sleep(0.05)
  assert not multiprocessing.active_children()
  assert threading.active_count() <= before
  with pytest.raises(ValueError, match="closed"):
    next(it)


def test_workers_die_with_a_killed_parent_and_take_no_accelerator(tmp_path):
  code = """
    import os, sys, time
    from ml_collections import ConfigDict
    from big_audio import input_pipeline as ip
    from tests import fake_source

    class Spy(fake_source.Source):
      def __getitem__(self, i):
        return {"pid": os.getpid(), "jax": os.environ.get("JAX_PLATFORMS", "")}

    if __name__ == "__main__":
      ip.data_sets.sources.build = lambda *a, **k: Spy()
      c = ConfigDict(dict(batch_size=2, data={"a": dict(source="x")}, num_workers=1))
      b = next(ip.train_batches(c, seed=0))
      print(b["pid"][0], b["jax"][0], flush=True)
      time.sleep(60)
  """
  script = tmp_path / "parent.py"
  script.write_text(textwrap.dedent(code))
  env = {**os.environ, "PYTHONPATH": os.getcwd()}
  env.pop("JAX_PLATFORMS", None)
  with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=env) as p:
    pid, platform = p.stdout.readline().split()
    assert int(pid) != p.pid and platform == "cpu"
    p.send_signal(signal.SIGKILL)
  deadline = time.time() + 40  # a busy machine ends them late
  while time.time() < deadline and os.path.exists(f"/proc/{pid}"):
    with open(f"/proc/{pid}/stat") as f:
      if f.read().rpartition(")")[2].split()[0] == "Z":  # dead, not yet reaped by init
        break
    time.sleep(0.05)
  else:
    assert not os.path.exists(f"/proc/{pid}")


def test_put_makes_global_arrays_of_numeric_leaves():
  mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
  batch = {"x": np.ones((2, 3), np.float32), "id": np.array(["a", "b"], object)}
  out = ip.put({**batch, "more": batch}, NamedSharding(mesh, PartitionSpec("data")))
  assert set(out) == {"x", "more"} and set(out["more"]) == {"x"}
  assert isinstance(out["x"], jax.Array) and out["x"].shape == (2, 3)
