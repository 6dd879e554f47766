r"""Classifiers, and the embedders that distances between distributions stand on.

  python train.py --config configs/classifier.py --workdir runs/classifier

Handwritten digits of scikit-learn (8 x 8, no download): half a minute on two CPU cores; expect
val/accuracy/label/accuracy of about .98 in the last row of metrics.jsonl.

MNIST from idx files, spoken digits, and procedural notes (which of five kinds of sound):

  --config configs/classifier.py:data=mnist,dir=PATH
  --config 'configs/classifier.py:data=audio_dir,dir=PATH,sr=8000,label=^(\d)_,classes=10,\
train=_(1[5-9]|[234]\d)\.wav$,validation=_1[0-4]\.wav$,test=_[5-9]\.wav$'
  --config configs/classifier.py:data=notes,sr=8000

Who sees what. An embedder must not have seen what the judged models were trained or measured on:

| data | the embedder (split=embed) | models it judges | measured on |
|---|---|---|---|
| digits | "embed", half of train | "codec", the other half | validation, test |
| mnist | "embed", half of train | "codec", the other half | validation, test |
| audio_dir | "embed", half of train | "codec", the other half | validation, test |
| notes | "classifier", its own world | train | validation, test |

Halves are by a hash of the item's name (datasets/splits.py). A model trained on the whole of
"train" shares items with its embedder; its test items are still unknown to both. split=train
trains on everything but the test items, to know how good the classifier itself is (mnist: 3/4 of
the items against 1/4).
"""

from ml_collections import ConfigDict

from big_audio.config import args

ARGS = dict(
  data=("digits", "mnist", "audio_dir", "notes"),
  split=("embed", "train"),  # what to train on, see above
  dir="",  # of mnist and audio_dir
  sr=8000,  # of waves, Hz; recordings of another rate are refused
  secs=1.0,  # of a recording; shorter ones are padded with silence
  label="",  # of audio_dir: a regex whose first group in a file's name is the class
  classes=10,  # of audio_dir
  train="", validation="", test="",  # of audio_dir: regexes over file names; empty: by hash
  features=256,
  batch=64,
  steps=0,  # 0: what the docstring speaks of
  smoke=False,
)  # fmt: skip

STEPS = dict(digits=1000, mnist=1500, audio_dir=1500, notes=1500)


def source(a, split):
  """The data set of a split."""
  if a.data == "digits":
    return dict(source="digits", split=split)
  if a.data == "notes":
    split = "classifier" if split == "embed" else split
    return dict(source="worlds.notes", split=split, sr=a.sr, secs=a.secs, polyphony=1)
  if not a.dir:
    raise ValueError(f"configs/classifier.py: data={a.data} needs dir=PATH.")
  if a.data == "mnist":
    kw = dict(splits=dict(train=0.75, test=0.25)) if a.split == "train" else {}
    return dict(source="mnist", dir=a.dir, split=split, **kw)
  if not a.label:
    raise ValueError(r"configs/classifier.py: data=audio_dir needs label=REGEX, such as ^(\d)_.")
  rules = {k: a[k] for k in ("train", "validation", "test")}
  if any(rules.values()) and not all(rules.values()):
    raise ValueError("configs/classifier.py: give all of train, validation and test, or none.")
  kw = dict(splits=rules) if all(rules.values()) else {}
  return dict(source="audio_dir", dir=a.dir, split=split, sr=None, channels=1, label=a.label, **kw)


def get_config(arg=""):
  """One head, on images or on log-mel spectrograms."""
  a = args(arg, ARGS)
  image = a.data in ("digits", "mnist")
  taken = {"digits": (), "mnist": ("dir",), "notes": ("sr", "secs")}.get(a.data)
  for k in ("dir", "sr", "secs", "label", "classes", "train", "validation", "test"):
    if taken is not None and k not in taken and a[k] != ARGS[k]:
      raise ValueError(f"configs/classifier.py: data={a.data} does not take {k}.")
  target = "note_kind" if a.data == "notes" else "label"
  n = round(a.sr * a.secs)
  keep = f'keep("image", "{target}")' if image else f'keep("wav", "{target}")'
  train_pp = eval_pp = keep
  if not image:
    fit = 'require_sr({})|pad(samples={}, mode="{}")|crop(samples={}, mode="{}")|'
    train_pp = fit.format(a.sr, n, "random", n, "random") + keep
    eval_pp = fit.format(a.sr, n, "centre", n, "centre") + keep
  c = ConfigDict()
  c.seed = 0
  c.total_steps = a.steps or (20 if a.smoke else STEPS[a.data])
  c.input = dict(
    batch_size=16 if a.smoke else a.batch, num_threads=1, num_workers=0, max_bad_share=0.01,
    data=dict(train=dict(source(a, a.split), pp=train_pp)),
  )  # fmt: skip
  net = dict(model="cnn", features=a.features)
  if a.smoke:
    net.update(widths=[8, 16, 16], features=32)
  if not image:
    net["sr"] = a.sr
  classes = {"notes": 5, "audio_dir": a.classes}.get(a.data, 10)
  c.models = dict(net=net, heads=dict(model="heads", outputs={target: classes}))
  c.trainer = dict(name="multihead", key="image" if image else "wav")
  c.optimizer = dict(
    name="adam", lr=1e-3, clip=1.0, ema=dict(decay=0.99),
    schedule=[[".*", dict(kind="cosine", warmup_percent=5)]],
  )  # fmt: skip
  c.log = dict(every_steps=5 if a.smoke else 50)
  c.ckpt = dict(every_steps=10 if a.smoke else 500, keep_latest=1)
  common = dict(batch_size=64, limit=64 if a.smoke else 4000)
  # Under split=train, mnist is divided into train and test alone.
  seen = "test" if a.data == "mnist" and a.split == "train" else "validation"
  c.evals = dict(
    val=dict(type="mean", data=dict(source(a, seen), pp=eval_pp), log_percent=25, **common),
    accuracy=dict(
      type="classify", data=dict(source(a, "test"), pp=eval_pp), log_percent=50, **common
    ),
  )
  return c
