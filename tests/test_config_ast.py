"""configs/ast_triplet.py: a run on a folder, what is made of it, and every variant traced."""

import contextlib
import csv
import json
import os

import jax
import numpy as np
import pytest

from big_audio import config as C
from big_audio import convert, inference, sharding, train_loop, train_step, trees
from big_audio.models import ast, projector
from big_audio.pp import builder
from big_audio.tools import embed, embeddings, export
from tests.datasets.conftest import corrupt_flac, write

CONFIG = "configs/ast_triplet.py:"
SR = 16000


def tone(hz, secs=0.6, seed=0):
  t = np.arange(round(secs * SR)) / SR
  noise = np.random.default_rng(seed).standard_normal(len(t))
  return (0.3 * np.sin(2 * np.pi * hz * t) + 0.01 * noise).astype(np.float32)[:, None]


@pytest.fixture(scope="module")
def music(tmp_path_factory):
  """Three sub-genres of nine tracks: low, middle and high tones."""
  folder = tmp_path_factory.mktemp("music")
  for c, (genre, hz) in enumerate((("bass/sub", 200), ("mid/voice", 900), ("high/bell", 4000))):
    for i in range(9):
      write(folder / genre / f"{i}.wav", tone(hz * (1 + 0.02 * i), 0.5 + 0.05 * i, 10 * c + i), SR)
  return folder


def small(music, more=""):
  return C.load(
    f"{CONFIG}data=tracks,dir={music},secs=.4,smoke,steps=6,patch=8x32,stride=8x32{more}"
  )


@pytest.fixture(scope="module")
def trained(music, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("run")
  with contextlib.chdir(C.repo_root()):
    config = small(music)
  last = train_loop.train(config, str(workdir), mesh=sharding.make_mesh(jax.devices()[:1]))
  return workdir, last


def read(path):
  with open(path) as f:
    return f.read().splitlines()


def test_a_run_writes_what_is_promised(trained):
  workdir, last = trained
  assert last["step"] == 6 and np.isfinite(last["train/loss"])
  for name in ("p1", "map_r", "triplet_accuracy", "knn1", "probe", "centroid", "nmi"):
    assert 0 <= last[f"val/test/{name}"] <= 1
  assert "val/test/class/bass/sub/gap" in last and last["val/test/items"] >= 3
  assert 0 <= last["val/test/features/probe"] <= 1
  splits = json.loads((workdir / "splits.json").read_text())
  sets = [set(tracks) for tracks in next(iter(splits.values())).values()]
  assert sum(map(len, sets)) == len(set.union(*sets)) == 27
  written = {p.name for p in (workdir / "samples" / "6").iterdir()}
  assert {"test_confusion.csv", "test_centroids.csv", "test_tracks.csv"} <= written
  assert any(name in written for name in ("test_umap.png", "test_pca.png"))


def test_a_folder_is_embedded_and_what_fails_is_listed(trained, music, tmp_path, capsys):
  folder = tmp_path / "more"
  for name in ("bass/sub/0.wav", "high/bell/3.wav"):
    os.makedirs(folder / os.path.dirname(name), exist_ok=True)
    (folder / name).write_bytes((music / name).read_bytes())
  (folder / "mid").mkdir()
  (folder / "mid" / "noise.wav").write_bytes(b"RIFF no sound")
  corrupt_flac(folder / "mid" / "cut.flac")
  out, table = tmp_path / "out.npz", tmp_path / "out.csv"
  spec = f"{trained[0]}:best"
  code = embed.main([spec, str(folder), str(out), "--csv", str(table), "--label", "folder"])
  said = capsys.readouterr()
  assert code == 1 and "2 recordings failed" in said.err
  failed = [json.loads(line) for line in read(f"{out}.failed.jsonl")]
  assert sorted(os.path.basename(f["path"]) for f in failed) == ["cut.flac", "noise.wav"]
  found = embeddings.load(out)
  assert found.ids == ["bass/sub/0.wav", "high/bell/3.wav"]
  assert found.labels == ["bass/sub", "high/bell"]
  np.testing.assert_allclose(np.linalg.norm(found.x, axis=1), 1, atol=1e-5)
  rows = list(csv.DictReader(read(table)))
  assert [r["id"] for r in rows] == found.ids
  np.testing.assert_allclose([float(r["e3"]) for r in rows], found.x[:, 3], atol=1e-6)
  # By hand: preprocess, embed alone, and average the chunks.
  runner = inference.open_workdir(spec)
  test = runner.config.evals.test.data
  from big_audio.datasets.tracks import Source

  source = Source(str(folder), split="all", label="", sr=SR, chunk=C.to_dict(test.chunk))
  assert source.classes == []
  mine = [i for i in range(len(source)) if source.path(i) == folder / "high/bell/3.wav"]
  pp = builder.build(test.pp)
  batch = np.stack([pp(source[i], np.random.default_rng(i))["fbank"] for i in mine])
  x = np.asarray(runner.predict("embed", {"fbank": batch})["embedding"]).mean(0)
  np.testing.assert_allclose(found.x[1], x / np.linalg.norm(x), atol=1e-5)

  os.remove(folder / "mid/noise.wav")
  os.remove(folder / "mid/cut.flac")
  again = tmp_path / "again.npz"
  assert embed.main([spec, str(folder), str(again), "--batch-size", "3"]) == 0
  np.testing.assert_allclose(embeddings.load(again).x, found.x, atol=1e-5)
  assert embeddings.load(again).labels is None


def test_exported_weights_give_the_same_embeddings(trained, music, tmp_path, capsys):
  workdir, _ = trained
  out, table = tmp_path / "net.safetensors", tmp_path / "history.csv"
  assert export.main([f"{workdir}:best", str(out), "--history", str(table)]) == 0
  loaded = convert.load(str(out), "ast")
  assert loaded.dialect.startswith("c") and loaded.config["patch"] == [8, 32]
  runner = inference.open_workdir(f"{workdir}:best")
  net = runner.config.models.net
  x = np.random.default_rng(0).standard_normal((2, net.frames, net.bins)).astype("f4")
  want = runner.predict("embed", {"fbank": x})
  made = ast.Model(**loaded.config, pool="stats")
  features = made.apply({"params": loaded.params["net"]}, x)
  np.testing.assert_allclose(features, want["features"], atol=1e-4)
  head = projector.Model(widths=[512, 128])
  got = head.apply({"params": loaded.params["head"]}, features)
  np.testing.assert_allclose(got, want["embedding"], atol=1e-4)
  # The file also says how recordings are cut.
  made = [tmp_path / f"{name}.npz" for name in ("run", "file")]
  for model, path in zip((f"{workdir}:best", out), made, strict=True):
    assert embed.main([str(model), str(music), str(path)]) == 0
  run, file = map(embeddings.load, made)
  assert run.ids == file.ids and len(run.ids) == 27
  np.testing.assert_allclose(run.x, file.x, atol=1e-5)
  for bad in ("{", '{"secs": "a"}', '{"sec": 1}'):
    raw = out.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    head = json.loads(raw[8 : 8 + size])
    head["__metadata__"]["chunk"] = bad
    new = json.dumps(head).encode()
    forged = tmp_path / "forged.safetensors"
    forged.write_bytes(len(new).to_bytes(8, "little") + new + raw[8 + size :])
    capsys.readouterr()
    assert embed.main([str(forged), str(music), str(tmp_path / "no.npz")]) == 2
    assert f"{forged}: " in capsys.readouterr().err
  rows = list(csv.DictReader(read(table)))
  assert rows[-1]["step"] == "6" and float(rows[-1]["val/test/p1"]) >= 0
  assert export.main([str(workdir), str(tmp_path / "x.npz")]) == 2
  assert export.main([str(tmp_path), str(out)]) == 2


def traced(config):
  """(frozen names, trained names) of a config, after its step has been traced."""
  config = C.with_defaults(config)
  trainer = C.resolve("trainers", config.trainer.name).Trainer(config, C.build_models(config))
  rows, net = config.input.batch_size, config.models.net
  batch = dict(
    fbank=np.zeros((rows, net.frames, net.bins), np.float32),
    label=np.zeros(rows, np.int32), track=np.zeros(rows, np.int32),
  )  # fmt: skip
  opt, make_state = train_step.build_state(config, trainer, batch, {}, total=10, units={})
  state = jax.eval_shape(make_state, jax.random.key(0), batch, {})
  step = train_step.make_update(trainer, opt, accum=1, total=10, max_skipped=0)
  jax.eval_shape(step, state, batch, jax.random.key(0))
  return set(trees.flatten(state["frozen"])), set(trees.flatten(state["params"]))


@pytest.mark.parametrize(
  "arg",
  [
    "loss=triplet,miner=progressive,margin_end=.6",
    "loss=proxy_anchor,mixup=.4,patchout=2,remat",
    *(
      pytest.param(a, marks=pytest.mark.slow)
      for a in (
        "loss=multi_similarity", "loss=ntxent,memory=64", "pool=special,layer=1,dtype=bfloat16",
        "loss=triplet,miner=distance_weighted", "net=ast_tiny,loss=triplet,miner=all,memory=64",
      )
    ),
  ],
)  # fmt: skip
def test_variants_are_traced(arg):
  frozen, trained = traced(C.load(f"{CONFIG}smoke,{arg}"))
  assert not frozen and trained


@pytest.mark.slow
def test_what_a_fine_tuned_net_freezes():
  tuned = f"{CONFIG}smoke,init=x.safetensors"
  frozen, trained = traced(C.load(f"{tuned},freeze=all"))
  assert {n.partition("/")[0] for n in frozen} == {"net"}
  assert {n.partition("/")[0] for n in trained} == {"head"}
  frozen, trained = traced(C.load(f"{tuned},freeze=1"))
  assert "net/block_0/expand/kernel" in frozen and "net/embed/kernel" in frozen
  assert "net/block_1/expand/kernel" in trained and "net/positions" in frozen
  frozen, trained = traced(C.load(f"{tuned},lora=2"))
  assert {n.partition("/")[0] for n in trained} == {"head", "lora"}
  c = C.load(f"{tuned},lora=2")
  assert [dict(i) for i in c.init_from] == [dict(spec="x.safetensors", family="ast", into="net")]
  assert c.models.net.pool == "tokens" and c.models.head.norm == "none"


def test_settings_of_augmentation_reach_the_training_data_alone():
  c = C.load(f"{CONFIG}data=tracks,dir=x,warp=.1x5,augment=light")
  pp = c.input.data.train.pp
  assert "warp_fbank(0.1, 5)" in pp and "mask_fbank(12, 102)" in pp and "noise_fbank" in pp
  assert "mask_fbank(21, 204)" in C.load(f"{CONFIG}data=tracks,dir=x").input.data.train.pp
  none = C.load(f"{CONFIG}data=tracks,dir=x,augment=none").input.data.train.pp
  for text in (none, c.evals.test.data.pp, c.evals.test.train_data.pp, c.evals.val.data.pp):
    assert not any(op in text for op in ("warp", "mask", "noise", "gain"))


def test_validation_chooses_and_stops():
  """The reference chose the epoch on the test fold, and its early stopping read nothing."""
  c = C.with_defaults(C.load(f"{CONFIG}data=tracks,dir=x,fold=1,folds=5,stop_after=3"))
  assert c.ckpt.best == "val/val/map_r" == c.plateau.metric and c.ckpt.best_mode == "max"
  assert c.plateau.stop_after == 3 and c.plateau.mode == "max"
  assert c.evals.val.data.split == "validation" and c.evals.test.log_percent == 100
  assert c.input.data.train.splits == c.evals.val.data.splits == c.evals.test.data.splits
  none = C.load(f"{CONFIG}data=tracks,dir=x,fold=1,folds=5,validation_share=0.0")
  assert "best" not in none.ckpt and "val" not in none.evals


def test_recipes_give_way_to_arguments():
  steps = lambda arg: C.load(f"{CONFIG}{arg}").total_steps
  assert (steps(""), steps("steps=-1"), steps("steps=0"), steps("steps=7")) == (600, 600, 0, 7)
  assert steps("data=tracks,dir=x") == 1000
  c = C.load(f"{CONFIG}recipe=digits,dir=x,secs=1,depth=1")
  assert c.models.net.frames == 98 and c.models.net.depth == 1 and c.models.net.dim == 96


def test_two_rates():
  """The head's rate: seven times the backbone's at first, the same in the end; folds too."""
  c = C.load(f"{CONFIG}data=tracks,dir=x,fold=1,folds=5,init=x.safetensors,steps=100")
  (head, a), (net, b) = c.optimizer.schedule
  assert head.startswith("(head") and net == "net/.*"
  from big_audio import optim

  rate = lambda s: [float(optim.schedule(C.to_dict(g), total_steps=100)(s)) for g in (a, b)]
  first, last = rate(0), rate(60)
  assert first[0] == pytest.approx(7 * first[1]) and last[0] == pytest.approx(last[1])


@pytest.mark.parametrize(
  "arg, message",
  [
    ("dir=x", "data=loops does not take dir"), ("data=tracks", "needs dir=FOLDER, list=FILE"),
    ("data=features", "needs dir=FOLDER"), ("data=tracks,dir=x,train=a", "give train and test"),
    ("data=tracks,dir=x,train=a,test=b,fold=1", "exclude each other"),
    ("miner=hard", "miner is of loss=triplet"), ("loss=quadruplet", "needs trash"),
    ("temperature=.2,loss=triplet", "temperature is of"), ("init_head", "needs init"),
    ("patch=16", "two numbers as in 16x10"), ("init=x,freeze=some", "all, or a number"),
    ("loss=proxy_anchor,memory=9", "no memory"), ("los=triplet", '"loss"'),
    ("recipe=digit", '"digits"'),
  ],
)  # fmt: skip
def test_arguments_that_would_do_nothing(arg, message):
  with pytest.raises(ValueError, match=message):
    C.load(f"{CONFIG}{arg}")


def test_trash_comes_with_every_batch(music, tmp_path):
  """Quadruplets were never trained in the reference, since nothing drew trash."""
  from big_audio import input_pipeline

  for i in range(4):
    write(tmp_path / "m" / "trash" / f"{i}.wav", tone(50, 0.5, i), SR)
  for p in music.rglob("*.wav"):
    target = tmp_path / "m" / p.relative_to(music)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(p.read_bytes())
  c = C.load(
    f"{CONFIG}data=tracks,dir={tmp_path / 'm'},secs=.4,smoke,loss=quadruplet,trash=trash,"
    "trash_items=2"
  )
  with input_pipeline.train_batches(c.input, seed=0) as batches:
    label = next(batches)["label"]
  assert len(label) == 8 and sorted(label)[:2] == [-1, -1] and min(sorted(label)[2:]) >= 0


@pytest.mark.slow
def test_learning_floor(tmp_path, monkeypatch):
  """Loops of sub-genres: beyond the mel statistics; with shuffled classes it learns nothing."""
  from big_audio.datasets.worlds import loops
  from proj.ast_triplet import compare

  config = C.load(f"{CONFIG}steps=200")
  run = lambda name: train_loop.train(
    config, str(tmp_path / name), mesh=sharding.make_mesh(jax.devices()[:1])
  )
  last, floor = run("true"), compare.mel_row(config.evals.test)
  for measure in ("map_r", "knn1"):
    assert last[f"val/test/{measure}"] > floor[measure] + 0.05, measure

  read, wrong = loops.Source.__getitem__, np.random.default_rng(0).permutation(2700) % 9

  def shuffled(self, i):
    item = read(self, i)
    return {**item, "label": int(wrong[i])} if self.split == "train" else item

  monkeypatch.setattr(loops.Source, "__getitem__", shuffled)
  control = run("shuffled")
  assert control["val/test/map_r"] < floor["map_r"]


@pytest.mark.slow
def test_weights_are_embedders_of_their_own(trained, music, tmp_path, capsys):
  """An exported file embeds a folder as the run does; so do public weights, by their front end."""
  workdir, _ = trained
  out, a, b = tmp_path / "net.safetensors", tmp_path / "a.npz", tmp_path / "b.npz"
  assert export.main([f"{workdir}:best", str(out)]) == 0
  shared = [str(music), "--secs", ".4", "--most", "1"]
  assert embed.main([f"{workdir}:best", *shared[:1], str(a), *shared[1:]]) == 0
  assert embed.main([str(out), *shared[:1], str(b), *shared[1:]]) == 0
  one, two = embeddings.load(a), embeddings.load(b)
  assert one.ids == two.ids and len(one.ids) == 27
  np.testing.assert_allclose(one.x, two.x, atol=1e-4)
  # What the model would not see is refused.
  capsys.readouterr()
  assert embed.main([str(out), str(music), str(b), "--secs", "3"]) == 2
  assert "would be lost" in capsys.readouterr().err

  net = ast.Model(frames=48, bins=32, stride_time=8, stride_freq=16, dim=8, depth=1, heads=2)
  params = net.init(jax.random.key(0), np.zeros((1, 48, 32), np.float32))["params"]
  public = tmp_path / "public.safetensors"
  config = dict(heads=2, frames=48, bins=32, stride_time=8, stride_freq=16)
  convert.save(str(public), {"net": params}, "ast", "a", config=config)
  assert embed.main([str(public), *shared[:1], str(b), *shared[1:], "--batch-size", "4"]) == 0
  found = embeddings.load(b)
  assert found.x.shape == (27, 8) and found.meta["output"] == "features"
  from big_audio.datasets.audio import AudioFile

  file = AudioFile.open(music / found.ids[5])
  pp = builder.build("crop(samples=6400, mode='centre')|fbank(48, n_mels=32)|ast_normalise")
  x = pp(dict(wav=file, sr=SR, id="x"), np.random.default_rng(0))["fbank"]
  want = np.asarray(net.apply({"params": params}, x[None]))[0]
  np.testing.assert_allclose(found.x[5], want / np.linalg.norm(want), atol=1e-4)

  convert.save(
    str(public), {"net": params}, "ast", "a", config=config, metadata={"pp": "os.path.x(1)|fbank"}
  )
  assert embed.main([str(public), str(music), str(b)]) == 2
  assert "operations of other modules" in capsys.readouterr().err


@pytest.mark.parametrize(
  "arg, message",
  [
    ("data=tracks,dir=x,folds=5", "need fold"), ("freeze=2", "freeze needs init"),
    ("data=tracks,dir=x,edge_secs=9", "edge_secs needs chunks"), ("layer=9", "has 3 blocks"),
    ("steps=9,epochs=2", "steps or epochs"),
    ("data=tracks,dir=x,splits=split,fold=1", "exclude each other"),
  ],
)  # fmt: skip
def test_combinations_that_mean_nothing(arg, message):
  with pytest.raises(ValueError, match=message):
    C.load(f"{CONFIG}{arg}")


def test_arguments_reach_what_they_are_of():
  load = lambda arg: C.load(f"{CONFIG}{arg}")
  assert load("loss=proxy_anchor,margin=.2").trainer.loss.margin == 0.2
  assert "margin" not in load("loss=proxy_anchor").trainer.loss
  assert load("loss=triplet").trainer.loss.margin == 0.3
  c = load("init=x,net=ast_base,layer=6,positions=cut")
  assert c.init_from[0]["positions"] == "cut" and "block_11" in c.init_from[0]["unused"]
  assert load("net=ast_base").models.net.get("dim", None) is None
  assert load("data=tracks,list=x.csv,splits=split").input.data.train.splits == "split"
  c = load("data=tracks,dir=x,artists")
  assert c.input.sampler.group == "artist" and c.evals.test.artists
  assert "warp" not in load("recipe=digits,dir=x,train=a,test=b,augment=none").input.data.train.pp
