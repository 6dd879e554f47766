"""AST weights in every spelling: hidden states of the public model, round trips, refusals."""

import functools
import json

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from big_audio import convert, trees
from big_audio.convert import files
from big_audio.models import ast
from tests.convert import ast_checkpoints as P

DIALECTS = ["a", "a.prefix", "b", "b.prefix", "c", "c.2", "c.b", "c.b2", "original"]


def loaded(tmp_path, dialect, model="square", **kw):
  path = P.write(tmp_path / "x.safetensors", P.spelt(P.tensors(model), dialect))
  return convert.load(path, "ast", config=P.model_config(model), **kw)


@functools.cache
def states_of(config):
  net = ast.Model(**dict(config))
  return jax.jit(lambda p, x: net.apply({"params": p}, x, method="hidden"))


def states(found, x):
  return states_of(tuple(found.config.items()))(found.params["net"], x)


def logits(found, tokens):
  """Of the classifier, on the mean of the two special tokens."""
  p = found.params["classifier"]
  x = np.asarray(tokens[:, :2].mean(1), np.float64)
  x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
  x = x * p["norm"]["scale"] + p["norm"]["bias"]
  return x @ p["dense"]["kernel"] + p["dense"]["bias"]


@pytest.mark.parametrize("model", P.MODELS)
def test_hidden_states_and_classes_are_those_of_the_public_model(tmp_path, model):
  found = loaded(tmp_path, "a.prefix", model)
  golden, every = P.golden(), P.MODELS[model][-1]
  got = states(found, P.clips(model))
  assert len(got) == len(golden[f"{model}/states"]) == P.DEPTH + 2
  for ours, some, mean in zip(
    got, golden[f"{model}/states"], golden[f"{model}/means"], strict=True
  ):
    np.testing.assert_allclose(ours[:, ::every], some, atol=1e-4)
    np.testing.assert_allclose(ours.mean(1), mean, atol=1e-4)
  np.testing.assert_allclose(logits(found, got[-1]), golden[f"{model}/logits"], atol=1e-4)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_spelling_gives_the_same_parameters_and_comes_back(tmp_path, dialect):
  found = loaded(tmp_path, dialect)
  assert found.dialect == dialect
  one = loaded(tmp_path, "a.prefix").params
  jax.tree.map(np.testing.assert_array_equal, found.params["net"], one["net"])
  source = P.spelt(P.tensors("square"), dialect)
  if dialect in ("a.prefix", "b.prefix", "original"):
    jax.tree.map(np.testing.assert_array_equal, found.params["classifier"], one["classifier"])
  if dialect[0] == "c":
    assert set(found.params) == {"net", "head"}
    for ours, theirs in (("dense0", 0), ("dense1", 2 if dialect.endswith("2") else 3)):
      head = found.params["head"][ours]
      np.testing.assert_array_equal(head["kernel"], source[f"projector.{theirs}.weight"].T)
      np.testing.assert_array_equal(head["bias"], source[f"projector.{theirs}.bias"])
  back = tmp_path / "back.safetensors"
  convert.save(str(back), found.params, "ast", dialect)
  written = safetensors.numpy.load_file(back)
  drops = {f"module.v.head.{p}" for p in ("weight", "bias")}
  assert written.keys() == source.keys() - drops
  for key, value in written.items():
    assert value.dtype == source[key].dtype
    np.testing.assert_array_equal(value, source[key])


def test_dialect_a_gets_the_prefix_where_there_is_a_classifier(tmp_path):
  found = loaded(tmp_path, "a.prefix")
  path = str(tmp_path / "y.safetensors")
  convert.save(path, found.params, "ast")
  assert set(safetensors.numpy.load_file(path)) == set(P.tensors("square"))
  convert.save(path, {"net": found.params["net"]}, "ast")
  assert set(safetensors.numpy.load_file(path)) == set(P.spelt(P.tensors("square"), "a"))
  with pytest.raises(ValueError, match=r"no keys for all of \['classifier', 'net'\]. Use \"nativ"):
    convert.save(path, found.params, "ast", "c")
  with pytest.raises(ValueError, match="no dialect 'd'"):
    convert.save(path, found.params, "ast", "d")


def test_our_own_file_needs_no_arguments(tmp_path):
  """Names, values and the model's arguments."""
  found = loaded(tmp_path, "c.b2")
  path = str(tmp_path / "own.safetensors")
  convert.save(path, found.params, "ast", "native", config=found.config, metadata={"run": "7"})
  again = convert.load(path, "ast")
  assert again.dialect == "native" and again.config == found.config
  assert again.metadata["run"] == "7"
  jax.tree.map(np.testing.assert_array_equal, again.params, found.params)
  assert set(safetensors.numpy.load_file(path)) == set(trees.flatten(found.params))
  assert list(tmp_path.glob("tmp*")) == []


def test_halves_stay_or_become_float32(tmp_path):
  source = {k: v.astype(ml_dtypes.bfloat16) for k, v in P.tensors("square").items()}
  path = P.write(tmp_path / "half.safetensors", source)
  config = P.model_config("square")
  full = convert.load(path, "ast", config=config).params
  assert {x.dtype for x in jax.tree.leaves(full)} == {np.dtype("f4")}
  same = convert.load(path, "ast", config=config, dtype=None).params
  assert {x.dtype for x in jax.tree.leaves(same)} == {np.dtype(ml_dtypes.bfloat16)}
  back = str(tmp_path / "back.safetensors")
  convert.save(back, same, "ast")
  for key, value in safetensors.numpy.load_file(back).items():
    assert value.tobytes() == source[key].tobytes()


def test_config_json_and_readme_beside_the_weights(tmp_path):
  P.write(tmp_path / "model.safetensors", P.tensors("square"))
  public = {**P.public_config("square"), "hidden_act": "gelu", "layer_norm_eps": 1e-12}
  (tmp_path / "config.json").write_text(json.dumps(public))
  (tmp_path / "README.md").write_text("---\ntags: [x]\nlicense: bsd-3-clause\n---\nText\n")
  found = convert.load(tmp_path, "ast")
  assert {k: found.config[k] for k in P.model_config("square")} == P.model_config("square")
  assert found.metadata["licence"] == "bsd-3-clause"
  (tmp_path / "config.json").write_text(json.dumps({**public, "hidden_act": "relu"}))
  with pytest.raises(ValueError, match="hidden_act='relu'; the model has 'gelu'"):
    convert.load(tmp_path, "ast")


def edit(name, change):
  def fn(x):
    x[name] = change(x[name])

  return fn


LAYER = "encoder.layer.1."


@pytest.mark.parametrize(
  "change, config, message",
  [
    (lambda x: x.pop(f"{LAYER}output.dense.bias"), {},
     r'"a"\): 1 keys are missing \[\'encoder.layer.1.output.dense.bias\'\]; 0 are unknown'),
    (lambda x: x.update({f"{LAYER}extra": x["layernorm.bias"]}), {},
     r"0 keys are missing \[\]; 1 are unknown \['encoder.layer.1.extra'\]"),
    (lambda x: x.update({"encoder.layer.7.layernorm_after.bias": x["layernorm.bias"]}), {},
     "keys are missing .'encoder.layer.3.attention"),
    (edit(f"{LAYER}intermediate.dense.weight", np.transpose), {},
     r"intermediate.dense.weight has \(48, 192\) for net/block_1/expand/kernel \(48, 192\)"),
    (edit(f"{LAYER}attention.attention.key.weight", lambda x: x[:, :-1]), {},
     r"key.weight has \(48, 47\) for net/block_1/attend/key/kernel"),
    (edit("layernorm.weight", lambda x: x[:3]), {}, r"layernorm.weight has \(3,\) for net/norm"),
    (lambda x: x.pop("embeddings.cls_token"), {}, "nothing in it gives net/class"),
    (lambda x: None, dict(heads=None), "heads of 64 do not divide a width of 48. Give heads"),
    (lambda x: None, dict(heads=5), "5 heads do not divide a width of 48"),
    (lambda x: None, dict(frames=1024), "144 positions, but 1024 frames x 128 bins .* 12 x 101"),
    (lambda x: None, dict(frame=1024), "config has 'frame'. Did you mean \"frames\""),
    (lambda x: None, dict(frames=-1), "expected a whole frames in 1..100000, got -1"),
    (lambda x: [x.pop(k) for k in list(x)] + [x.update(y=np.zeros(1))], {},
     "no table knows these keys, such as .'y'.. Expected one like 'embeddings.cls_token'"),
  ],
)  # fmt: skip
def test_refusals(tmp_path, change, config, message):
  tensors = dict(P.spelt(P.tensors("square"), "a"))
  change(tensors)
  path = P.write(
    tmp_path / "x.safetensors", {k: np.ascontiguousarray(v) for k, v in tensors.items()}
  )
  config = {k: v for k, v in {**P.model_config("square"), **config}.items() if v is not None}
  with pytest.raises(ValueError, match=message):
    convert.load(path, "ast", config=config)


def test_families():
  with pytest.raises(ValueError, match="'table' is not a family"):
    files.dialects("table")
  with pytest.raises(ValueError, match="'asd' does not exist. Did you mean \"ast\""):
    files.dialects("asd")


def test_live_public_model(tmp_path):
  """Saved and read by transformers; its keys in memory are dialect (b); our file goes back in."""
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  net, _, want, classes = P.public("square", tmp_path)
  found = convert.load(tmp_path, "ast")
  got = states(found, P.clips("square"))
  for ours, theirs in zip(got, want, strict=True):
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
  np.testing.assert_allclose(logits(found, got[-1]), classes, atol=1e-4)
  memory = {k: v.numpy() for k, v in net.state_dict().items()}
  assert memory.keys() == P.spelt(P.tensors("square"), "b.prefix").keys()
  convert.save(str(tmp_path / "model.safetensors"), found.params, "ast", "a")
  again = transformers.ASTForAudioClassification.from_pretrained(tmp_path)
  for key, value in again.state_dict().items():
    np.testing.assert_array_equal(value.numpy(), memory[key])
  pth = tmp_path / "original.pth"
  torch.save(
    {k: torch.from_numpy(v) for k, v in P.spelt(P.tensors("square"), "original").items()}, pth
  )
  old = convert.load(pth, "ast", config=P.model_config("square"))
  assert old.dialect == "original"
  jax.tree.map(np.testing.assert_array_equal, old.params, found.params)
