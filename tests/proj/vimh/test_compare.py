"""One table of several networks, from a folder of runs that nobody trained."""

import numpy as np
import pytest

from big_audio import config as C
from big_audio.objectives import ordinal
from big_audio.tools import manifests, runs, summary, sweep_plan
from proj.vimh import browse, compare

NETS = ("cnn_10k", "mlp_8.5k")
HEADS = ("note_velocity", "log10_decay_time")
VALUES = {"cnn_10k": (0.5, 0.25), "mlp_8.5k": (0.75, 0.625)}  # by seed


def swept(root, lost=()):
  """The sweep's folder with the numbers of VALUES."""
  plan = compare.plan(",".join(NETS), 1, 2, ["synth=simple_saw"], smoke=True)
  rows = []
  for run in sweep_plan.grid_runs(plan):
    workdir, settings = root / run.name, C.to_dict(run.settings)
    state = "failed" if run.name in lost else "done"
    rows.append(dict(name=run.name, state=state, settings=settings, error="ValueError: x"))
    if run.name in lost:
      continue
    value = VALUES[settings["net"]][settings["config.seed"]]
    workdir.mkdir(parents=True)
    manifests.replace(workdir / "config.json", run.load().to_json_best_effort())
    last = {f"val/test/{h}_{m}": value for h in HEADS for m in compare.MEASURES}
    last |= {"val/test/accuracy": value, "val/test/within1": value, "val/val/accuracy": 0.99}
    manifests.write(workdir / "metrics.jsonl", [
      {"step": 3, "z/steps_per_sec": 10.0, "train/loss": 1.0},
      {"step": 6, "z/steps_per_sec": 20.0 + 10 * settings["config.seed"], **last},
    ])  # fmt: skip
  manifests.write(root / runs.SWEEP, rows)
  return root


def cells(text):
  """{net: {column: text}} of a markdown table."""
  lines = [[c.strip() for c in x.strip().strip("|").split("|")] for x in text.splitlines()]
  return {r[0]: dict(zip(lines[0], r, strict=True)) for r in lines[2:]}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  return swept(tmp_path_factory.mktemp("nets"))


def argv(root, *more):
  return ["--table", "--nets", ",".join(NETS), "--epochs", "1", "--seeds", "2", "--smoke",
          "--root", str(root), *more]  # fmt: skip


def test_table_has_the_medians_best_first_and_the_baselines(root, tmp_path, capsys):
  out = tmp_path / "new" / "x.md"
  assert compare.main(argv(root, "--out", str(out))) == 0
  found = cells(out.read_text())
  assert list(found) == ["mlp_8.5k", "cnn_10k", "constant", "chance"]
  assert found["cnn_10k"]["accuracy"] == "0.375 [0.25, 0.5]"
  assert found["mlp_8.5k"]["accuracy"] == "**0.6875 [0.625, 0.75]**"
  assert found["cnn_10k"]["log10_decay_time_mae"].startswith("**")  # errors: less is better
  assert found["cnn_10k"]["steps/s"] == "17.5 [15, 20]"  # medians of each run's rows
  config = C.load("configs/vimh.py:smoke,net=cnn_10k")
  assert found["cnn_10k"]["parameters"] == str(summary.describe(config).count())
  assert found["chance"]["note_velocity_accuracy"] == "0.3333"
  assert found["constant"]["parameters"] == "-" and "**" not in str(found["constant"])
  csv = out.with_suffix(".csv").read_text().splitlines()
  assert csv[1].startswith("mlp_8.5k,") and "0.6875,0.625,0.75,2" in csv[1]
  capsys.readouterr()
  assert compare.main(argv(root, "--by", "note_velocity_mae")) == 0
  assert list(cells(capsys.readouterr().out))[:2] == ["cnn_10k", "mlp_8.5k"]


def test_baselines_against_plain_definitions():
  data = browse.DataSet(dict(source="worlds.synth", synth="moog_basic", size=100))
  found = compare.baselines(data)
  p = data.metadata.parameter("filter_resonance")
  train, test = ([data.split(s)[i] for i in range(len(data.split(s)))] for s in ("train", "test"))
  classes = lambda items: np.array([x[p.name] for x in items])
  hits = [np.mean(classes(train) == k) for k in range(10)]
  near = [np.mean(np.abs(classes(train) - k) <= 1) for k in range(10)]
  constant, chance = ({k: v[f"{p.name}_{k}"] for k in compare.MEASURES} for v in found.values())
  assert constant["accuracy"] == np.mean(classes(test) == np.argmax(hits))
  assert constant["within1"] == np.mean(np.abs(classes(test) - np.argmax(near)) <= 1)
  true = np.array([x[f"{p.name}/value"] for x in test])
  middle = np.median([x[f"{p.name}/value"] for x in train])
  assert constant["mae"] == pytest.approx(np.mean(np.abs(true - middle)), rel=1e-5)
  guesses = [(k, x) for k in range(10) for x in test]
  assert chance["accuracy"] == 0.1
  assert chance["within1"] == pytest.approx(np.mean([abs(x[p.name] - k) <= 1 for k, x in guesses]))
  off = [abs(x[f"{p.name}/value"] - p.values()[k]) for k, x in guesses]
  assert chance["mae"] == pytest.approx(np.mean(off), rel=1e-5)
  narrow = dict(size=40, parameters={"note_velocity": (0, 1, 1)})
  two = compare.baselines(browse.DataSet(dict(source="worlds.synth", **narrow)))
  assert two["constant"]["note_velocity_within1"] == 1 == two["chance"]["note_velocity_within1"]


def test_a_run_that_failed_is_shown(tmp_path):
  lost = [f"net=cnn_10k,config.seed={s}".replace("config.", "") for s in (0, 1)]
  found, data = compare.records(str(swept(tmp_path / "lost", lost)))
  table = cells(compare.table(found, data.metadata.names).markdown())
  assert table["cnn_10k"]["accuracy"] == "failed" and next(iter(table)) == "mlp_8.5k"


def test_arguments_reach_the_runs():
  plan = compare.plan("vit_23k,cnn_10k", 4, 3, ["synth=fm", "loss=ordinal"])
  listed = sweep_plan.grid_runs(plan)
  assert len(listed) == 6
  config = listed[0].load()
  assert config.models.net.model == "vit" and config.total_epochs == 4
  assert config.input.data.train.synth == "fm"
  assert config.trainer.heads.fm_ratio.loss == "ordinal" and "audio" not in config.evals
  everything = sweep_plan.grid_runs(compare.plan("all", 1, 1, []))
  assert len(everything) == len(C.arguments("configs/vimh.py")["net"])


def test_every_loss_has_its_runs():
  plan = sweep_plan.read("configs/sweeps/vimh_losses.py:smoke")
  listed = sweep_plan.grid_runs(plan)
  found = {r.load().trainer.heads.log10_decay_time.loss for r in listed}
  assert found == set(ordinal.OBJECTIVES) and len(listed) == 3 * len(found)


def test_errors_are_one_line(root, tmp_path, capsys):
  for more, told in (
    (argv(root, "--by", "acuracy"), 'Did you mean "accuracy"'),
    (argv(root, "sizes=3"), 'Did you mean "size"'),
    (argv(root, "epochs=3"), "nets, epochs and smoke are flags"),
    (argv(root, "--nets", "cnn_10"), "cnn_10k"),
    (argv(root, "--out", "x.txt"), "ends in .md"),
    (argv(tmp_path / "none"), "neither the workdir"),
  ):
    assert compare.main(more) == 2
    err = capsys.readouterr().err
    assert told in err and err.startswith("compare: ") and err.count("\n") == 1, err
