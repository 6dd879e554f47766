"""Short names of experiments: every command parses, and every config loads."""

import os
import pathlib

import pytest

from big_audio import config as C
from big_audio.datasets import vimh_meta
from big_audio.tools import evaluate, make_vimh, run, run_vimh, summary, vimh_generate
from proj.vimh import browse, compare

ROOT = pathlib.Path(run.__file__).resolve().parents[2]
NAMES = """
  sds sdl sdmb sdme sdmr ddr dds ddl ex etms etts etml ettl et64l etmsr etmlr evitms evitts evitml
  evittl emb eme emr emer emvitb emvite emvitr ae td tds tdv trq tq tqa t ta tb lc evimh evimh16k
  evimho evimhr evimhstk ca evimhst evimhwce evimhqr
"""
PARSERS = {
  "proj.vimh.browse": lambda a: browse.parser().parse_args(a),
  "proj.vimh.compare": lambda a: compare.parser().parse_intermixed_args(a),
  "big_audio.tools.summary": lambda a: summary.parser().parse_args(a),
  "big_audio.tools.evaluate": lambda a: evaluate.parser().parse_args(a),
  "big_audio.tools.list_configs": lambda a: None,
}


def test_every_name_is_there():
  assert set(NAMES.split()) <= set(run_vimh.COMMANDS) <= set(run.COMMANDS)


@pytest.mark.parametrize("name", sorted(run_vimh.COMMANDS))
def test_commands_parse(name, monkeypatch):
  monkeypatch.chdir(ROOT)
  for line in run.commands(name):
    if line[0] != "python":
      assert line[0] in ("pytest", "tensorboard")
    elif line[1] == "train.py":
      at = line.index("--config") + 1
      assert line[at + 1 :: 2] == ["--workdir"]
      config = C.load(line[at])
      C.build_models(config)
      assert set(config.trainer.heads) == set(config.models.heads.outputs)
    elif line[2] == "big_audio.tools.make_vimh":
      flags = make_vimh.parser().parse_args(line[3:])
      assert vimh_generate.recipe(flags).size >= 256
    else:
      PARSERS[line[2]](line[3:])


def test_settings_of_an_experiment_reach_its_config(monkeypatch):
  monkeypatch.chdir(ROOT)
  (line,) = run.commands("emvitr")
  config = C.load(line[line.index("--config") + 1])
  assert config.models.net.to_dict() == dict(model="vit", variant="116k", patch=6, dim=72)
  assert (config.optimizer.lr, config.input.batch_size) == (2.5e-3, 10)
  assert config.input.data.train.synth == "moog_resonance" and config.total_epochs == 18
  assert run.commands("td", ["--config", "x.py"])[0][-2:] == ["--config", "x.py"]
  assert [line[-1] for line in run.commands("tqa")] == [
    "runs/tq",
    "runs/tqc",
    "runs/tqv",
    "runs/tqcn",
  ]


def test_the_data_set_that_was_made_last(tmp_path):
  with pytest.raises(ValueError, match="no data set lies there. Make one"):
    browse.recent(str(tmp_path))
  for i, name in enumerate("ba"):
    path = tmp_path / name / vimh_meta.FILE
    path.parent.mkdir()
    path.touch()
    os.utime(path, (100 - i, 100 - i))
  assert browse.recent(str(tmp_path)) == str(tmp_path / "b")
