"""The command that brings weights in and out, and runs that begin with them."""

import hashlib
import json
import sys
import types

import jax
import numpy as np
import pytest
import safetensors.numpy

from big_audio import convert, inference
from big_audio.models import ast
from big_audio.tools import convert_weights, hub
from tests.convert import ast_checkpoints as P


def command(*args):
  convert_weights.main(["--family", "ast", *map(str, args)])


def test_public_to_ours_and_back(tmp_path, capsys):
  source = tmp_path / "public"
  source.mkdir()
  P.write(source / "model.safetensors", P.tensors("square"))
  (source / "config.json").write_text(json.dumps(P.public_config("square")))
  (source / "README.md").write_text("---\nlicense: bsd-3-clause\n---\n")
  ours, back = tmp_path / "ours.safetensors", tmp_path / "back.safetensors"
  command(source, ours)
  out = capsys.readouterr().out
  assert 'public: dialect "a.prefix"' in out and "licence bsd-3-clause" in out
  line = next(row for row in out.splitlines() if "attention.query.weight" in row)
  assert line.split()[:2] == ["3", "6,912"] and "net/block_{i}/attend/query/kernel" in line
  card = json.loads((tmp_path / "ours.json").read_text())
  digest = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()
  assert card["sha256"] == digest and card["licence"] == "bsd-3-clause"
  assert card["config"]["heads"] == P.HEADS and card["source"] == "public"
  assert card["parameters"]["classifier"] == 2 * P.WIDTH + P.CLASSES * (P.WIDTH + 1)
  found = convert.load(str(ours), "ast")
  assert found.dialect == "native"
  assert found.metadata["sha256"] == digest and found.metadata["licence"] == "bsd-3-clause"
  command(ours, back, "--dialect", "a")
  a, b = (safetensors.numpy.load_file(p) for p in (source / "model.safetensors", back))
  assert a.keys() == b.keys() and all(a[k].tobytes() == b[k].tobytes() for k in a)
  assert json.loads((tmp_path / "back.json").read_text())["licence"] == "bsd-3-clause"


def test_positions_of_another_grid(tmp_path):
  path = P.write(tmp_path / "x.safetensors", P.spelt(P.tensors("square"), "c"))
  facts = ["--heads", 3, "--trained", "frames=128"]
  target = tmp_path / "y.safetensors"
  command(path, target, *facts, "--frames", 64, "--positions", "cut")
  found = convert.load(str(target), "ast")
  assert found.config["frames"] == 64 and set(found.params) == {"net", "head"}
  whole = convert.load(path, "ast", config=P.model_config("square")).params["net"]["positions"]
  want = np.concatenate([whole[:2], whole[2:].reshape(12, 12, -1)[:, :5].reshape(60, -1)])
  np.testing.assert_array_equal(found.params["net"]["positions"], want)
  with pytest.raises(SystemExit, match="12 x 12 patches, but this network has 12 x 5. Set pos"):
    command(path, target, *facts, "--frames", 64)


def test_what_a_user_can_mend_is_one_message(tmp_path, capsys):
  with pytest.raises(SystemExit, match="convert_weights: .*there is no such file or folder"):
    command(tmp_path / "no.safetensors", tmp_path / "y.safetensors")
  path = P.write(tmp_path / "x.safetensors", P.spelt(P.tensors("square"), "a"))
  with pytest.raises(SystemExit, match="Give heads"):
    command(path, tmp_path / "y.safetensors")
  with pytest.raises(SystemExit, match="expected a name that ends in .safetensors"):
    command(path, tmp_path / "y.bin", "--heads", 3)
  with pytest.raises(SystemExit, match="is a local path, which has no --revision"):
    command(path, tmp_path / "y.safetensors", "--revision", "main")
  with pytest.raises(SystemExit):
    command(path, tmp_path / "y.safetensors", "--heads", "three")
  assert "expected a number above 0, got 'three'" in capsys.readouterr().err
  assert sorted(p.name for p in tmp_path.iterdir()) == ["x.safetensors"]


def test_no_network_is_one_line(tmp_path, monkeypatch):
  monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
  with pytest.raises(SystemExit) as e:
    command("owner/name", tmp_path / "y.safetensors")
  text = str(e.value)
  assert text.startswith("convert_weights: the model owner/name cannot be fetched from http://127")
  assert "\n" not in text and "Is there a network?" in text


def test_models_on_the_hub(tmp_path, monkeypatch):
  """Only what is needed is fetched; the commit is written down."""
  folder = tmp_path / "0123abc"
  folder.mkdir()
  P.write(folder / "model.safetensors", P.tensors("square"))
  (folder / "config.json").write_text(json.dumps(P.public_config("square")))
  asked = {}

  class HfApi:
    def __init__(self, endpoint):
      pass

    def list_repo_files(self, repo, revision):
      asked["list"] = repo, revision
      return ["README.md", "config.json", "model.safetensors", "pytorch_model.bin", "x.onnx"]

  def snapshot_download(repo, **kw):
    asked.update(kw)
    return str(folder)

  errors = types.SimpleNamespace(HfHubHTTPError=type("Error", (OSError,), {}))
  fake = types.SimpleNamespace(HfApi=HfApi, snapshot_download=snapshot_download)
  monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
  monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
  monkeypatch.setattr(hub, "_reach", lambda endpoint: None)
  command("owner/name", tmp_path / "y.safetensors", "--revision", "v1")
  assert asked["list"] == ("owner/name", "v1") and asked["revision"] == "v1"
  assert sorted(asked["allow_patterns"]) == ["README.md", "config.json", "model.safetensors"]
  card = json.loads((tmp_path / "y.json").read_text())
  assert card["source"] == "owner/name@0123abc" and card["licence"] == "unknown"


def fresh(**kw):
  """(state, models) of a run with an AST of zeros."""
  net = ast.Model(**{**P.model_config("square"), "dim": P.WIDTH, "depth": P.DEPTH, **kw})
  x = jax.ShapeDtypeStruct((1, net.frames, net.bins), np.float32)
  shapes = jax.eval_shape(net.init, jax.random.key(0), x)["params"]
  return {"params": {"net": jax.tree.map(lambda s: np.zeros(s.shape), shapes)}}, {"net": net}


def test_runs_begin_with_public_weights(tmp_path):
  path = P.write(tmp_path / "x.safetensors", P.tensors("square"))
  item = dict(spec=path, family="ast", into="net", config=P.model_config("square"))
  want = convert.load(path, "ast", config=P.model_config("square")).params["net"]
  state, models = fresh()
  got = inference.initialise({**state, "stats": {"mean": 1}}, [item], models)
  jax.tree.map(np.testing.assert_array_equal, got["params"]["net"], want)
  assert got["stats"] == {"mean": 1}

  short, models = fresh(frames=64)
  with pytest.raises(
    ValueError, match=r'init_from\[0\]: positions of 12 x 12 .* Set positions="cut'
  ):
    inference.initialise(short, [item], models)
  for mode in ("cut", "interpolate"):
    got = inference.initialise(short, [{**item, "positions": mode}], models)["params"]["net"]
    resized = ast.resize_positions(want, (12, 12), (12, 5), mode)
    jax.tree.map(np.testing.assert_array_equal, got, resized)

  middle, models = fresh(layer=1)
  with pytest.raises(ValueError, match="of the source are unused"):
    inference.initialise(middle, [item], models)
  got = inference.initialise(middle, [{**item, "unused": r"block_[12]/.*|norm/.*"}], models)
  part = {k: want[k] for k in middle["params"]["net"]}
  jax.tree.map(np.testing.assert_array_equal, got["params"]["net"], part)


def test_runs_begin_with_a_head(tmp_path):
  path = P.write(tmp_path / "x.safetensors", P.spelt(P.tensors("square"), "c.2"))
  item = dict(spec=path, family="ast", source="head", into="top", config=P.model_config("square"))
  head = convert.load(path, "ast", config=P.model_config("square")).params["head"]
  state = {"params": {"top": jax.tree.map(np.zeros_like, head)}}
  got = inference.initialise(state, [item])["params"]["top"]
  jax.tree.map(np.testing.assert_array_equal, got, head)
  for change, message in (
    (dict(source="classifier"), "there is no 'classifier'"),
    (dict(positions="cut"), "positions='cut' is of source=\"net\""),
    (dict(position="cut"), "unknown argument 'position'"),
    (dict(into="head"), "there is no 'head'"),
  ):
    with pytest.raises(ValueError, match=message):
      inference.initialise(state, [{**item, **change}])
  with pytest.raises(ValueError, match="is a file of weights: say of which family"):
    inference.initialise(state, [dict(spec=path, into="top")])
