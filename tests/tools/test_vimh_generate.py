"""`make_vimh generate`: the same bytes by any number of processes and after any interruption."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from big_audio.datasets import synth_render, synths, vimh
from big_audio.datasets.worlds import synth as world
from big_audio.tools import make_vimh, vimh_generate


def contents(folder):
  return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def generate(*argv):
  return make_vimh.main(["generate", *map(str, argv)])


def only(folder):
  (found,) = folder.iterdir()
  return found


@pytest.fixture
def blocks_of_40(monkeypatch):
  monkeypatch.setattr(synth_render, "BLOCK", 40)


ARGUMENTS = ["--config-name", "moog_basic", "--size", 100, "--secs", 0.4, "--pickle",
             "--temporal-envelope"]  # fmt: skip


def test_interruptions_leave_no_trace(tmp_path, monkeypatch, blocks_of_40, capsys):
  assert generate(*ARGUMENTS, "--output-dir", tmp_path / "a", "--jobs", 1) == 0
  want = contents(only(tmp_path / "a"))
  assert sorted(want) == ["test", "test_batch", "train", "train_batch", "vimh_dataset_info.json"]
  assert str(only(tmp_path / "a")) in capsys.readouterr().out

  made, block = [], synth_render.block

  def killed(recipe, values):
    if len(made) == 2:
      raise KeyboardInterrupt
    made.append(values)
    return block(recipe, values)

  monkeypatch.setattr(synth_render, "block", killed)
  flags = [*ARGUMENTS, "--output-dir", tmp_path / "b", "--jobs", 1]
  with pytest.raises(SystemExit, match="interrupted"):
    generate(*flags)
  work = only(tmp_path / "b")
  assert work.name.startswith(".vimh-32x32x2") and work.name.endswith("_temporal.partial")
  with (work / "done").open("a") as f:
    f.write("8")  # of a line that was cut off; the third block, at 80, is not there
  with pytest.raises(SystemExit, match=r"other arguments \(seed: 12345, now 1\)"):
    generate(*flags, "--seed", 1)
  made.clear()
  monkeypatch.setattr(synth_render, "block", lambda r, v: made.append(len(v)) or block(r, v))
  assert generate(*flags) == 0
  assert made == [20]  # the others were there
  assert "80 of 100 items are there already" in capsys.readouterr().err
  assert contents(only(tmp_path / "b")) == want

  with pytest.raises(SystemExit, match="holds test, test_batch, train, train_batch already"):
    generate(*flags)
  assert contents(only(tmp_path / "b")) == want


def test_a_line_that_was_cut_off_stays_apart(tmp_path):
  (tmp_path / "done").write_text("80\n4")  # of 440, say
  with vimh_generate._journal(tmp_path / "done") as journal:
    assert journal.done == {80}
    journal.note(0)
  with vimh_generate._journal(tmp_path / "done") as journal:
    assert journal.done == {80, 0}  # not 40
  (tmp_path / "done").write_bytes(b"\xff\n40\n" + b"9" * 5000 + b"\n-1\n")
  with vimh_generate._journal(tmp_path / "done") as journal:
    assert journal.done == {40}


def test_processes_leave_no_trace(tmp_path):
  recipe = synths.build("pluck", size=520, secs=0.2, width=2)
  one = vimh_generate.generate(recipe, tmp_path / "one", jobs=1)
  two = vimh_generate.generate(recipe, tmp_path / "two", jobs=2)
  assert contents(one) == contents(two)


def test_killed_while_the_files_were_written(tmp_path, monkeypatch, blocks_of_40):
  recipe = synths.build("simple_saw", size=50)
  want = contents(vimh_generate.generate(recipe, tmp_path / "a", jobs=1))
  write = vimh_generate.vimh_write.write_folder

  def killed(folder, raw, *parts, **kw):
    folder.mkdir()
    (folder / "train").write_bytes(b"half of it")
    raise KeyboardInterrupt

  monkeypatch.setattr(vimh_generate.vimh_write, "write_folder", killed)
  with pytest.raises(KeyboardInterrupt):
    vimh_generate.generate(recipe, tmp_path / "b", jobs=1)
  monkeypatch.setattr(vimh_generate.vimh_write, "write_folder", write)
  assert contents(vimh_generate.generate(recipe, tmp_path / "b", jobs=1)) == want


def interrupt(monkeypatch, recipe, folder, blocks=1, error=KeyboardInterrupt):
  """Ends a generation after so many blocks; returns the temporary folder, None if it is gone."""
  made, block = [], synth_render.block

  def ended(recipe, values):
    if len(made) == blocks:
      raise error
    made.append(values)
    return block(recipe, values)

  with monkeypatch.context() as m:
    m.setattr(synth_render, "block", ended)
    with pytest.raises(error):
      vimh_generate.generate(recipe, folder, jobs=1)
  return next(folder.iterdir(), None)


def test_only_what_is_worth_something_is_left(tmp_path, monkeypatch, blocks_of_40):
  recipe = synths.build("simple_saw", size=100)
  assert interrupt(monkeypatch, recipe, tmp_path, 0, MemoryError) is None
  work = interrupt(monkeypatch, recipe, tmp_path, 0)  # nothing is done, so nothing is in the way
  other = synths.build("simple_saw", size=100, seed=1)
  assert interrupt(monkeypatch, other, tmp_path, 1, MemoryError) == work
  with pytest.raises(ValueError, match=r"\(seed: 1, now 12345\)"):
    vimh_generate.generate(recipe, tmp_path)
  assert vimh_generate.generate(other, tmp_path, jobs=1).is_dir() and not work.exists()


def test_what_differs_is_named(tmp_path, monkeypatch, blocks_of_40):
  arguments = lambda **kw: dict(size=100, parameters=dict(kw))
  interrupt(monkeypatch, synths.build("moog_basic", **arguments()), tmp_path)
  build = lambda **kw: synths.build("moog_basic", **arguments(**kw))
  for recipe, message in (
    (build(filter_cutoff=(200, 1000, 100)),
     r"\(filter_cutoff: \[200.0, 2000.0, 100.0\], now \[200.0, 1000.0, 100.0\]\)"),
    (synths.build("moog_basic", size=100, spectrogram=dict(window="hann")),
     r"\(spectrogram window: 'rectangular', now 'hann'\)"),
    (build(filter_env_amount=1), r"filter_env_amount: not there, now \[1.0, 1.0, 0.0\]\)"),
  ):  # fmt: skip
    with pytest.raises(ValueError, match=message) as e:
      vimh_generate.generate(recipe, tmp_path)
    assert len(str(e.value)) < 700
  monkeypatch.setattr(synth_render, "BLOCK", 30)
  with pytest.raises(ValueError, match=r"\(block: 40, now 30\)"):
    vimh_generate.generate(build(), tmp_path)


def test_the_order_of_parameters_is_compared(tmp_path, monkeypatch, blocks_of_40):
  names = dict(filter_env_amount=(0, 1), filter_env_attack=(0, 1))
  turned = dict(reversed(names.items()))
  interrupt(monkeypatch, synths.build("moog_basic", size=100, parameters=names), tmp_path)
  with pytest.raises(ValueError, match=r"\(parameters: "):
    vimh_generate.generate(synths.build("moog_basic", size=100, parameters=turned), tmp_path)


def test_damaged_temporary_folders(tmp_path, monkeypatch, blocks_of_40, capsys):
  recipe = synths.build("simple_saw", size=100)
  want = contents(vimh_generate.generate(recipe, tmp_path / "a", jobs=1))
  work = interrupt(monkeypatch, recipe, tmp_path / "b", 2)
  records = (work / "records").read_bytes()
  (work / "records").write_bytes(records[:-1])  # the journal tells of two blocks
  capsys.readouterr()
  got = vimh_generate.generate(recipe, tmp_path / "b", jobs=1)
  assert contents(got) == want and "40 of 100 items" in capsys.readouterr().err

  work = interrupt(monkeypatch, recipe, tmp_path / "c", 2)
  (work / "records").write_bytes(bytes(len(records)))
  with pytest.raises(ValueError, match="record 0 .*partial are damaged: remove this folder"):
    vimh_generate.generate(recipe, tmp_path / "c", jobs=1)
  for text in (b"{", b"[]", b"\xff"):
    (work / "arguments.json").write_bytes(text)
    with pytest.raises(ValueError, match="arguments.json is damaged: remove this folder and give"):
      vimh_generate.generate(recipe, tmp_path / "c", jobs=1)
  (work / "arguments.json").unlink()
  assert contents(vimh_generate.generate(recipe, tmp_path / "c", jobs=1)) == want


def test_a_place_that_is_taken_is_told_at_once(tmp_path, monkeypatch):
  recipe = synths.build("simple_saw", size=20)
  target = tmp_path / recipe.metadata().raw["dataset_name"]
  target.mkdir()
  (target / "notes").touch()
  monkeypatch.setattr(synth_render, "block", None)
  with pytest.raises(ValueError, match="holds notes. Name another"):
    vimh_generate.generate(recipe, tmp_path)
  (target / "notes").unlink()
  target.rmdir()
  target.touch()
  with pytest.raises(ValueError, match="is a file"):
    vimh_generate.generate(recipe, tmp_path)
  assert list(tmp_path.iterdir()) == [target]


def test_one_process_at_a_time(tmp_path):
  pytest.importorskip("fcntl")
  recipe = synths.build("simple_saw", size=20)
  work = tmp_path / f".{recipe.metadata().raw['dataset_name']}.partial"
  work.mkdir()
  with vimh_generate._journal(work / "done"):
    with pytest.raises(ValueError, match="another process is generating this data set"):
      vimh_generate.generate(recipe, tmp_path, jobs=1)
    assert [p.name for p in work.iterdir()] == ["done"]
  assert vimh_generate.generate(recipe, tmp_path, jobs=1).is_dir()


def test_what_does_not_fit_is_told_at_once(tmp_path, monkeypatch):
  recipe = synths.build("simple_saw", size=2**31)
  monkeypatch.setattr(synth_render, "draw", None)
  for there, message in ((2**30, "GB are needed in memory"), (2**60, "GB are needed below")):
    monkeypatch.setattr(synth_render.os, "sysconf", lambda n, there=there: there**0.5)
    with pytest.raises(ValueError, match=rf"--size 2147483648: .* {message}"):
      vimh_generate.generate(recipe, tmp_path / "x")
  assert not (tmp_path / "x").exists()
  monkeypatch.setattr(synth_render.os, "sysconf", lambda n: 2**15)
  with pytest.raises(ValueError, match="synth 'simple_saw': size=2147483648: .* Use a smaller"):
    world.Source("simple_saw", size=2**31)


def test_processors_are_those_of_this_process(monkeypatch):
  monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5}, raising=False)
  assert vimh_generate.processors() == 1
  monkeypatch.delattr(os, "sched_getaffinity")
  assert vimh_generate.processors() == os.cpu_count()


def test_shuffling_moves_whole_items(tmp_path):
  plain = synth_render.records(synths.build("simple_saw", size=60))
  mixed = synth_render.records(synths.build("simple_saw", size=60, shuffle=True))
  order = list(range(60))
  legacy = np.random.RandomState(12345)
  legacy.random_sample((60, 2))
  legacy.shuffle(order)
  np.testing.assert_array_equal(mixed, plain[order])


def test_flags_become_the_recipe(tmp_path, capsys):
  flags = ["--config-name", "synth/generate_simple_saw", "--sampling", "grid", "--jitter", 0.5,
           "--set", "log10_decay_time=-1,0,.25", "--set", "note_number=50", "note_velocity=90,100",
           "--spectrogram", "window=hann", "n_fft=128", "--height", 20, "--width", 10,
           "--spectral-envelope", "--normalize", "--joint-scaling",
           "--output-dir", tmp_path]  # fmt: skip
  assert generate(*flags) == 0
  folder = only(tmp_path)
  assert folder.name == "vimh-20x10x2_8000Hz_1p0s_85dss_simple_2p_spectral_shuffled"
  raw = json.loads((folder / "vimh_dataset_info.json").read_text())
  assert raw["generator"] == dict(
    recipe="simple_saw", seed=12345, sampling="grid", jitter=0.5, scaling="joint"
  )
  assert raw["channel_labels"] == ["Gray_normalized", "Gray_spectral_envelope"]
  assert raw["spectrogram_config"]["n_fft"] == 128
  source = vimh.Source(str(folder), "all")
  assert len(source) == 85 and source[0]["image"].shape == (20, 10, 2)
  levels = {k: len({int(e[k]) for e in source}) for k in ("log10_decay_time", "note_velocity")}
  assert levels == dict(log10_decay_time=5, note_velocity=17)
  capsys.readouterr()
  assert generate() == 0
  listed = capsys.readouterr().out
  assert "moog_basic" in listed and "log10_index_decay_time" in listed
  for argv, match in (
    (["--set", "note_number"], "expected NAME=VALUE"),
    (["--set", "note_number=a,b"], "expected MIN,MAX,STEP"),
    (["--jobs", 0], "--jobs 0"),
    (["--width", 400], "have 100 frames"),
    (["--spectrogram", "type=mel", "freq_min=x"], "freq_min='x': expected a number"),
    (["--size", 4_000_000_000], "size=4000000000: expected a whole number"),
    (["--sampling", "grid", "--set", "log10_decay_time=-1,0,.0001"], "cannot tell apart"),
  ):
    with pytest.raises(SystemExit, match=match):
      generate("--config-name", "simple_saw", "--output-dir", tmp_path / "x", *argv)
  with pytest.raises(SystemExit, match="the grid has .* Say how many"):
    generate("--config-name", "moog_envelope", "--sampling", "grid")
  assert not os.path.exists(tmp_path / "x")


@pytest.mark.parametrize("split", vimh.SPLITS)
def test_the_world_is_the_folder(tmp_path, split):
  arguments = dict(size=70, seed=3, temporal=True)
  folder = vimh_generate.generate(synths.build("moog_basic", **arguments), tmp_path, jobs=1)
  kw = dict(validation=0.2, classes=256 if split == "test" else "step")
  a = world.Source("moog_basic", split, **arguments, **kw)
  b = vimh.Source(str(folder), split, **kw)
  assert len(a) == len(b) > 0 and a.metadata.heads() == b.metadata.heads()
  for x, y in zip(a, b, strict=True):
    assert x.keys() == y.keys()
    for key in x:
      np.testing.assert_array_equal(x[key], y[key])
      assert np.asarray(x[key]).dtype == np.asarray(y[key]).dtype


def test_the_world_has_the_sounds():
  source = world.Source("simple_saw", "test", size=20, wav=True)
  item = source[1]
  assert item["wav"].shape == (8000, 1) and item["wav"].dtype == np.float32 and item["sr"] == 8000
  images, scale = synth_render.pictures(source.recipe, item["wav"].T)
  np.testing.assert_array_equal(images[0].transpose(1, 2, 0), item["image"])
  np.testing.assert_array_equal(scale[0], item["spec_scale"])
  again = world.Source("simple_saw", "train", size=20)
  assert again._records.raw.base is source._records.raw.base  # rendered once
  assert "wav" not in again[0]
  sizes = [len(world.Source(n, "all", width=2)) for n in ("simple_saw", "simple_saw_large")]
  assert sizes == [4096, 16384]
  with pytest.raises(ValueError, match="no 'heigth'"):
    world.Source("simple_saw", heigth=3)
  with pytest.raises(ValueError, match='no split "tset"'):
    world.Source("simple_saw", "tset", size=20)


@pytest.mark.slow
def test_a_killed_program_ends_its_workers_and_goes_on(tmp_path):
  argv = [sys.executable, "-m", "big_audio.tools.make_vimh", "generate", "--config-name",
          "moog_envelope", "--size", "12000", "--jobs", "2", "--output-dir"]  # fmt: skip
  subprocess.run([*argv, tmp_path / "a"], check=True)
  running = subprocess.Popen([*argv, tmp_path / "b"], start_new_session=True)
  deadline = time.monotonic() + 120
  begun = lambda: [f.read_text().count("\n") for f in tmp_path.glob("b/.*/done")]
  while time.monotonic() < deadline and (not begun() or begun()[0] < 3):
    time.sleep(0.05)
  running.kill()
  running.wait()
  assert 3 <= begun()[0] < 24
  while True:  # its workers are in its group
    try:
      os.killpg(running.pid, 0)
    except ProcessLookupError:
      break
    assert time.monotonic() < deadline
    time.sleep(0.05)
  done = subprocess.run([*argv, tmp_path / "b"], check=True, capture_output=True, text=True)
  assert "of 12000 items are there already" in done.stderr
  assert contents(only(tmp_path / "b")) == contents(only(tmp_path / "a"))
