"""Every config is listed with its purpose and its arguments."""

import subprocess
import sys

import pytest

from big_audio.tools import list_configs

GOOD = '''"""A codec on notes:
one minute.

Long story.
"""
ARGS = dict(method=("imf", "ae"), sr=8000, dir="", smoke=False)


def get_config(arg=""):
  raise NotImplementedError
'''


def test_a_config_as_text(tmp_path):
  (tmp_path / "a.py").write_text(GOOD)
  assert list_configs.describe(str(tmp_path / "a.py")).splitlines()[1:] == [
    "  A codec on notes: one minute.",
    "    method = imf | ae",
    "    sr     = 8000",
    "    dir    = ''",
    "    smoke  = False",
  ]


def test_a_broken_config_does_not_hide_the_others(tmp_path):
  (tmp_path / "__init__.py").write_text("")
  (tmp_path / "a.py").write_text("import no_such_module")
  (tmp_path / "b.py").write_text(GOOD)
  cmd = [sys.executable, "-m", "big_audio.tools.list_configs", str(tmp_path)]
  done = subprocess.run(cmd, capture_output=True, text=True, check=False)
  assert done.returncode == 1
  assert "a.py\n  cannot be loaded: ModuleNotFoundError" in done.stdout
  assert "A codec on notes" in done.stdout and "__init__" not in done.stdout


def test_no_configs(tmp_path):
  for path in (tmp_path, tmp_path / "none"):
    with pytest.raises(ValueError, match="expected a folder of configs"):
      list_configs.find(str(path))


def test_the_project_s_own_configs_all_load():
  for path in list_configs.find(list_configs.default_folder()):
    assert "(no docstring)" not in list_configs.describe(path)
