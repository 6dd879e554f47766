"""The commands of the project's page are understood, and its configs load."""

import pathlib
import re
import shlex

import pytest

import proj.vimh
from big_audio import config as C
from big_audio.tools import make_vimh, report, run_vimh, sweep, sweep_plan, tables, vimh_generate
from proj.vimh import compare, estimate
from tests.tools.test_run_vimh import PARSERS

PAGE = (pathlib.Path(proj.vimh.__file__).parent / "README.md").read_text()
LINES = [
  shlex.split(line.partition(" #")[0])
  for block in re.findall(r"```bash\n(.*?)```", PAGE, re.S)
  for line in block.replace("\\\n", " ").splitlines()
]


@pytest.mark.parametrize("line", LINES, ids=lambda line: " ".join(line[1:4]))
def test_commands_are_understood(line):
  assert line[0] == "python"
  if line[1] == "train.py":
    flags = dict(zip(line[2::2], line[3::2], strict=True))
    assert flags.keys() == {"--config", "--workdir"}
    spec = flags["--config"]
    C.arguments(spec.partition(":")[0])
    if "dir=" not in spec:
      C.load(spec)
    return
  module, argv = line[2], line[3:]
  if module == "big_audio.tools.make_vimh":
    flags = make_vimh.parser().parse_args(argv)
    if argv[0] == "generate" and len(argv) > 1:
      assert vimh_generate.recipe(flags).size == 4096
  elif module == "big_audio.tools.sweep":
    sweep.parser().parse_args(argv)
    assert len(sweep_plan.grid_runs(sweep_plan.read(argv[0]))) == 24
  elif module == "big_audio.tools.run":
    assert argv == ["NAME"] or argv == ["--list"]
  elif module == "proj.vimh.compare":
    flags = compare.parser().parse_intermixed_args(argv)
    compare.plan(flags.nets, flags.epochs, flags.seeds, flags.arguments)
  else:
    known = {
      **PARSERS,
      "proj.vimh.estimate": lambda a: estimate.parser().parse_args(a),
      "big_audio.tools.tables": lambda a: tables.parser().parse_args(a),
      "big_audio.tools.report": lambda a: callable(report.main),
    }
    known[module](argv)


def test_names_in_the_text_exist():
  arguments = C.arguments("configs/vimh.py")
  for key, value in re.findall(r"`(\w+)=([\w./=]+)`", PAGE):
    if key in arguments:
      choices = arguments[key]
      assert not isinstance(choices, tuple) or value in map(str, choices) or value == "NAME", key
    else:
      assert key == "form", key
  table = PAGE[PAGE.index("| file, module |") : PAGE.index("The format lives in")]
  for name in re.findall(r"^\| `([\w/]+\.py|\w+/)`", table, re.M):
    folder = pathlib.Path(C.repo_root())
    assert (folder / name).exists() or (folder / "proj/vimh" / name).exists(), name
  for name in ("sds", "etms", "evitml", "emb", "ae", "ca"):
    assert name in run_vimh.COMMANDS
