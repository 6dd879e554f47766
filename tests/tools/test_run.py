"""Short names: what they run, and the exit status."""

import pathlib
import sys

import pytest

from big_audio.tools import run

ROOT = pathlib.Path(run.__file__).resolve().parents[2]


def test_list_names_every_command(capsys):
  assert run.main(["run", "--list"]) == 0
  out = capsys.readouterr().out
  assert all(name in out for name in run.COMMANDS)
  assert run.main(["run"]) == 2


def test_unknown_name_gets_the_nearest(capsys):
  assert run.main(["run", "tset"]) == 2
  assert "'tset' is no command. Did you mean test" in capsys.readouterr().err
  with pytest.raises(ValueError, match="Known: test, "):
    run.commands("zzzz")


def test_arguments_go_to_the_last_command():
  assert run.commands("test", ["-k", "a b"]) == [["pytest", "-k", "a b"]]
  assert run.commands("lint", ["x"])[0] == ["ruff", "check", "."]
  assert run.commands("lint", ["x"])[-1] == ["lint-imports", "x"]
  assert run.commands("report")[0][-1] == "runs/meanflow"
  assert run.commands("report", ["w"])[0][-2:] == ["big_audio.tools.report", "w"]


def test_commands_run_in_the_root_and_the_first_failure_ends(monkeypatch, capfd):
  code = "import os; print(os.getcwd())"
  lines = [f"python -c '{code}'", "python -c 'raise SystemExit(3)'", "python -c 'print(99)'"]
  monkeypatch.setitem(run.COMMANDS, "x", ("", lines))
  assert run.main(["run", "x"]) == 3
  out = capfd.readouterr().out.splitlines()
  assert out == [f"$ {lines[0]}", str(ROOT), f"$ {lines[1]}"]


def test_a_missing_program_is_named(monkeypatch, capsys):
  monkeypatch.setitem(run.COMMANDS, "x", ("", ["no-such-program"]))
  assert run.main(["run", "x"]) == 2
  assert "no-such-program is not installed" in capsys.readouterr().err


def test_every_python_command_exists():
  for name, (_, lines) in run.COMMANDS.items():
    for words in (line.split() for line in lines):
      if words[:2] == ["python", "-m"]:
        assert (ROOT / (words[2].replace(".", "/") + ".py")).is_file(), name
      elif words[0] == "python":
        assert (ROOT / words[1]).is_file(), name
      if "--config" in words:
        assert (ROOT / words[words.index("--config") + 1].split(":")[0]).is_file(), name
  assert run._program("python") == sys.executable
