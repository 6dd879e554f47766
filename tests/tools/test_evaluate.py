"""Evaluating runs that exist: the loop's own numbers, splits, steps, resume, failures."""

import csv
import json
import shutil
from types import SimpleNamespace

import jax
import pytest

from big_audio import config as C
from big_audio import sharding, train_loop
from big_audio.evaluators import mean
from big_audio.tools import evaluate, manifests, runs


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  """A folder as a sweep leaves it: one trained run, one that never began."""
  folder = tmp_path_factory.mktemp("sweep")
  c = C.load("configs/meanflow.py:data=digits,smoke,method=ae")
  with c.unlocked():
    c.total_steps, c.log, c.ckpt = 4, dict(every_steps=2), dict(every_steps=2, keep_latest=9)
    c.input.num_threads = 0
    c.evals = dict(
      val=dict(c.evals.val.to_dict(), limit=48),
      samples=dict(c.evals.samples.to_dict(), batch_size=8, count=8),
    )
  mesh = sharding.make_mesh(jax.devices()[:1])
  train_loop.train(c, str(folder / "method=ae"), mesh=mesh)
  (folder / "broken").mkdir()
  stored = json.dumps(C.to_dict(c))
  (folder / "broken" / "config.json").write_text(stored)
  rows = [dict(name="method=ae", state="done", settings={"method": "ae", "config.seed": 0})]
  manifests.write(folder / runs.SWEEP, rows)
  return folder


def run(out, *argv):
  status = evaluate.main([*map(str, argv), "--out", str(out)])
  return status, evaluate.read(f"{out}.json")


def test_the_numbers_of_the_loop_itself(root, tmp_path, capsys, monkeypatch):
  status, rows = run(tmp_path / "t/x", root / "method=ae")
  assert status == 0
  (row,) = rows
  with open(root / "method=ae/metrics.jsonl") as f:
    last = json.loads(f.read().splitlines()[-1])
  for name, value in row["values"].items():
    assert value == pytest.approx(last[f"val/val/{name}"], rel=1e-5)
  assert (row["step"], row["split"], row["evaluator"]) == (4, "validation", "val")
  assert row["settings"] == {"method": "ae", "config.seed": 0}
  with open(tmp_path / "t/x.csv") as f:
    (line,) = list(csv.DictReader(f))
  assert line["method"] == "ae" and line["split"] == "validation" and line["nfe"] == ""
  assert float(line["ae_mse"]) == row["values"]["ae_mse"]
  # Again: nothing is computed; other arguments are other rows.
  monkeypatch.setattr(mean.Evaluator, "run", lambda *_: pytest.fail("computed again"))
  assert run(tmp_path / "t/x", root / "method=ae") == (0, rows)
  monkeypatch.undo()
  status, more = run(tmp_path / "t/x", root / "method=ae", "--no-ema", "--split", "train")
  assert status == 0 and more[:1] == rows and len(more) == 2
  assert more[1]["split"] == "train" and more[1]["ema"] is False
  assert more[1]["values"]["ae_mse"] != rows[0]["values"]["ae_mse"]
  assert "TRAINED on" in capsys.readouterr().err


def copy_of(root, folder, **val):
  """A copy of the trained run whose stored evaluator has other arguments."""
  shutil.copytree(root / "method=ae", folder)
  config = json.loads((folder / "config.json").read_text())
  config["evals"]["val"] |= val
  (folder / "config.json").write_text(json.dumps(config))
  return folder


def test_a_workdir_trained_anew_is_evaluated_anew(root, tmp_path):
  """The same step and config, other parameters: its own, or those of the run that judges."""
  judge = tmp_path / "judge"
  shutil.copytree(root / "method=ae", judge)
  copy = copy_of(root, tmp_path / "r/run", aux={"embed": f"{judge}:reconstruct"})
  status, before = run(tmp_path / "x", copy)
  assert status == 0 and run(tmp_path / "x", copy) == (0, before)
  other = tmp_path / "r/run/checkpoints/2"
  for changed in (judge, copy):
    shutil.rmtree(changed / "checkpoints/4")
    shutil.copytree(other, changed / "checkpoints/4")
    status, after = run(tmp_path / "x", copy)
    assert status == 0 and len(after) == 1, "the numbers of before are gone"
    assert after[0]["checkpoint"] != before[0]["checkpoint"] and after[0]["key"] == before[0]["key"]
    same = after[0]["values"] == before[0]["values"]
    assert same == (changed == judge)
    before = after
  # What is gone is told, and ends no other run.
  shutil.rmtree(judge)
  assert run(tmp_path / "x", copy, root / "method=ae")[0] == 1
  assert [bool(r.get("error")) for r in evaluate.read(f"{tmp_path}/x.json")] == [False, True, False]


def test_nested_data_sets(root, tmp_path, capsys):
  sets = {s: dict(source="digits", split=s, pp="keep('image')") for s in ("validation", "test")}
  assert evaluate.split_of(sets) == "validation+test"
  got = evaluate.changed("p", dict(data=sets), split="validation")
  assert got == dict(data=dict(validation=sets["validation"])), "each item once"
  both = dict(a=sets["test"], b=dict(source="mnist", dir="d", split="train"))
  got = evaluate.changed("p", dict(data=both), split="test")["data"]
  assert got == dict(a=sets["test"], b=dict(source="mnist", dir="d", split="test"))
  with pytest.raises(ValueError, match=r"config.evals.p.data has no split"):
    evaluate.changed("p", dict(data=dict(a=sets["test"], b=dict(source="x"))), split="test")
  # A real run: the part of the data that it was trained on is told, whatever it is called.
  nested = {"a": sets["test"], "b": dict(sets["test"], split="train")}
  copy = copy_of(root, tmp_path / "run", data=nested)
  status, rows = run(tmp_path / "x", copy)
  assert status == 0 and rows[0]["split"] == "test+train"
  assert "TRAINED on" in capsys.readouterr().err
  status, rows = run(tmp_path / "y", copy, "--split=test")
  assert status == 0 and rows[0]["split"] == "test"
  assert "TRAINED on" not in capsys.readouterr().err


def test_data_that_a_run_was_trained_on():
  test = dict(source="digits", split="test")
  own = dict(source="audio_dir", dir="d", sr=8000, pp="x", splits={"train": "a", "test": "b"})
  clip = dict(source="audio_dir", dir="d", pp="y")
  tfds = dict(source="tfds", builder_dir="d")

  def told(trained, *data):
    config = SimpleNamespace(input=SimpleNamespace(data=trained))
    data = {str(i): s for i, s in enumerate(data)}
    run_ = SimpleNamespace(runner=SimpleNamespace(config=config), configs=dict(x=dict(data=data)))
    return evaluate.Evaluation.trained_on(run_, "x")

  train = dict(own, split="train")
  for split in ("train", "all", "codec", "embed"):
    assert told(train, test, dict(clip, split=split)), split
  assert told(train, clip), "train is what audio_dir takes by itself"
  assert told(dict(own), dict(clip, split="train"))
  assert told(dict(own, split="codec"), clip) and not told(
    dict(own, split="codec"), dict(clip, split="embed")
  )
  assert not told(train, dict(clip, split="test"), test)
  assert not told(train, dict(clip, dir="other", split="all")), "of another folder"
  assert told(dict(own, split="all"), dict(clip, split="test"))
  lines = dict(source="jsonl", file="l")
  assert told(lines, lines) and not told(lines, dict(lines, file="m"))
  shards = dict(source="arrayrecord", files="d/{split}-*")
  assert told(dict(shards, split="train"), dict(shards, split="train", pp="z"))
  assert told(dict(tfds, split="train"), dict(tfds, split="train[:10%]"))
  assert not told(dict(tfds, split="train"), dict(tfds, split="test[:10%]"))
  nested = dict(a=dict(tfds, split="train"), b=lines)
  assert told(nested, lines) and not told(nested, test)
  config = C.load("configs/meanflow.py:data=digits,smoke,classifier=x")
  run_ = SimpleNamespace(runner=SimpleNamespace(config=config), configs=dict(
    mine=dict(data=dict(a=test, b=dict(source="digits", split="codec"))),
    other=dict(data=dict(a=test, b=dict(source="digits", split="embed"))),
  ))  # fmt: skip
  assert evaluate.Evaluation.trained_on(run_, "mine")
  assert not evaluate.Evaluation.trained_on(run_, "other")


def test_folders_steps_and_a_run_that_cannot_be_read(root, tmp_path):
  status, rows = run(tmp_path / "x", root, "--all-steps", "--config.evals.val.batch_size=16")
  assert status == 1
  good = [r for r in rows if not r.get("error")]
  assert [r["step"] for r in good] == [2, 4]
  (bad,) = [r for r in rows if r.get("error")]
  assert bad["workdir"].endswith("broken") and "holds no checkpoints" in bad["error"]
  with open(tmp_path / "x.csv") as f:
    assert "holds no checkpoints" in next(r["error"] for r in csv.DictReader(f))
  # Of every step, an error stays: one step's does not take another's place.
  argv = [root, "--all-steps", "--config.evals.val.batch_size=16", "--config.evals.val.limit=-1"]
  status, failed = run(tmp_path / "f", *argv)
  assert status == 1
  assert [r["step"] for r in failed if not r["workdir"].endswith("broken")] == [2, 4]
  assert all(r["error"] for r in failed) and len(failed) == 3
  status, failed = run(tmp_path / "f", *argv)
  assert status == 1 and len(failed) == 3
  # The failure is tried again, and is not listed twice.
  status, again = run(tmp_path / "x", root, "--all-steps", "--config.evals.val.batch_size=16")
  assert status == 1 and len(again) == len(rows)


def test_samples_go_beside_the_table_and_only_if_named(root, tmp_path):
  status, rows = run(tmp_path / "x", f"{root}/method=ae:2", "--only", "samples")
  assert status == 0 and rows == [], "images have no numbers"
  (first,) = (tmp_path / "x_files").glob("method=ae-*/samples/2/images.png")
  assert not (root / "method=ae/samples/2").exists()
  # A run of the same name in another folder has files of its own.
  shutil.copytree(root / "method=ae", tmp_path / "other/method=ae")
  first.write_bytes(b"first")
  assert run(tmp_path / "x", f"{tmp_path}/other/method=ae:2", "--only", "samples")[0] == 0
  assert len(list((tmp_path / "x_files").glob("*/samples/2/images.png"))) == 2
  assert first.read_bytes() == b"first"


def test_runs_without_the_named_evaluator_are_left_out(root, tmp_path, capsys):
  copy = copy_of(root, tmp_path / "r/has")
  config = json.loads((copy / "config.json").read_text())
  config["evals"]["more"] = config["evals"]["val"]
  (copy / "config.json").write_text(json.dumps(config))
  status, rows = run(tmp_path / "x", root / "method=ae", copy, "--only", "more")
  assert status == 0 and [r["workdir"] for r in rows] == [str(copy)]
  assert "method=ae: has no evaluator more" in capsys.readouterr().err
  status, rows = run(tmp_path / "y", root / "method=ae", copy, "--only", "more", "val")
  assert status == 0 and [r["evaluator"] for r in rows] == ["val", "more", "val"]
  assert run(tmp_path / "z", root / "method=ae", copy, "--only", "mor")[0] == 2
  assert 'Did you mean "more"' in capsys.readouterr().err


def test_errors(root, tmp_path, capsys):
  for argv, words in (
    ([root / "none"], "neither the workdir"),
    ([root / "method=ae", "--config.evls.val.limit=3"], 'Did you mean "evals"'),
    ([root / "method=ae", "--splt=test"], "Unknown argument"),
    ([root / "method=ae", "--only", "vall"], 'Did you mean "val"'),
    ([f"{root}/method=ae:3"], "has no checkpoint 3"),
  ):
    assert run(tmp_path / "x", *argv)[0] in (1, 2)
    assert words in capsys.readouterr().err


def test_other_evaluations_splits_and_rows():
  cfg = dict(type="a", data=dict(source="x", split="validation"), nfe=[1, 2])
  got = evaluate.changed("d", cfg, nfe=(4, 8), split="test")
  assert got == dict(cfg, nfe=[4, 8], data=dict(source="x", split="test"))
  got = evaluate.changed("s", dict(data={}, variants=dict(nfe1=dict(nfe=1))), nfe=(3,))
  assert got["variants"] == dict(nfe3=dict(nfe=3))
  got = evaluate.changed("s", dict(data={}, variants=dict(ae={})), nfe=(3,))
  assert got["variants"] == dict(ae={})
  with pytest.raises(ValueError, match="has no split"):
    evaluate.changed("d", dict(data=dict(files="x")), split="test")
  values = [
    ("nfe1/mel", 0.5),
    ("nfe1/lsd", 2),
    ("ae/mel", 1.0),
    ("z/ae/rtf", 0.1),
    ("kbps", 1.5),
    ("pesq", "unavailable"),
  ]
  got = evaluate.rows_of(values)
  assert got == {"nfe1": dict(mel=0.5, lsd=2.0), "ae": dict(mel=1.0, rtf=0.1),
                 "": dict(kbps=1.5, pesq="unavailable")}  # fmt: skip
  assert [evaluate.nfe_of(k) for k in ("nfe1", "a/nfe16", "ae", "identity", "")] == [
    1,
    16,
    0,
    None,
    None,
  ]


def test_dtype_reaches_the_models_that_take_one(monkeypatch):
  config = C.load("configs/meanflow.py:smoke")
  takes = lambda dim, dtype="float32": None
  other = lambda sr: None
  found = dict(codec=SimpleNamespace(Model=other), convnext1d=SimpleNamespace(Model=takes))
  monkeypatch.setattr(C, "resolve", lambda kind, name: found.get(name, found["codec"]))
  got = evaluate.with_dtype(config, "bfloat16")
  assert got.models.refiner.dtype == "bfloat16" and got.models.codec.dtype is None
  found["convnext1d"].Model = other
  with pytest.raises(ValueError, match="none of the models codec, .*refiner takes it"):
    evaluate.with_dtype(config, "bfloat16")
