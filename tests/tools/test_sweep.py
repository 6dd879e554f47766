"""Sweeps: which runs there are, what is skipped, resumed and recorded, searches, stop and kill."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from big_audio import config as C
from big_audio import input_pipeline, train_loop
from big_audio.tools import list_configs, manifests, sweep, sweep_plan
from tests import commands

GRID = """
def get_sweep(arg=""):
  return dict(config="configs/meanflow.py", fixed=dict(data="digits", smoke=True),
              grid={"method": ["ae", "fm"], "config.optimizer.lr": [0.001, 0.01]})
"""
SEARCH = """
def get_sweep(arg=""):
  return dict(config="configs/meanflow.py", fixed=dict(data="digits", smoke=True),
              search={"config.optimizer.lr": dict(log=[1e-4, 1e-1]), "method": ["ae", "fm"],
                      "config.seed": dict(int=[0, 9])},
              metric="val/val/loss", mode="min")
"""
NAMES = [f"method={m},optimizer.lr={lr}" for m in ("ae", "fm") for lr in ("0.001", "0.01")]


def file(tmp_path, text, name="s.py"):
  (tmp_path / name).write_text(text)
  return str(tmp_path / name)


def states(root):
  return {r["name"]: r["state"] for r in manifests.read(root / sweep.FILE)}


@pytest.fixture
def fake(monkeypatch):
  """The train loop replaced: what it was called with, and what it shall do by workdir's name."""
  calls, deeds = [], {}

  def train(config, workdir):
    name = os.path.basename(workdir)
    calls.append(name)
    if name in deeds:
      return deeds[name](config)
    return {"step": 60, "val/val/loss": abs(config.optimizer.lr - 0.003)}

  monkeypatch.setattr(train_loop, "train", train)
  return calls, deeds


def test_a_grid_runs_fails_and_goes_on(tmp_path, fake, capsys):
  calls, deeds = fake

  def fails(config):
    raise FloatingPointError("not finite")

  deeds[NAMES[1]] = fails
  argv = [file(tmp_path, GRID), "--root", str(tmp_path / "r")]
  assert sweep.main(argv) == 1
  assert calls == NAMES
  assert states(tmp_path / "r") == dict(zip(NAMES, ("done", "failed", "done", "done"), strict=True))
  rows = {r["name"]: r for r in manifests.read(tmp_path / "r" / sweep.FILE)}
  assert rows[NAMES[1]]["error"] == "FloatingPointError: not finite"
  assert "in fails" in rows[NAMES[1]]["traceback"]
  assert rows[NAMES[0]]["settings"] == {
    "data": "digits", "smoke": True, "method": "ae", "config.optimizer.lr": 0.001,
  }  # fmt: skip
  out = capsys.readouterr().out
  assert "3 done, 1 failed" in out and "FloatingPointError" in out
  calls.clear(), deeds.clear()
  assert sweep.main(argv) == 0 and calls == [NAMES[1]], "only what failed is made again"
  calls.clear()
  assert sweep.main([*argv, "--status"]) == 0 and not calls
  assert sweep.main(argv) == 0 and not calls


def test_the_config_of_a_run_is_that_of_its_printed_command(tmp_path, fake, capsys):
  calls, deeds = fake
  got = []
  deeds[NAMES[3]] = lambda config: got.append(config) or {"step": 1}
  argv = [file(tmp_path, GRID), "--root", str(tmp_path / "r"), "--only", "method=fm.*0.01$"]
  assert sweep.main([*argv, "--print"]) == 0
  (line,) = capsys.readouterr().out.splitlines()
  assert line == (
    "python train.py --config configs/meanflow.py:data=digits,smoke=true,method=fm --workdir "
    f"{tmp_path}/r/{NAMES[3]} --config.optimizer.lr=0.01"
  )
  assert sweep.main(argv) == 0 and calls == [NAMES[3]]
  same = C.load("configs/meanflow.py:data=digits,smoke=true,method=fm", ["optimizer.lr=0.01"])
  assert got[0] == same


def test_a_config_that_does_not_load_is_told_before_the_first_run(tmp_path, fake, capsys):
  calls, _ = fake
  path = file(tmp_path, GRID.replace('"fm"]', '"fmm"]'))
  assert sweep.main([path, "--root", str(tmp_path / "r")]) == 1
  assert calls == NAMES[:2]
  err = capsys.readouterr().err.splitlines()
  assert "method=fmm" in err[1] and 'Did you mean "fm"' in err[1], "failures come first"
  path = file(tmp_path, GRID.replace('["ae", "fm"]', '["x"]'))
  assert sweep.main([path, "--root", str(tmp_path / "r2")]) == 2
  assert "none of the 2 runs has a config that loads" in capsys.readouterr().err


def test_names_grids_and_errors(tmp_path):
  grid = dict(config="configs/meanflow.py", fixed={}, grid=[
    {"method": ["ae"], "config.x": [[1, 2]]}, {"method": ["ae", "fm"], "config.x": [[1, 2], "a/b"]},
  ])  # fmt: skip
  names = [r.name for r in sweep_plan.grid_runs(grid)]
  assert len(names) == len(set(names)) == 4, "a run in two grids is made once"
  assert all("/" not in n and " " not in n for n in names)
  long = dict(grid, grid={"method": ["x" * 300, "x" * 299]})
  names = [r.name for r in sweep_plan.grid_runs(long)]
  assert len(set(names)) == 2 and max(map(len, names)) < 140
  with pytest.raises(ValueError, match="cannot hold a comma"):
    sweep_plan.grid_runs(dict(grid, grid={"method": ["a,b"]}))
  with pytest.raises(ValueError, match="expected a list of values"):
    sweep_plan.grid_runs(dict(grid, grid={"method": "ae"}))
  for text, words in (
    ("x = 1", "get_sweep"),
    (GRID.replace("grid=", "gird="), "unknown key 'gird'. Did you mean"),
    (GRID.replace("config=", "fixed2="), "unknown key 'fixed2'"),
    (SEARCH.replace("log=[1e-4", "log=[0"), "expected a list of choices"),
    (SEARCH.replace("metric=", "fixed3="), "unknown key"),
  ):
    with pytest.raises(ValueError, match=words):
      sweep_plan.read(file(tmp_path, text))
  assert sweep.main(["none.py", "--root", "x"]) == 2
  assert sweep.main([file(tmp_path, GRID), "--root", "x", "--search", "tpe"]) == 2
  assert sweep.main([file(tmp_path, GRID), "--root", "x", "--only", "("]) == 2


@pytest.mark.parametrize("search", [pytest.param("random", marks=pytest.mark.slow), "tpe"])
def test_a_search_asks_the_same_when_it_was_broken_off(tmp_path, fake, search, capsys):
  if search == "tpe":
    pytest.importorskip("optuna", reason="needs the extra sweep")
  calls, _ = fake
  argv = lambda root, n: [
    file(tmp_path, SEARCH), "--root", str(tmp_path / root), "--search", search, "--trials", str(n)
  ]  # fmt: skip
  assert sweep.main(argv("whole", 16)) == 0
  whole = list(calls)
  assert len(whole) == 16 and len({n.split(",", 1)[1] for n in whole}) > 8
  assert "best: trial" in capsys.readouterr().out
  calls.clear()
  sweep.main(argv("parts", 5))
  # Killed inside a trial: its row says that it began.
  rows = manifests.read(tmp_path / "parts" / sweep.FILE)
  manifests.write(tmp_path / "parts" / sweep.FILE, [*rows[:4], {**rows[4], "state": "running"}])
  sweep.main(argv("parts", 16))
  assert calls == whole[:5] + whole[4:], "the trial that had begun is made again, then the others"
  if search == "tpe":
    rates = [float(n.split("optimizer.lr=")[1].split(",")[0]) for n in whole]
    assert min(abs(r - 0.003) for r in rates[10:]) < 0.002


@pytest.mark.parametrize(
  "change,flags,told",
  [
    (('digits"', 'mnist"'), (), "fixed/data: there 'digits', now 'mnist'"),
    (("1e-4", "1e-3"), (), "search/config.optimizer.lr"),
    (
      ('"config.seed": dict', '"config.trainer.p": dict'),
      (),
      "search/config.trainer.p: there '(absent)'",
    ),
    (('"val/val/loss"', '"val/val/mse"'), (), "metric: there 'val/val/loss', now 'val/val/mse'"),
    (("", ""), ("--seed", "1"), "seed: there 0, now 1"),
    (("", ""), ("--search", "tpe"), "kind: there 'random', now 'tpe'"),
  ],
)
def test_a_root_belongs_to_one_search(tmp_path, fake, capsys, change, flags, told):
  if "tpe" in flags:
    pytest.importorskip("optuna", reason="needs the extra sweep")
  calls, _ = fake
  root = tmp_path / "r"
  argv = [file(tmp_path, SEARCH), "--root", str(root), "--trials", "2"]
  assert sweep.main(argv) == 0
  rows = manifests.read(root / sweep.FILE)
  manifests.write(root / sweep.FILE, [rows[0], {**rows[1], "state": "stopped"}])
  before = (root / sweep.FILE).read_text()
  calls.clear(), capsys.readouterr()
  other = [file(tmp_path, SEARCH.replace(*change), "t.py"), *argv[1:], *flags]
  assert sweep.main(other) == 2 and not calls
  err = capsys.readouterr().err
  assert "holds trials of another search" in err and told in err
  assert (root / sweep.FILE).read_text() == before
  assert sweep.main([*other, "--status"]) == 0, "looking is free"
  assert sweep.main([*argv[:-1], "3"]) == 0 and len(calls) == 2, "its own search goes on"


def test_a_search_in_the_root_of_a_grid_is_refused(tmp_path, fake, capsys):
  root = str(tmp_path / "r")
  assert sweep.main([file(tmp_path, GRID), "--root", root]) == 0
  assert sweep.main([file(tmp_path, SEARCH, "t.py"), "--root", root]) == 2
  assert "a run of a grid" in capsys.readouterr().err


def test_a_failed_trial_stays_one(tmp_path, fake, capsys):
  calls, _ = fake
  path = file(tmp_path, SEARCH.replace("val/val/loss", "val/val/los"))
  argv = [path, "--root", str(tmp_path / "r"), "--trials", "2"]
  assert sweep.main(argv) == 1 and len(calls) == 2
  assert sweep.main(argv) == 1 and len(calls) == 2


def test_failed_trials_and_unknown_metrics_are_recorded(tmp_path, fake, capsys):
  path = file(tmp_path, SEARCH.replace("val/val/loss", "val/val/los"))
  assert sweep.main([path, "--root", str(tmp_path / "r"), "--trials", "2"]) == 1
  assert set(states(tmp_path / "r").values()) == {"failed"}
  assert 'Did you mean "val/val/loss"' in capsys.readouterr().out


@pytest.mark.slow
def test_sigterm_stops_run_and_sweep_and_both_go_on(tmp_path, monkeypatch):
  text = GRID.replace("0.01]", "0.01], 'config.total_steps': [12], 'config.input.batch_size': [16]")
  text = text.replace('"ae", "fm"', '"ae"')
  argv = [file(tmp_path, text), "--root", str(tmp_path / "r")]
  real, count = input_pipeline.BadShare.update, [0]

  def update(self, batch):
    count[0] += 1
    if count[0] == 5:
      os.kill(os.getpid(), signal.SIGTERM)
    return real(self, batch)

  monkeypatch.setattr(input_pipeline.BadShare, "update", update)
  names = [r.name for r in sweep_plan.grid_runs(sweep_plan.read(argv[0]))]
  train = train_loop.train
  second = lambda workdir: workdir.endswith(names[1])
  monkeypatch.setattr(train_loop, "train", lambda c, w: {} if second(w) else train(c, w))
  assert sweep.main(argv) == 130
  assert states(tmp_path / "r") == {names[0]: "stopped"}
  assert commands.steps(tmp_path / "r" / names[0]) == [5]
  assert sweep.main(argv) == 0
  assert states(tmp_path / "r") == dict.fromkeys(names, "done")
  assert count[0] == 12, "no step was computed twice"
  assert commands.rows(tmp_path / "r" / names[0])[-1]["step"] == 12


DIES = """
import os, signal
from big_audio.config import args, load
ARGS = dict(deed=("die", "raise"))

def get_config(arg=""):
  a = args(arg, ARGS)
  config = load("configs/meanflow.py:data=digits,smoke").copy_and_resolve_references()
  if os.getpid() != PARENT and a.deed == "die":
    os.kill(os.getpid(), signal.SIGKILL)
  if os.getpid() != PARENT:
    print("a word for the log")
    raise ValueError("as asked")
  return config
"""


def test_a_worker_that_dies_fails_its_run_alone(tmp_path, capsys):
  config = file(tmp_path, DIES.replace("PARENT", str(os.getpid())), "c.py")
  text = (
    f'def get_sweep(arg=""):\n  return dict(config={config!r}, grid=dict(deed=["die", "raise"]))'
  )
  argv = [file(tmp_path, text), "--root", str(tmp_path / "r"), "--jobs", "2"]
  assert sweep.main(argv) == 1
  rows = {r["name"]: r for r in manifests.read(tmp_path / "r" / sweep.FILE)}
  assert "SIGKILL" in rows["deed=die"]["error"]
  assert rows["deed=raise"]["error"] == "ValueError: as asked"
  assert "a word for the log" in (tmp_path / "r/deed=raise/sweep.log").read_text()


STEPS = """
import os, signal, sys, time, types
from ml_collections import ConfigDict

def train(config, workdir):
  # What the sweep relies on: goes on where it stopped, and takes SIGTERM behind a whole step.
  stop = []
  old = signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
  path = os.path.join(workdir, "steps")
  n = os.path.getsize(path) if os.path.exists(path) else 0
  while n < 30 and not stop:
    with open(path, "a") as f:
      f.write("." if config.seed == 0 else "x")
    n += 1
    time.sleep(0.05)
  signal.signal(signal.SIGTERM, old)
  return {"step": n}

def get_config(arg=""):
  sys.modules["big_audio.train_loop"] = types.SimpleNamespace(train=train)
  import big_audio
  big_audio.train_loop = sys.modules["big_audio.train_loop"]
  return ConfigDict(dict(models={}, total_steps=30, seed=0))
"""


@pytest.mark.parametrize(
  "number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_two_workers_end_with_their_parent_and_go_on(tmp_path, number):
  config = file(tmp_path, STEPS, "c.py")
  text = f"""
def get_sweep(arg=""):
  return dict(config={config!r}, grid={{"config.seed": [0, 1, 2, 3]}})"""
  root = tmp_path / "r"
  argv = [sys.executable, "-m", "big_audio.tools.sweep", file(tmp_path, text), "--root", str(root)]
  argv += ["--jobs", "2"]
  process = commands.start(argv, tmp_path / "log", **{commands.MARK: str(tmp_path)})
  size = lambda seed: (root / f"seed={seed}/steps").stat().st_size
  both = lambda: all((root / f"seed={i}/steps").exists() and size(i) > 3 for i in (0, 1))
  assert commands.wait_until(both, process), commands.printed(tmp_path / "log")
  process.send_signal(number)
  code = process.wait()
  assert not commands.orphans(str(tmp_path), patience=30)
  assert max(size(0), size(1)) < 30 and not (root / "seed=2").exists()
  if number == signal.SIGTERM:
    assert code == 130 and set(states(root).values()) == {"stopped"}
  code, out = commands.finish(argv, tmp_path / "log")
  assert code == 0, out
  assert set(states(root).values()) == {"done"} and len(states(root)) == 4
  assert (root / "seed=0/steps").read_text() == "." * 30, "no step twice"
  assert [size(i) for i in range(4)] == [30] * 4


@pytest.mark.slow
def test_a_killed_sweep_of_two_workers_ends_like_an_unbroken_one(tmp_path):
  text = GRID.replace("0.01]", "0.01], 'config.ckpt.every_steps': [5]").replace(', "fm"', "")
  argv = [sys.executable, "-m", "big_audio.tools.sweep", file(tmp_path, text), "--root"]
  names = [r.name for r in sweep_plan.grid_runs(sweep_plan.read(argv[3]))]
  for root, kill in (("whole", False), ("killed", True)):
    folder = tmp_path / root
    command = [*argv, str(folder), *(["--jobs", "2"] if kill else [])]
    if kill:
      process = commands.start(command, tmp_path / "log", **{commands.MARK: str(tmp_path)})
      first = folder / names[0]
      assert commands.wait_until(lambda: commands.last_step(first) >= 10, process)
      process.kill()
      process.wait()
      assert not commands.orphans(str(tmp_path), patience=60)
      assert set(states(folder).values()) <= {"running", "done"}
    code, out = commands.finish(command, tmp_path / "log")
    assert code == 0, out
    assert set(states(folder).values()) == {"done"}
  for name in names:
    commands.assert_same_run(tmp_path / "whole" / name, tmp_path / "killed" / name)


@pytest.mark.parametrize("path", list_configs.find("configs/sweeps"))
def test_the_projects_own_sweeps_load(path):
  assert "python -m big_audio.tools.sweep" in pathlib.Path(path).read_text()
  s = sweep_plan.read(f"{path}:smoke")
  if "search" in s:
    runs = [
      sweep_plan.make_run(s, sweep_plan.random_settings(s, 0, i), shown=s["search"]) for i in (0, 1)
    ]
  else:
    runs = sweep_plan.grid_runs(s)
  for run in runs:
    run.load()
  if "matrix" in path:
    assert len(runs) == len({r.name for r in runs}) == 64
    assert sum(r.settings["data"] == "digits" for r in runs) == 32


def test_status_needs_no_jax():
  code = "import sys, big_audio.tools.sweep; assert 'jax' not in sys.modules"
  subprocess.run([sys.executable, "-c", code], check=True)
