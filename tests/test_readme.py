"""The commands on the pages that make and read many runs do so, on a small matrix."""

import importlib
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

from big_audio import config as C
from big_audio import inference, trees
from big_audio.tools import evaluate, manifests, runs, sweep_plan

ROOT = Path(__file__).parents[1]
TOOLS = ("config_diff", "evaluate", "plots", "sweep", "tables")
PAGES = (
  "README.md", "proj/meanflow_codec/README.md", "configs/sweeps/meanflow_matrix.py",
  "configs/sweeps/meanflow_ablations.py", "configs/sweeps/meanflow_search.py",
  "big_audio/tools/evaluate.py", "big_audio/tools/plots.py", "big_audio/tools/tables.py",
)  # fmt: skip


def commands(page):
  """[(tool, its arguments)] of a page or of a module's docstring."""
  text = (ROOT / page).read_text()
  if page.endswith(".py"):
    text = text.split('"""')[1].replace("\\\\\n", "\\\n")
  found = re.findall(r"^ *python -m big_audio\.tools\.(\w+) ((?:.*\\\n)*.*)$", text, re.M)
  return [
    (tool, shlex.split(rest.replace("\\\n", " "), comments=True))
    for tool, rest in found
    if tool in TOOLS
  ]


def numbers(cfg):
  """{row: {measure: value}} as an evaluator of this config would give them."""
  if cfg["type"] == "mean":
    return {"": dict(loss=1.0, mse=0.5, ae_mse=0.25)}
  rows = {f"nfe{n}" if n else "ae" for n in cfg.get("nfe", [])} | {"ae"}
  if cfg["type"] == "audio_distance":
    found = {row: dict.fromkeys(cfg["measures"], 1.0) for row in {*rows, "identity", "zero"}}
    return {"": dict(kbps=1.5, items=4.0)} | found
  if cfg["type"] == "frechet":
    return {row: dict(fd=1.0, fd_half=1.0, kid=1.0, kid_half=1.0) for row in {*rows, "real"}}
  return {}


def trained(workdir, config):
  """A workdir with a config and the numbers of its last row; no run is behind it."""
  workdir.mkdir(parents=True)
  manifests.replace(workdir / "config.json", config.to_json_best_effort())
  last = {
    "/".join(filter(None, ("val", name, row, measure))): value
    for name, cfg in C.to_dict(config.evals).items()
    for row, values in numbers(cfg).items()
    for measure, value in values.items()
  }
  manifests.write(workdir / "metrics.jsonl", [{"step": 12000, **last}])


def swept(root, spec):
  listed = sweep_plan.grid_runs(sweep_plan.read(spec))
  for run in listed:
    trained(root / run.name, run.load())
  rows = [dict(name=r.name, state="done", settings=C.to_dict(r.settings)) for r in listed]
  manifests.write(root / runs.SWEEP, rows)
  return len(rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A folder with the runs that the pages speak of: a matrix, an ablation, two single ones."""
  folder = tmp_path_factory.mktemp("readme")
  (folder / "configs").symlink_to(ROOT / "configs")
  with pytest.MonkeyPatch.context() as m:
    m.chdir(folder)
    matrix = "configs/sweeps/meanflow_matrix.py:smoke,methods=imf/ae,nets=convnext1d/dit"
    assert swept(folder / "runs/matrix", matrix) == 16
    swept(folder / "runs/p", "configs/sweeps/meanflow_ablations.py:part=p,smoke")
    for name, arg in (("a", "smoke"), ("b", "smoke,method=mf")):
      trained(folder / "runs" / name, C.load(f"configs/meanflow.py:{arg}"))
    for method in ("ae", "mf"):
      arg = f"data=digits,smoke,bits=8,method={method},classifier=runs/c_digits"
      trained(folder / "runs/digits" / method, C.load(f"configs/meanflow.py:{arg}"))
  listed = []
  for k, (method, kbps) in enumerate([("imf", 1.5), ("imf", 3.0), ("mf", 1.5)]):
    row = dict(workdir=f"runs/r{k}", step=1, evaluator="perceptual", split="validation", key=str(k),
               settings=dict(method=method))  # fmt: skip
    listed.append(dict(row, row="", nfe=None, values=dict(kbps=kbps)))
    listed += [dict(row, row=f"nfe{n}", nfe=n, values=dict(pesq_nb=3.0)) for n in (1, 2)]
  (folder / "tables").mkdir()
  evaluate.write(str(folder / "tables/rates"), listed)
  return folder


@pytest.fixture
def there(folder, monkeypatch):
  """In that folder; evaluators give their numbers without a model."""

  def opened(spec, *, ema, config):
    return SimpleNamespace(config=config, variables={}, step=12000)

  def measured(self, name):
    rows = numbers(self.configs[name]).items()
    return [{**self.facts(name), "row": k, "nfe": evaluate.nfe_of(k), "values": v} for k, v in rows]

  monkeypatch.chdir(folder)
  monkeypatch.setattr(inference, "open_workdir", opened)
  monkeypatch.setattr(trees, "sha256", lambda tree: "0")
  monkeypatch.setattr(evaluate.Evaluation, "run", measured)
  return folder


def table_of_evaluations(out):
  if not Path(out).exists():
    page = commands("proj/meanflow_codec/README.md")
    (argv,) = [a for tool, a in page if tool == "evaluate" and "tables/nfe" in a]
    assert evaluate.main(argv) == 0


@pytest.mark.parametrize("page", PAGES)
def test_commands_run_as_they_are_written(there, page, capsys):
  found = commands(page)
  assert found, "no command on this page is seen"
  for tool, argv in found:
    if tool == "sweep":  # the plan is read and nothing trained
      if "tpe" in argv:
        pytest.importorskip("optuna", reason="needs the extra sweep")
      argv = [*(a for a in argv if a != "--print"), "--status"]
    elif "tables/nfe.json" in argv:
      table_of_evaluations("tables/nfe.json")
    status = importlib.import_module(f"big_audio.tools.{tool}").main(argv)
    out, err = capsys.readouterr()
    assert status == (1 if tool == "config_diff" else 0), f"{tool} {shlex.join(argv)}\n{out}{err}"
    if tool == "tables" and "method" in argv and "runs/matrix" in argv:
      assert ", 0 cells empty" in err and "| imf |" in out and "| ae |" in out
    if tool == "plots":
      assert Path(argv[argv.index("--out") + 1]).stat().st_size > 0


def test_evaluations_of_the_matrix_are_of_the_sounds(there):
  table_of_evaluations("tables/nfe.json")
  rows = evaluate.read("tables/nfe.json")
  assert not any(r.get("error") for r in rows)
  assert {r["settings"]["data"] for r in rows} == {"notes"}
  assert {r["nfe"] for r in rows if r["settings"]["method"] == "imf"} == {None, 0, 1, 2, 4, 8}
