r"""Music similarity: an Audio Spectrogram Transformer whose cosines follow classes of tracks.

  python train.py --config configs/ast_triplet.py --workdir runs/loops

Procedural drum loops in nine sub-genres, from scratch, no download: about five minutes on one CPU
core. In the last row of metrics.jsonl, val/test/map_r should be about .7 and val/test/knn1 .9 (of
mel statistics .09 and .5), and on held-out tempos and kits (val/regions) .76 and .93.

Your tracks, `genre/subgenre/file`, from public weights (chunks of 10.24 s, 86 M parameters: for an
accelerator):

  --config 'configs/ast_triplet.py:data=tracks,dir=PATH,net=ast_base,init=ast.safetensors'

`init` is a file or folder of the checkpoint MIT/ast-finetuned-audioset-10-10-0.4593, or what
big_audio.tools.convert_weights made of it. The recipe is then that of fine-tuning: lr 4e-5, wd .1,
dropout .05, a head that learns seven times faster at first. `init_head` takes the projector too,
which files of such a model hold. `freeze=all` trains the head alone, `freeze=6` what stands above
the sixth block, `lora=8` adapters of rank 8 on frozen attention.

Data sets with a recipe (what it sets stands in RECIPES; arguments of the command line win):

  --config 'configs/ast_triplet.py:recipe=speaker,dir=fsdd,train=_(1[5-9]|[234]\d)\.wav$,\
test=_[5-9]\.wav$,validation=_1[0-4]\.wav$'
  --config 'configs/ast_triplet.py:recipe=digits,dir=fsdd,train=_(lucas|nicolas)_,test=_theo_'
  --config 'configs/ast_triplet.py:recipe=sounds,list=esc10/metadata.csv,fold=1'

Any other flat folder is described by regular expressions on paths, label=^(\d)_ and artist=...,
each with one group; a list is a CSV with the columns path, label, and optionally artist, track,
split, fold. Features that tools/prepare_features has written: data=features,dir=PATH.

Without rules, tracks are divided within each class, and tracks of one artist stay together
(`splits.json` in the workdir). With validation items the best checkpoint by their MAP@R is kept
(WORKDIR:best). The test is looked at once, at the end.
"""

from ml_collections import ConfigDict

from big_audio.config import args

ARGS = dict(
  data=("loops", "tracks", "features"),
  recipe=("", "loops", "speaker", "digits", "sounds"),  # "": that of data=loops, else none
  dir="", list="",  # of tracks (a list, its folder, or both); dir of features
  label="", artist="", trash="",  # of tracks, see datasets/tracks.py
  train="", validation="", test="",  # of tracks: regular expressions on paths
  splits="",  # of tracks: "split" (that column of the list), or a stored splits.json
  fold="", folds=0,  # of tracks: `fold` is the test; folds=0: the list has a column "fold"
  validation_share=0.15,  # of the other folds; 0: no validation, also of features without such
  secs=0.0,  # of a chunk; 0: 10.24
  chunks=("crop", "random", "sequential", "spaced"),  # in training: a new crop each time, or fixed
  most=3,  # chunks of a track, at most
  edge_secs=0.0,  # left out at both ends of a recording
  ram=False,  # log-mels of whole recordings are kept in memory
  mels=128,
  mean=-4.2677393, std=4.5689974,  # of log-mels; those of AudioSet
  cmn=False,  # each mel less its mean over the chunk: deaf to rooms and microphones
  net=("ast_micro", "ast_tiny", "ast_small", "ast_base"),
  patch="", stride="",  # FRAMESxMELS; of the net, like what follows where it is 0
  dim=0, depth=0, heads=0, layer=0,
  pool="",  # "": mean of all tokens of public weights, else their statistics
  dropout=-1.0,  # -1: what suits the recipe
  patchout=0,  # columns of patches left out in training
  dtype=("float32", "bfloat16"), remat=False,
  init="", init_head=False,
  positions=("", "cut", "interpolate"),  # where init is made for another grid of patches
  freeze="", lora=0,
  loss=("supcon", "triplet", "quadruplet", "multi_similarity", "ntxent", "proxy_anchor"),
  miner=("semihard", "all", "hard", "progressive", "random", "distance_weighted"),
  margin=-1.0,  # -1: the loss's own, of triplets .3
  margin_end=0.0,  # of triplets; 0: constant, else reached after a third of the run
  temperature=0.1, memory=0,  # items of earlier batches to compare with
  classes=0,  # of tracks and features, for loss=proxy_anchor
  p=8, k=4, trash_items=4,  # a batch: p classes, k tracks of each
  artists=False,  # a batch has k artists of a class, and no neighbour of one's own artist counts
  augment=("full", "light", "none"), mixup=0.0,
  warp="",  # SHARExMELS, changes of tempo and pitch in training; not where these tell classes apart
  steps=-1,  # -1: as many as the recipe has, or 1000; 0: only evaluates what a run begins with
  epochs=0.0, lr=0.0, wd=-1.0, ema=0.99,
  stop_after=0,  # evaluations without a better MAP@R on validation items
  smoke=False,
)  # fmt: skip
# Small nets over patches of all mels, a word or a second at a time.
_FRAMES = dict(patch="8x128", stride="4x128", dim=96, depth=3, heads=4)
RECIPES = {
  "": {},
  "loops": dict(_FRAMES, secs=2.0, ram=True, steps=600),
  "speaker": dict(
    _FRAMES, data="tracks", label=r"^\d_([a-z]+)_", secs=0.64, p=6, k=6, ram=True, steps=400
  ),
  "digits": dict(
    _FRAMES, data="tracks", label=r"^(\d)_", artist=r"^\d_([a-z]+)_", cmn=True, secs=0.64, p=10,
    ram=True, warp="0.2x10", steps=600,
  ),
  "sounds": dict(
    {**_FRAMES, "patch": "16x128", "stride": "8x128"}, data="tracks", secs=1.28, most=6, p=10,
    ram=True, warp="0.2x10", steps=600,
  ),
}  # fmt: skip
SR, WIN, HOP = 16000, 400, 160  # of the log-mels, Hz and samples
DEPTHS = dict(ast_micro=4, ast_tiny=12, ast_small=12, ast_base=12)
MIN_SECS = 0.1  # shorter recordings are left out
EVALS = 10  # looks at the validation items in a run


def pair(name, text, kind=int):
  """Two numbers of "16x10", frames or time first."""
  try:
    both = tuple(kind(part) for part in text.split("x"))
  except ValueError:
    both = ()
  if len(both) != 2 or min(both) < 0:
    raise ValueError(f"configs/ast_triplet.py: {name}={text!r}: expected two numbers as in 16x10.")
  return both


def check(a, given):
  """Arguments that would do nothing, and combinations that mean nothing."""
  where = "configs/ast_triplet.py:"
  of_tracks = {
    "list", "splits", "validation_share", "label", "artist", "trash", "train", "validation", "test",
    "fold", "folds", "chunks", "most", "edge_secs",
  }  # fmt: skip
  unused = {
    "loops": of_tracks | {"dir", "classes"}, "tracks": set(),
    "features": of_tracks - {"validation_share"} | {"cmn", "ram"},
  }[a.data] & given  # fmt: skip
  if unused:
    raise ValueError(f"{where} data={a.data} does not take {', '.join(sorted(unused))}.")
  if a.data == "tracks" and not (a.dir or a.list):
    raise ValueError(f"{where} data=tracks needs dir=FOLDER, list=FILE.csv, or both.")
  if a.data == "features" and not a.dir:
    raise ValueError(f"{where} data=features needs dir=FOLDER, as prepare_features wrote it.")
  if (a.validation and not (a.train and a.test)) or bool(a.train) != bool(a.test):
    raise ValueError(f"{where} rules for splits: give train and test, and maybe validation.")
  if a.data == "tracks" and not a.fold and given & {"folds", "validation_share"}:
    raise ValueError(f"{where} folds and validation_share need fold=NAME.")
  if a.splits and (a.train or a.fold):
    raise ValueError(f"{where} splits, rules and fold exclude each other.")
  if a.edge_secs and a.chunks == "crop" and a.data == "tracks":
    raise ValueError(f"{where} edge_secs needs chunks=random, sequential or spaced.")
  if a.train and a.fold:
    raise ValueError(f"{where} fold and rules for splits exclude each other.")
  for key, losses in (
    ("miner", ("triplet", "quadruplet")), ("margin", ("triplet", "quadruplet", "proxy_anchor")),
    ("margin_end", ("triplet",)), ("temperature", ("supcon", "ntxent")),
    ("trash_items", ("quadruplet",)), ("classes", ("proxy_anchor",)),
  ):  # fmt: skip
    if key in given and a.loss not in losses:
      raise ValueError(f"{where} {key} is of loss={', '.join(losses)}; got loss={a.loss}.")
  if a.loss == "quadruplet" and not a.trash:
    raise ValueError(f"{where} loss=quadruplet needs trash=FOLDER with sounds of no class.")
  if a.memory and a.loss == "proxy_anchor":
    raise ValueError(f"{where} loss=proxy_anchor compares with no memory.")
  if a.lora and a.freeze not in ("", "all"):
    raise ValueError(f"{where} lora freezes the whole net; leave out freeze.")
  for key in ("init_head", "positions", "freeze", "lora"):
    if a[key] and not a.init:
      raise ValueError(f"{where} {key} needs init=FILE.")
  depth = a.depth or DEPTHS[a.net]
  if a.layer > depth or (a.freeze.isdigit() and int(a.freeze) > depth):
    raise ValueError(f"{where} layer={a.layer}, freeze={a.freeze}: {a.net} has {depth} blocks.")
  if a.epochs and "steps" in given:
    raise ValueError(f"{where} give steps or epochs.")
  if a.freeze not in ("", "all") and not a.freeze.isdigit():
    raise ValueError(f"{where} freeze={a.freeze!r}: expected all, or a number of blocks.")


def source(a, split, *, chunked):
  """The data set of a split; `chunked` is cut in the same way each time."""
  if a.data == "loops":
    count = dict(train=2700, validation=450, test=900, regions=900)[split]
    count = min(count, 90) if a.smoke else count
    return dict(source="worlds.loops", split=split, sr=SR, secs=a.secs, num_examples=count)
  if a.data == "features":
    return dict(source="features", dir=a.dir, split=split)
  kw = dict(source="tracks", dir=a.dir, list=a.list, split=split, sr=SR, channels=1)
  kw.update({k: a[k] for k in ("label", "artist", "trash") if a[k]})
  if a.splits:
    kw["splits"] = a.splits
  elif a.train:
    kw["splits"] = {k: a[k] for k in ("train", "validation", "test") if a[k]}
  elif a.fold:
    kw["splits"] = dict(fold=int(a.fold), folds=a.folds) if a.folds else dict(fold=a.fold)
    kw["splits"]["validation"] = a.validation_share
  if not chunked:
    kw["min_secs"] = MIN_SECS
  else:
    strategy = a.chunks if a.chunks != "crop" and split == "train" else "spaced"
    kw["chunk"] = dict(
      secs=a.secs,
      strategy=strategy,
      most=a.most,
      edge_secs=a.edge_secs,
      short="pad",
      min_secs=MIN_SECS,
    )
  return kw


def preprocessing(a, frames, *, train):
  """{once, pp}: sound or stored log-mel -> normalised log-mel of `frames` rows."""
  augment = a.augment if train else "none"
  time, bins = pair("warp", a.warp, float) if train and a.warp else (0.0, 0.0)
  more = int(frames * (1 + time)) + 1 if time else frames  # what may be pressed into `frames`
  place = "random" if train and (a.chunks == "crop" or a.data == "loops") else "start"
  once, ops, fbank = "", [], f"fbank(n_mels={a.mels})"
  if a.data == "features" or (a.ram and train):
    once = fbank if a.data != "features" else ""
    ops += [f'crop(samples={more}, mode="{place}", short="keep", key="fbank")']
  else:
    ops += [f'crop(samples={WIN + (more - 1) * HOP}, mode="{place}", short="keep")', fbank]
  if a.warp and train:
    ops += [f"warp_fbank({time:g}, {bins:g})"]
    ops += [f'crop(samples={frames}, mode="random", short="keep", key="fbank")']
  if a.cmn:
    ops += ["cmn"]
  elif augment == "full":
    ops += ["gain_fbank(6)"]
  # Public weights know recordings that begin at once and are filled up behind.
  side = "end" if a.init else "random" if train else "centre"
  ops += [f'pad(samples={frames}, mode="{side}", key="fbank")']
  if augment != "none":
    high, wide = (a.mels // 6, frames // 5) if augment == "full" else (a.mels // 10, frames // 10)
    ops += [f"mask_fbank({high}, {wide})"]
  ops += [f"ast_normalise({0.0 if a.cmn else a.mean}, {a.std})"]
  if augment != "none":
    ops += ["noise_fbank(0.03, 0.07)"]
  keep = ("fbank", "label", "track") if train else ("fbank", "label", "track", "artist", "id")
  pp = "|".join([*ops, f"keep({', '.join(repr(k) for k in keep)})"])
  return dict(once=once, pp=pp) if once else dict(pp=pp)


def objective(a):
  """Settings of the loss."""
  loss = dict(name=a.loss)
  if a.loss in ("triplet", "quadruplet"):
    loss["miner"] = a.miner
  if a.loss in ("quadruplet", "proxy_anchor") and a.margin >= 0:
    loss["margin"] = a.margin
  if a.loss == "triplet":
    margin = 0.3 if a.margin < 0 else a.margin
    ramp = dict(begin=margin, end=a.margin_end, ramp_percent=33.0)
    loss["margin"] = ramp if a.margin_end else margin
  if a.loss in ("supcon", "ntxent"):
    loss["temperature"] = a.temperature
  if a.memory:
    loss["memory"] = dict(size=a.memory, weight=1.0)
  return loss


def optimizer(a, tuned):
  """Two rates: that of the head begins `boost` times higher where the net is a trained one."""
  cosine = dict(kind="cosine", warmup_percent=10, final=0.0025 if tuned else 0.0)
  head = dict(cosine, boost=7.0, boost_percent=30) if tuned else cosine
  schedule = [["(head|proxies|lora)(/.*)?", head]]
  first = "embed|class|distil|positions"
  if a.lora or a.freeze == "all":
    schedule.append(["net/.*", None])
  elif a.freeze:
    blocks = "|".join(f"block_{i}" for i in range(int(a.freeze)))
    schedule += [[f"net/({first}{'|' if blocks else ''}{blocks})(/.*)?", None], ["net/.*", cosine]]
  else:
    schedule.append(["net/.*", cosine])
  wd = a.wd if a.wd >= 0 else (0.1 if tuned else 0.05)
  return dict(
    name="adam", lr=a.lr or (4e-5 if tuned else 1e-3), wd=wd, b2=0.999 if tuned else 0.98,
    clip=10.0 if tuned else 1.0, ema=dict(decay=a.ema) if a.ema else None, schedule=schedule,
  )  # fmt: skip


def models(a, frames):
  """The net and the projector."""
  family, _, variant = a.net.partition("_")
  pool = a.pool or ("tokens" if a.init else "stats")
  net = dict(model=family, variant=variant, frames=frames, bins=a.mels, pool=pool, remat=a.remat)
  if a.patch:
    net["patch"] = pair("patch", a.patch)
  if a.stride:
    net["stride_time"], net["stride_freq"] = pair("stride", a.stride)
  net.update({k: a[k] for k in ("dim", "depth", "heads", "layer") if a[k]})
  net["dropout"] = a.dropout if a.dropout >= 0 else (0.05 if a.init else 0.1)
  net["patchout_time"] = a.patchout
  net["dtype"] = None if a.dtype == "float32" else a.dtype
  # Features of a net that knows nothing yet are nearly alike.
  norm = "none" if a.init else "batch"
  return dict(net=net, head=dict(model="projector", widths=[512, 128], dropout=0.15, norm=norm))


def evaluators(a, frames):
  """Validation along the run; at its end the test, by embeddings and by the trunk's features."""
  pp = preprocessing(a, frames, train=False)
  data = lambda split: dict(source(a, split, chunked=True), **pp)
  common = dict(type="retrieval", batch_size=64, artists=a.artists, sample=2000)
  also = dict(features=["ranking", "knn", "probe"])
  final = dict(common, train_data=data("train"), also=also, log_percent=100)
  out = {}
  if has_validation(a):
    out["val"] = dict(
      common, data=data("validation"), measures=["ranking"], picture=False,
      log_percent=100 / EVALS,
    )  # fmt: skip
  for split in ("test", "regions") if a.data == "loops" else ("test",):
    out[split] = dict(final, data=data(split), prefix=f"{split}_")
  return out


def has_validation(a):
  """Whether tracks are set aside for it."""
  if a.data == "features":
    return a.validation_share > 0
  if a.data == "loops" or a.splits:
    return True
  return bool(a.validation) if a.train else not a.fold or a.validation_share > 0


def get_config(arg=""):
  """A trunk, a projector, and a loss that sees P classes of K tracks."""
  given = {part.partition("=")[0] for part in arg.split(",") if part}
  a = ConfigDict(args(arg, ARGS).to_dict())
  recipe = RECIPES[a.recipe or ("loops" if a.data == "loops" else "")]
  if given & {"net", "init"}:  # in place of the recipe's own
    recipe = {k: v for k, v in recipe.items() if k not in _FRAMES}
  a.update({k: v for k, v in recipe.items() if k not in given or a[k] == ARGS[k] == -1})
  check(a, given)
  a.secs = a.secs or 10.24
  if a.smoke:
    small = dict(steps=20, epochs=0.0, secs=0.5, p=3, k=2, dim=16, depth=2, heads=2)
    a.update({k: v for k, v in small.items() if k not in given})
  if a.augment == "none":
    a.warp = ""
  frames = (round(a.secs * SR) - WIN) // HOP + 1
  trash = a.trash_items if a.loss == "quadruplet" else 0

  c = ConfigDict()
  c.seed = 0
  if a.epochs:
    c.total_epochs = a.epochs
  else:
    c.total_steps = 1000 if a.steps < 0 else a.steps
  train = source(a, "train", chunked=a.chunks != "crop")
  c.input = dict(
    batch_size=a.p * a.k + trash, num_threads=1, num_workers=0, max_bad_share=0.01,
    sampler=dict(
      name="pk", p=a.p, k=a.k, trash=trash, group="artist" if a.artists else "track"
    ),
    data=dict(train=dict(train, **preprocessing(a, frames, train=True))),
  )  # fmt: skip
  c.models = models(a, frames)
  c.trainer = dict(name="embed", key="fbank", loss=objective(a))
  if a.loss == "proxy_anchor":
    c.trainer.classes = 9 if a.data == "loops" else a.classes
  if a.mixup:
    c.trainer.mixup = dict(alpha=a.mixup, share=0.5)
  if a.lora:
    c.trainer.lora = dict(
      pattern=r"net/block_\d+/attend/(query|value)/kernel", rank=a.lora, alpha=2.0 * a.lora
    )
  c.optimizer = optimizer(a, bool(a.init))
  if a.init:
    public = dict(spec=a.init, family="ast")
    net = dict(public, into="net")
    if a.positions:
      net["positions"] = a.positions
    if a.layer:  # what stands above it is not there
      above = "|".join(f"block_{i}" for i in range(a.layer, DEPTHS[a.net]))
      net["unused"] = f"(norm|{above})/.*"
    c.init_from = [net]
    if a.init_head:
      c.init_from.append(dict(public, into="head"))
  c.log = dict(every_steps=10)
  c.ckpt = dict(every_percent=100 / EVALS, keep_latest=1)
  if has_validation(a):
    c.ckpt.update(best="val/val/map_r", best_mode="max")
  if a.stop_after:
    c.plateau = dict(
      metric="val/val/map_r", mode="max", patience=0, factor=0.5, stop_after=a.stop_after
    )
  c.evals = evaluators(a, frames)
  return c
