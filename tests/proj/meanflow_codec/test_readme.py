"""The commands of the project's page load their configs and are understood."""

import pathlib
import re
import shlex

import pytest

import proj.meanflow_codec
from big_audio import config as C
from big_audio.tools import evaluate, plots, sweep, sweep_plan, tables
from proj.meanflow_codec import codec, compare

PAGE = (pathlib.Path(proj.meanflow_codec.__file__).parent / "README.md").read_text()
LINES = [
  part
  for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S)
  for line in block.replace("\\\n", " ").splitlines()
  for part in re.split(r"\s\|\s", line.partition(" #")[0])
]


def words(text):
  """[(module or "train.py", arguments)] of the commands in the page that contain `text`."""
  found = []
  for line in LINES:
    argv = shlex.split(line)
    if argv[:1] == ["python"] and text in line:
      found.append((argv[2], argv[3:]) if argv[1] == "-m" else (argv[1], argv[2:]))
  return found


def test_configs_load():
  found = [(argv[1], argv) for name, argv in words("train.py") if name == "train.py"]
  assert len(found) >= 5
  for spec, argv in found:
    assert argv[0] == "--config" and argv[2] == "--workdir"
    C.load(spec.replace("PATH", "."), C.overrides_from_argv(argv[4:], ["config", "workdir"]))


def test_every_argument_of_the_table_loads():
  table = PAGE[PAGE.index("What else there is:") : PAGE.index("Runs on recordings at")]
  arguments, base = C.arguments("configs/meanflow.py"), "configs/meanflow.py:"
  quoted = [re.findall(r"`([^`]+)`", line) for line in table.splitlines() if line.startswith("| ")]
  assert sum(map(len, quoted)) > 20
  for texts in quoted:
    key = ""
    for text in texts:
      if text.startswith((":", "--")):
        argv = text.removeprefix(":").split()
        spec = "" if argv[0].startswith("--") else argv.pop(0)
        key = spec.partition("=")[0]
      else:
        spec, argv = f"{key}={text}", []
      if "trainer.gan" in text:
        spec = "gan=codec"
      C.load(base + spec.replace("PATH", "."), C.overrides_from_argv(argv, []))
      assert not spec or key in arguments or spec == "gan=codec"


@pytest.mark.parametrize("module", [codec, compare])
def test_command_lines_are_understood(module, monkeypatch):
  seen = []
  monkeypatch.setattr(module, "_run" if module is codec else "_compare", seen.append)
  found = words(module.__name__)
  for name, argv in found:
    assert name == module.__name__
    module.main(argv)
  assert len(seen) == len(found) >= 1


def test_sweeps_and_evaluations_are_understood():
  found = words("big_audio.tools.sweep")
  assert len(found) >= 3
  for _, argv in found:
    assert sweep_plan.read(sweep.parser().parse_args(argv).sweep)
  for _, argv in words("big_audio.tools.evaluate"):
    assert evaluate.parser().parse_args(argv).nfe


@pytest.mark.parametrize("tool", [tables, plots])
def test_tables_and_plots_miss_nothing_but_the_runs(tool, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  found = words(tool.__name__)
  assert found
  for _, argv in found:  # argparse would raise SystemExit
    assert tool.main(argv) == 2
    assert re.search("no such file|is neither|does not exist", capsys.readouterr().err)


def test_modules_and_links_exist():
  folder = pathlib.Path(proj.meanflow_codec.__file__).parent
  rows = re.findall(r"^\| (`[^|]+`) \|", PAGE, re.M)
  named = {n for row in rows for n in re.findall(r"`(\w+\.py|notebooks/)`", row)}
  there = {p.name for p in folder.glob("*.py") if p.stat().st_size}
  assert named == there | {"notebooks/"}
  for link in re.findall(r"\]\(([^)]+)\)", PAGE):
    assert (folder / link).exists()
