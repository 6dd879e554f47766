"""The JSON file of a VIMH data set: bytes, values and classes; whatever it may claim."""

import copy
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from big_audio.datasets import vimh_meta
from big_audio.datasets.vimh_meta import Parameter
from tests.datasets import vimh_bytes

INFO = vimh_bytes.info(3, 4, 2, 8, 3, ranges=vimh_bytes.RANGES)


def test_bytes_are_cut_not_rounded():
  p = Parameter("x", -2.0, 0.3, 0.1)
  values = np.random.default_rng(0).uniform(-2, 0.3, 1000)
  want = [min(255, int(255 * ((v + 2.0) / 2.3))) for v in values.tolist()]
  assert p.encode(values).tolist() == want and p.encode(values).dtype == np.uint8
  assert p.encode([-2.0, 0.3, -9, 9]).tolist() == [0, 255, 0, 255]
  error = (p.decode(p.encode(values)) - values) / 2.3 * 255
  assert error.min() >= -1 and error.max() <= 1e-9 and abs(error.mean() + 0.5) < 0.05
  assert (p.encode(p.decode(np.arange(256)) + 1e-9) == np.arange(256)).all()


def test_classes_against_the_definition():
  for lo, hi, step, k in [(126, 127, 0.5, 3), (-2, 0.3, 0.1, 24), (100, 127, 5, 6), (0, 1, 2, 1)]:
    p = Parameter("x", float(lo), float(hi), step)
    assert p.count() == k and p.count(256) == 256
    got = p.to_class(np.arange(256, dtype=np.uint8))
    want = [min(max(round(q / 255 * (hi - lo) / step), 0), k - 1) for q in range(256)]
    assert np.abs(got - want).max() <= 1 and (got == want).mean() > 0.99  # ties, by float error
    assert got.dtype == np.int32
    assert p.values()[0] == lo and p.values()[-1] <= hi and len(p.values()) == k
    assert p.whole == (abs((hi - lo) / step - round((hi - lo) / step)) < 1e-9)
  assert p.to_class(np.array([7], np.uint8), 256).tolist() == [7]
  # 5.4 steps: a value at 5.4 is in the last class, which stands for 125.
  p = Parameter("x", 100.0, 127.0, 5.0)
  assert p.to_class(255) == 5 and p.values()[-1] == 125


def test_content():
  m = vimh_meta.parse(INFO)
  assert (m.height, m.width, m.channels, m.train, m.test, m.pixels) == (3, 4, 2, 8, 3, 24)
  assert m.names == ("note", "decay", "cutoff") and m.header_bytes == 14
  assert m.heads() == dict(note=3, decay=24, cutoff=19)
  assert m.parameter("decay").step == 0.1
  with pytest.raises(ValueError, match="no parameter 'decy' varies. There are decay"):
    m.parameter("decy")
  for stated, header in ((3, 6), (6, 6), (14, 14)):
    assert (
      vimh_meta.parse(INFO | {"label_encoding": {"metadata_bytes": stated}}).header_bytes == header
    )
  raw = copy.deepcopy(INFO)
  del raw["label_encoding"], raw["fixed_parameters"], raw["parameter_mappings"]["note"]["step"]
  m = vimh_meta.parse(raw)
  assert m.header_bytes is None and m.parameters[0].step == 24 / 16


def mapped(**kw):
  return {"parameter_mappings": INFO["parameter_mappings"] | {"decay": kw}}


@pytest.mark.parametrize("change,message", [
  (dict(height=0), r"height must be a whole number in \[1, 65535\], got 0"),
  (dict(height="3"), "got '3'"),
  (dict(width=True), "got True"),
  (dict(channels=3.0), "got 3.0"),
  (dict(height=65535, width=65535), "beyond 16777216 bytes"),
  (dict(train_samples=-1), "train_samples"),
  (dict(parameter_names=[]), "different names"),
  (dict(parameter_names=["note", "note", "decay"]), "different names"),
  (dict(parameter_names=["note", "dekay", "cutoff"]), "has no 'dekay'. It has decay"),
  (dict(varying_parameters=2), "varying_parameters=2, but parameter_names has 3"),
  (dict(train_samples=2**31 + 1), "train_samples must be a whole number"),
  (dict(test_samples=2**40), "test_samples must be a whole number"),
  (dict(sample_rate=0), "sample_rate=0 and duration=1: expected numbers above 0"),
  (dict(duration=-1.0), "duration=-1: expected numbers above 0"),
  (dict(sample_rate=1e6, duration=1e6), "no more than 134217728 samples"),
  (dict(height="3" * 10**6), "height must be a whole number"),
  (dict(width=[[[3] * 1000] * 1000] * 10), "width must be a whole number"),
  (dict(width=10**5000), "got a huge int"),
  (dict(parameter_names=["x" * 10**6] * 3), "different names"),
  (dict(parameter_mappings=["x"] * 1000), "parameter_mappings must be Mapping"),
  (dict(label_encoding={"metadata_bytes": 7}), "expected 14, or 3 or 6"),
  (dict(sample_rate=math.nan), "sample_rate must be a finite number, got nan"),
  (dict(duration=10**400), "duration must be a finite number"),
  (dict(fixed_parameters={"x": 1}), "fixed_parameters.x: expected an object"),
  (mapped(min=1, max=1), r"expected min < max .* got \[1.0, 1.0\]"),
  (mapped(min=0, max=1, step=0), "step=0.0 does not divide"),
  (mapped(min=0, max=1, step=1e-9), "does not divide"),
  (mapped(min=-1e308, max=1e308, step=1), "does not divide"),
  (mapped(min=0), "the key 'max' is missing"),
])  # fmt: skip
def test_what_is_refused(change, message):
  with pytest.raises(ValueError, match=message) as e:
    vimh_meta.parse(INFO | change, where="x.json")
  assert str(e.value).startswith("x.json") and len(str(e.value)) < 400


def test_keys_that_are_missing_are_named():
  raw = {k: v for k, v in INFO.items() if k != "parameter_names"} | {"parameter_name": []}
  with pytest.raises(ValueError, match=r"'parameter_names' is missing\. Did 'parameter_name' mean"):
    vimh_meta.parse(raw)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 200_000, b"1" * 10_000])
def test_files_that_are_no_description(tmp_path, text):
  (tmp_path / vimh_meta.FILE).write_bytes(text)
  with pytest.raises(ValueError, match=r"vimh_dataset_info.json(:| is not JSON)"):
    vimh_meta.read(tmp_path)


def test_a_file_that_is_too_large(tmp_path):
  with (tmp_path / vimh_meta.FILE).open("wb") as f:
    f.truncate(2**40)  # nothing is stored of it
  with pytest.raises(ValueError, match="no description has more"):
    vimh_meta.read(tmp_path)


VALUES = st.recursive(
  st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
  lambda inner: (
    st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
  ),
  max_leaves=5,
)


@settings(max_examples=200, deadline=None)
@given(key=st.sampled_from(sorted(INFO)), value=VALUES, drop=st.booleans())
def test_damage_never_raises_anything_else(key, value, drop):
  raw = {k: v for k, v in INFO.items() if k != key} if drop else INFO | {key: value}
  try:
    m = vimh_meta.parse(json.loads(json.dumps(raw)))
  except ValueError as e:
    assert str(e).startswith("metadata")
  else:
    assert len(m.parameters) == 3 and m.pixels > 0
