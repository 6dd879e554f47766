"""Levels that a picture of its own scale holds: dB, numbers beside it, decay time."""

import numpy as np
import pytest

from big_audio.pp import builder


def run(spec, **example):
  return builder.build(spec)(example, np.random.default_rng(0))


def picture(db):
  """(u8 picture, its scale) as a generator of the format makes them."""
  lo, hi = db.min(), db.max()
  return np.round(255 * (db - lo) / max(hi - lo, 1e-9)).astype(np.uint8)[..., None], [lo, hi]


def decaying(tau, level=0.0, frames=32, step=0.01):
  """dB [8, frames] of partials that fall together."""
  t = np.arange(frames) * step
  return level - 3.0 * np.arange(8)[:, None] - 20 / np.log(10) * t / tau


def test_spec_db_restores_levels():
  db = decaying(0.2)
  image, scale = picture(db)
  out = run("spec_db(-60, 20)", image=image, spec_scale=np.float32(scale))["image"]
  assert out.dtype == np.float32 and out.shape == (8, 32, 1)
  step = (scale[1] - scale[0]) / 255
  np.testing.assert_allclose((out[..., 0] + 1) / 2 * 80 - 60, db, atol=step / 2 + 1e-4)
  # Twice as loud: the picture is the same, the numbers are not.
  louder, other = picture(db + 6)
  np.testing.assert_array_equal(louder, image)
  more = run("spec_db(-60, 20)", image=louder, spec_scale=np.float32(other))["image"]
  np.testing.assert_allclose(more - out, 6 / 40, atol=1e-5)
  cut = run("spec_db(-1, 1)", image=image, spec_scale=np.float32(scale))["image"]
  assert cut.min() == -1 and np.abs(cut).max() <= 1


def test_spec_numbers():
  out = run("spec_numbers()", spec_scale=np.float32([-92, 8]))["aux"]
  np.testing.assert_allclose(out, [-92, 8, 2], atol=1e-6)
  assert np.isfinite(run("spec_numbers(to='x')", spec_scale=np.float32([3, 3]))["x"]).all()


@pytest.mark.parametrize("tau", [0.02, 0.1, 0.5, 2.0])
@pytest.mark.parametrize("step", [0.01, 0.004])
def test_decay_time_of_a_decay(tau, step):
  image, scale = picture(decaying(tau, level=-7.0, step=step))
  out = run(f"decay_time({step})", image=image, spec_scale=np.float32(scale))["decay_time"]
  assert out.shape == (1,)
  np.testing.assert_allclose(out, np.log10(tau), atol=0.02)


def test_decay_time_begins_at_the_loudest_frame_and_has_bounds():
  db = decaying(0.1)
  image, scale = picture(np.concatenate([db[:, :1] - np.arange(20, 0, -1), db], axis=1))
  out = run("decay_time(.01)", image=image, spec_scale=np.float32(scale))["decay_time"]
  np.testing.assert_allclose(out, -1, atol=0.03)
  for flat in (np.zeros((8, 32, 1), np.uint8), np.full((8, 1, 1), 9, np.uint8)):
    got = run("decay_time(.01)", image=flat, spec_scale=np.float32([0, 10]))["decay_time"]
    assert got == 1


def test_spec_augment_blots_rows_and_columns():
  x = np.arange(20 * 30, dtype=np.float32).reshape(20, 30, 1)
  op = builder.build("spec_augment(4, 6, fill=-1.)")
  tall, wide = set(), set()
  for seed in range(200):
    out = op({"image": x}, np.random.default_rng(seed))["image"]
    blotted = out[..., 0] == -1
    rows, columns = blotted.all(axis=1), blotted.all(axis=0)
    np.testing.assert_array_equal(blotted, rows[:, None] | columns[None])
    for where in (rows, columns):  # each in one piece
      assert np.abs(np.diff(np.r_[0, where.astype(int), 0])).sum() in (0, 2)
    tall.add(int(rows.sum()))
    wide.add(int(columns.sum()))
    np.testing.assert_array_equal(out[~blotted], x[~blotted])
  assert tall == set(range(5)) and wide == set(range(7))
  again = op({"image": x}, np.random.default_rng(199))["image"]
  np.testing.assert_array_equal(again, out)
  assert run("spec_augment(20, 30, times=3)", image=x)["image"].std() < x.std()
  assert (run("spec_augment(0, 0)", image=x)["image"] == x).all()
  with pytest.raises(ValueError, match="at least 21 x 3"):
    run("spec_augment(21, 3)", image=x)
  with pytest.raises(ValueError, match="fill"):
    builder.build("spec_augment(1, 1, fill='zero')")


def test_errors():
  image = np.zeros((4, 4, 1), np.uint8)
  with pytest.raises(ValueError, match="needs lo < hi"):
    builder.build("spec_db(1, 1)")
  with pytest.raises(ValueError, match="frame_secs"):
    builder.build("decay_time(0)")
  with pytest.raises(ValueError, match="before value_range"):
    run("value_range(-1, 1)|spec_db()", image=image, spec_scale=np.float32([0, 1]))
  with pytest.raises(ValueError, match="least, largest"):
    run("spec_numbers()", spec_scale=np.float32([1, 0]))
  with pytest.raises(ValueError, match='finds no "spec_scale"'):
    run("spec_db()", image=image)
