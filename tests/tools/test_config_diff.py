"""Differences of configs, from files with arguments, workdirs and stored configs."""

import json

from big_audio import config as C
from big_audio.tools import config_diff

FILE = "configs/meanflow.py"


def test_files_workdirs_and_stored_configs(tmp_path, capsys):
  stored = C.to_dict(C.load(f"{FILE}:data=digits,method=mf"))
  stored["optimizer"]["lr"] = 0.5
  (tmp_path / "config.json").write_text(json.dumps(stored))
  for b in (tmp_path, tmp_path / "config.json"):
    assert config_diff.main([f"{FILE}:data=digits,method=imf", str(b)]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out == ["optimizer/lr: 0.001 -> 0.5", "trainer/method: 'imf' -> 'mf'"]
  assert config_diff.main([str(tmp_path), str(tmp_path), "--only", "x"]) == 0
  assert config_diff.main([f"{FILE}:method=mf", FILE, "--only", "optimizer"]) == 0
  assert capsys.readouterr().out == "no difference\nno difference\n"


def test_a_key_on_one_side_only(capsys):
  assert config_diff.main([f"{FILE}:method=ae", FILE, "--only", "^models/refiner$"]) == 1
  assert capsys.readouterr().out.startswith("models/refiner: '(absent)' -> {")


def test_errors_are_told_from_differences(tmp_path, capsys):
  for a in (str(tmp_path), "configs/meanflow.py:method=xx", "none.py"):
    assert config_diff.main([a, FILE]) == 2
  assert config_diff.main([FILE, FILE, "--only", "("]) == 2
  err = capsys.readouterr().err
  assert "no config.json" in err and "Did you mean" in err and "does not exist" in err
