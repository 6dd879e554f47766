"""The text of a pipeline, and what is said when it is wrong."""

import numpy as np
import pytest

from big_audio.pp import builder, registry

RNG = np.random.default_rng(0)


def run(spec, **example):
  return builder.build(spec)(example, RNG)


def test_runs_operations_left_to_right_and_leaves_the_input_alone():
  example = {"x": np.float32([2]), "y": 1}
  out = builder.build("copy('x', 'z')|normalise(1, 0.5, key='x')|keep('x', 'z')")(example, RNG)
  assert out["x"].tolist() == [2] and out["z"].tolist() == [2] and "y" not in out
  out = builder.build("normalise(1, 2, key='x')")(example, RNG)
  assert out["x"].tolist() == [0.5] and example["x"].tolist() == [2]


def test_empty_text_and_operations_without_brackets():
  assert run("", x=1) == {"x": 1}
  assert run(" mono ", wav=np.float32([[0, 1]]))["wav"].tolist() == [[0.5]]


def test_a_separator_inside_a_string_is_text():
  assert run("drop('a|b')", **{"a|b": 1, "c": 2}) == {"c": 2}


@pytest.mark.parametrize(
  "spec,message",
  [
    ("crp(secs=1)", r'unknown operation "crp"\. Did you mean "crop"'),
    ("crop(sec=1)", r'crop\(sec=1\): .*Did you mean "secs"'),
    ("crop()", "needs a length"),
    ("crop(secs=1, mode='rand')", r'mode="rand", expected "random"'),
    ("keep('x'", "cannot read"),
    ("keep(x)", "must be literals"),
    ("keep('x') + 1", "is not an operation"),
    ("__import__('os')", "unknown operation"),
    ("onehot(__import__('os').getpid())", "must be literals"),
  ],
)
def test_wrong_text_fails_when_built(spec, message):
  with pytest.raises(ValueError, match=message):
    builder.build(spec)


def test_a_missing_key_names_the_near_ones():
  with pytest.raises(ValueError, match=r'pp: keep\(\'wavs\'\) finds no "wavs".*Did you mean "wav"'):
    run("keep('wavs')", wav=1, label=2)


def test_a_dotted_name_imports_its_module_and_a_name_is_taken_once():
  @registry.op("only_here")
  def only_here(n):
    return lambda example, rng: {**example, "n": n}

  try:
    assert run(f"{__name__}.only_here(3)") == {"n": 3}
    with pytest.raises(ValueError, match="registers no operation"):
      builder.build("big_audio.pp.ops_audio.only_here(3)")

    def clash():
      pass

    with pytest.raises(ValueError, match=r'"only_here" .* already defined'):
      registry.op("only_here")(clash)
  finally:
    del registry.OPS["only_here"]
