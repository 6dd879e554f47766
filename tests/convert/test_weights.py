"""Files of weights: shards, what is damaged or hostile, torch's own format."""

import hashlib
import json
import os
import struct
import sys

import ml_dtypes
import numpy as np
import pytest

from big_audio.convert import table, weights
from big_audio.convert.table import Rule

ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, ml_dtypes.bfloat16)}


def shards(folder):
  for i, (name, x) in enumerate(ARRAYS.items()):
    weights.write(str(folder / f"s{i}.safetensors"), {name: x}, {})
  index(folder, {"a": "s0.safetensors", "b": "s1.safetensors"})


def index(folder, names):
  (folder / weights.INDEX).write_text(json.dumps({"weight_map": names}))


def test_one_file_and_shards_are_the_same(tmp_path):
  shards(tmp_path)
  whole = tmp_path / "x.safetensors"
  weights.write(str(whole), ARRAYS, {"k": "v"})
  for path in (tmp_path, whole):
    got = weights.Weights(path)
    assert sorted(got) == ["a", "b"] and len(got) == 2
    for name, x in ARRAYS.items():
      assert got.shape(name) == x.shape and got[name].dtype == x.dtype
      np.testing.assert_array_equal(got[name], x)
  assert got.metadata == {"k": "v"}
  assert got.sha256() == hashlib.sha256(whole.read_bytes()).hexdigest()
  sums = [
    f"{hashlib.sha256((tmp_path / n).read_bytes()).hexdigest()}  {n}\n"
    for n in ("s0.safetensors", "s1.safetensors")
  ]
  assert weights.Weights(tmp_path).sha256() == hashlib.sha256("".join(sums).encode()).hexdigest()


def test_a_failed_write_leaves_nothing(tmp_path):
  path = tmp_path / "x.safetensors"
  weights.write(str(path), ARRAYS, {})
  before = path.read_bytes()
  with pytest.raises(Exception):
    weights.write(str(path), {"a": np.array(["text"])}, {})
  assert path.read_bytes() == before and os.listdir(tmp_path) == ["x.safetensors"]


def header(text, size=None):
  data = text.encode()
  return struct.pack("<Q", len(data) if size is None else size) + data


ONE = '{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,%d]}}'


@pytest.mark.parametrize(
  "data",
  [
    b"",
    header("{}", 2**62),  # a header larger than memory
    header(ONE % ("6", 24)) + bytes(20),  # truncated
    header(ONE % (str(2**40), 24)) + bytes(24),  # a shape larger than the data
    header(ONE % ("6", 24)) + bytes(30),  # bytes that belong to nothing
    header("[" * 100_000),
    b"\x80\x04." + bytes(100),
  ],
)
def test_damaged_files(tmp_path, data):
  path = tmp_path / "x.safetensors"
  path.write_bytes(data)
  with pytest.raises(ValueError, match=r"x.safetensors: not a whole safetensors file"):
    weights.Weights(path)


@pytest.mark.parametrize("kind, size", [("F8_E4M3", 4), ("I64", 32), ("U8", 4)])
def test_only_floats(tmp_path, kind, size):
  path = tmp_path / "x.safetensors"
  path.write_bytes(header((ONE % ("4", size)).replace("F32", kind)) + bytes(size))
  got = weights.Weights(path)
  assert got.shape("a") == (4,)
  with pytest.raises(ValueError, match=f"a is {kind}; expected F64, F32, F16, BF16"):
    got["a"]


@pytest.mark.parametrize(
  "names, message",
  [
    ({"a": "../s0.safetensors"}, "expected names of files in this folder"),
    ({"a": "/etc/passwd"}, "expected names of files in this folder"),
    ({"a": 3}, "expected names of files in this folder"),
    ({"a": "s0.bin"}, "expected shards of safetensors"),
    ({"a": "s2.safetensors"}, "the shard s2.safetensors, which the index names, is missing"),
    ({"a": "s0.safetensors", "c": "s1.safetensors"}, r"disagree about \['b', 'c'\]"),
    ({}, "it has no weight_map"),
  ],
)
def test_hostile_indices(tmp_path, names, message):
  shards(tmp_path)
  index(tmp_path, names)
  with pytest.raises(ValueError, match=message):
    weights.Weights(tmp_path)


def test_a_name_in_two_shards(tmp_path):
  shards(tmp_path)
  weights.write(str(tmp_path / "s1.safetensors"), ARRAYS, {})
  with pytest.raises(ValueError, match=r"\['a'\] are in several shards"):
    weights.Weights(tmp_path)


def test_what_is_not_there(tmp_path):
  with pytest.raises(ValueError, match="none of model.safetensors, .* is in this folder"):
    weights.Weights(tmp_path)
  with pytest.raises(ValueError, match="there is no such file or folder"):
    weights.Weights(tmp_path / "no")
  (tmp_path / "x.gguf").write_bytes(b"")
  with pytest.raises(ValueError, match="expected .safetensors, .bin, .pt or .pth"):
    weights.Weights(tmp_path / "x.gguf")
  (tmp_path / "config.json").write_text("[" * 100_000)
  weights.write(str(tmp_path / "model.safetensors"), ARRAYS, {})
  with pytest.raises(ValueError, match="config.json: not JSON"):
    weights.Weights(tmp_path)


def test_torch_files_need_torch(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "torch", None)
  (tmp_path / "x.pth").write_bytes(b"")
  with pytest.raises(ValueError, match="this format needs PyTorch"):
    weights.Weights(tmp_path / "x.pth")


def test_torch_files(tmp_path):
  torch = pytest.importorskip("torch")
  path = tmp_path / "x.pth"
  x = torch.arange(6.0).reshape(2, 3)
  torch.save({"a": x.T, "b": x.bfloat16()}, path)
  got = weights.Weights(path)
  np.testing.assert_array_equal(got["a"], x.numpy().T)
  assert got["b"].dtype == ml_dtypes.bfloat16 and got.shape("b") == (2, 3)
  np.testing.assert_array_equal(got["b"].astype(np.float32), x.numpy())

  class Hostile:
    def __reduce__(self):
      return os.mkdir, (str(tmp_path / "made"),)

  for bad in ({"a": Hostile()}, {"a": 3}, [x]):
    torch.save(bad, path)
    with pytest.raises(ValueError, match=r"x\.pth: (torch cannot read it|expected a flat dict)"):
      weights.Weights(path)
  assert not (tmp_path / "made").exists()
  path.write_bytes(b"no")
  with pytest.raises(ValueError, match="torch cannot read it as weights alone"):
    weights.Weights(path)


def test_transforms_and_their_inverses():
  random = np.random.RandomState(0)
  for transform, source, shapes in (
    (table.SAME, (3,), [(3,)]),
    (table.LINEAR, (4, 3), [(3, 4)]),
    (table.CONV2D, (5, 2, 3, 4), [(3, 4, 2, 5)]),
    (table.HEADS, (6, 5), [(5, 2, 3)]),
    (table.HEADS, (18, 5), [(5, 2, 3)] * 3),
    (table.HEADS, (18,), [(2, 3)] * 3),
    (table.JOIN, (5, 6), [(2, 3, 5)]),
  ):
    x = random.standard_normal(source)
    parts = transform.forward(x, shapes)
    assert [p.shape for p in parts] == shapes
    np.testing.assert_array_equal(transform.backward(parts), x)
  heads, out = random.standard_normal((6, 5)), random.standard_normal((5, 6))
  y = random.standard_normal(5)
  want = (heads @ y).reshape(2, 3)  # a dense layer, then its output cut into heads
  np.testing.assert_allclose(np.einsum("d,dhk->hk", y, table.HEADS.forward(heads, [(5, 2, 3)])[0]),
                             want)  # fmt: skip
  joined = np.einsum("hk,hkd->d", want, table.JOIN.forward(out, [(2, 3, 5)])[0])
  np.testing.assert_allclose(joined, out @ want.reshape(-1))


def test_numbers_in_keys_are_plain():
  dialect = table.Dialect("x", (Rule("layer.{i}.w", "b_{i}/w"),))
  assert dialect.match("layer.10.w")[1] == ("b_10/w",) and dialect.key("b_3/w")[0] == "layer.3.w"
  for key in ("layer.01.w", "layer.-1.w", "layer.w", "layerx1.w", "layer.1.w.w"):
    assert dialect.match(key) is None
