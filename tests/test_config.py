import json
import os

import pytest
from ml_collections import ConfigDict

from big_audio import config as C

SPEC = dict(method=("imf", "ae"), sr=8000, secs=1.5, smoke=False, dir="")


def test_args_take_the_defaults_types():
  a = C.args("method=ae,sr=16000,secs=2,smoke,dir=a/b", SPEC)
  assert a.to_dict() == dict(method="ae", sr=16000, secs=2.0, smoke=True, dir="a/b")
  assert isinstance(a.secs, float)
  assert C.args("", SPEC).method == "imf"


@pytest.mark.parametrize(
  "arg, words",
  [
    ("metod=ae", ["metod", '"method"']),
    ("method=aee", ["aee", '"ae"']),
    ("sr=high", ["sr", "int", "high"]),
    ("smoke=maybe", ["smoke", "maybe"]),
    ("sr=8000.5", ["int", "8000.5"]),
  ],
)
def test_args_errors_name_the_nearest(arg, words):
  with pytest.raises(ValueError) as e:
    C.args(arg, SPEC)
  assert all(w in str(e.value) for w in words)


def write_config(
  tmp_path, body="c = ConfigDict(dict(seed=1, input=dict(batch_size=8, num_threads=None)))"
):
  path = tmp_path / "c.py"
  path.write_text(
    f'"""Doc."""\nfrom ml_collections import ConfigDict\nARGS = dict(a=1)\n'
    f"def get_config(arg=''):\n  {body}\n  return c\n"
  )
  return str(path)


def test_load_with_overrides_and_from_json(tmp_path):
  path = write_config(tmp_path)
  config = C.load(path, ["input.batch_size=16", "input.num_threads=2"])
  assert config.input.to_dict() == dict(batch_size=16, num_threads=2)
  stored = tmp_path / "config.json"
  stored.write_text(json.dumps(C.to_dict(config)))
  assert C.diff(C.load(str(stored)), config) == {}
  assert C.arguments(path) == dict(a=1)
  assert C.docstring(path) == "Doc."
  with pytest.raises((KeyError, AttributeError)):
    config.sead = 2


@pytest.mark.parametrize(
  "override, words",
  [
    ("input.batchsize=1", ["input.batchsize", '"batch_size"']),
    ("input.batch_size=big", ["input.batch_size", "int", "big"]),
    ("input.batch_size", ["--config.input.batch_size=VALUE"]),
  ],
)
def test_override_errors(tmp_path, override, words):
  with pytest.raises(ValueError) as e:
    C.load(write_config(tmp_path), [override])
  assert all(w in str(e.value) for w in words)


def test_unknown_top_level_key_and_file(tmp_path):
  with pytest.raises(ValueError, match='optimiser.*"optimizer"'):
    C.load(write_config(tmp_path, "c = ConfigDict(dict(optimiser=1))"))
  with pytest.raises(ValueError, match=r'd.py.*"c.py"'):
    C.load(str(tmp_path / "d.py"))


def test_unknown_flags():
  assert C.overrides_from_argv(["--config.a.b=1"]) == ["a.b=1"]
  with pytest.raises(ValueError, match='--wrkdir.*"workdir"'):
    C.overrides_from_argv(["--wrkdir=x"], ["workdir"])


def test_canonical_is_json_and_nothing_else():
  assert C.canonical(dict(seed=(1, 2))).seed == [1, 2]
  with pytest.raises(ValueError, match="object"):
    C.canonical(dict(seed=object()))


def test_diff_and_call():
  assert C.diff(dict(a=dict(b=1, c=2)), dict(a=dict(b=1, c=3))) == {"a/c": (2, 3)}
  with pytest.raises(ValueError, match=r'config.models.x: unknown argument \'dpth\'.*"depth"'):
    C.call("config.models.x", lambda depth=1: depth, dpth=2)
  with pytest.raises(ValueError, match="missing"):
    C.call("config.models.x", lambda depth: depth)


def test_resolve_names_the_nearest():
  assert C.resolve("models", "mlp_flow").__name__ == "big_audio.models.mlp_flow"
  with pytest.raises(ValueError, match='"mlp_flow"'):
    C.resolve("models", "mlpflow")


def test_steps_units():
  kw = dict(batch_size=10, data_size=200, total_steps=400)
  node = lambda **d: ConfigDict(d)
  assert C.steps("w", node(w_steps=7), **kw) == 7
  assert C.steps("w", node(w_examples=100), **kw) == 10
  assert C.steps("w", node(w_epochs=2), **kw) == 40
  assert C.steps("w", node(w_percent=25), **kw) == 100
  assert C.steps("w", node(), default=3, **kw) == 3
  for bad in (node(), node(w_steps=1, w_epochs=1), node(w_steps=-1)):
    with pytest.raises(ValueError, match="w_"):
      C.steps("w", bad, **kw)
  with pytest.raises(ValueError, match="nothing to refer to"):
    C.steps("w", node(w_epochs=2))
  with pytest.raises(ValueError, match="nothing to refer to"):
    C.steps("w", node(w_percent=2))
  assert C.steps("w", node(w_percent=2), total_steps=0) == 0


def test_a_config_written_anew_within_a_second_is_read_anew(tmp_path):
  path = tmp_path / "c.py"
  head = "from ml_collections import ConfigDict\n"
  for n in (1, 2):
    path.write_text(f"{head}def get_config(arg=''): return ConfigDict(dict(seed={n}))\n")
    os.utime(path, (1e9, 1e9))
    assert C.load(str(path)).seed == n
