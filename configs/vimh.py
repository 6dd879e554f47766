r"""Synthesiser parameters from spectrograms: one small network, one head for each parameter.

  python train.py --config configs/vimh.py --workdir runs/vimh

4096 sawtooth sounds rendered at the start (2949 to train, 327 validation, 820 test), no download.
Half a minute on two CPU cores; expect val/test/log10_decay_time_within1 of about 1 and
val/test/note_velocity_accuracy of about .93 in the last row of metrics.jsonl.

A data set of your own, made by `python -m big_audio.tools.make_vimh generate` or by any other
writer of the format; heads, classes and sizes come from its vimh_dataset_info.json:

  --config configs/vimh.py:dir=data/vimh-32x32x1_8000Hz_1p0s_4096dss_simple_2p

Losses: one name for all heads, or one for some of them, the others having the first:

  --config configs/vimh.py:loss=ordinal
  --config configs/vimh.py:loss=soft_target/note_velocity=cross_entropy

What the network sees: `input=image` the picture, scaled by its own least and largest level; `db`
levels on one scale for all; `leaf` the sound, through a learnt filter bank. The picture alone does
not tell how loud a sound was: `aux=scale` (the default) adds its two levels.
"""

from ml_collections import ConfigDict

from big_audio.config import args, nearest, resolve

NETS = (
  "cnn_10k", "cnn_39k", "cnn_1.1m", "cnn_7.9k", "cnn_69k", "cnn_422k",
  "vit_23k", "vit_116k", "vit_38k", "vit_210k", "vit_822k",
  "convnext_18k", "convnext_73k", "convnext_288k", "convnext_725k", "convnext_123k",
  "convnext_309k", "convnext_1.0m", "convnext_10.4m",
  "efficientnet_66k", "efficientnet_7.2m", "mlp_8.5k", "mlp_68k", "mlp_1.0m",
)  # fmt: skip
VIT_WIDTH = {"23k": 32, "116k": 64, "38k": 32, "210k": 64, "822k": 128}

ARGS = dict(
  synth="simple_saw",  # a named configuration of big_audio/datasets/synths.py, rendered at once
  size=4096,  # sounds of it
  data_seed=12345,
  envelopes=("none", "temporal", "spectral", "both"),  # planes behind the picture of synth
  dir="",  # a VIMH folder, in place of synth
  form=("binary", "pickle"),  # which of the folder's files
  classes=("step", "256"),  # of a head: one for each step of its parameter, or for each byte
  net=NETS,  # the numbers are parameters, see big_audio/models/*.py
  dropout=-1.0,  # of the net; -1: the variant's
  hidden=0,  # width of a layer of each head's own; 0: the net's own (none but in a vit)
  patch=0,  # of a vit, in pixels; 0: the variant's
  dim=0,  # of a vit, its width; 0: the variant's
  loss="soft_target",  # NAME, or NAME/HEAD=NAME/...
  weights="",  # of the heads' losses: HEAD=NUMBER/..., others 1; or "learned"
  unit=("range", "physical", "class"),  # of distances in ordinal and regression losses
  input=("image", "db", "leaf"),
  augment=0,  # rows and columns that are blotted out at most in training (SpecAugment)
  aux=("scale", "decay", "both", "none"),  # numbers beside the picture
  epochs=5,
  batch=64,
  lr=0.0,  # 0: what suits the net
  schedule=("cosine", "plateau", "constant"),
  wd=1e-4,
  clip=1.0,
  patience=5,  # evaluations without progress until a plateau lowers the rate
  stop_after=0,  # evaluations without progress that end the run; 0: never
  sound_weight=0.0,  # of the distance between rendered estimates and true sounds, in the loss
  audio=True,  # at the end, hear what the estimated parameters sound like
  smoke=False,
)  # fmt: skip

LR = dict(cnn=6e-3, vit=2e-3, convnext=2e-3, efficientnet=3e-3, mlp=3e-3)


def source(a, split):
  """The data set of a split."""
  classes = 256 if a.classes == "256" else "step"
  common = dict(split=split, classes=classes, **({"wav": True} if a.input == "leaf" else {}))
  if a.dir:
    return dict(source="vimh", dir=a.dir, form=a.form, **common)
  made = dict(synth=a.synth, size=a.size, seed=a.data_seed, **planes(a))
  return dict(source="worlds.synth", **made, **common)


def metadata(a):
  """What the data set says of itself."""
  if a.dir:
    return resolve("datasets", "vimh_meta").read(a.dir)
  return resolve("datasets", "synths").build(a.synth, size=a.size, **planes(a)).metadata()


def planes(a):
  """Of a rendered data set: which envelopes stand behind the picture."""
  both = a.envelopes == "both"
  wanted = dict(
    temporal=both or a.envelopes == "temporal", spectral=both or a.envelopes == "spectral"
  )
  return {k: True for k, on in wanted.items() if on}


def spectrogram(data):
  """How the pictures of a data set were made; raises a ValueError where it does not say."""
  found = data.raw.get("spectrogram_config") or {}
  if not {"hop_length", "n_fft"} <= set(found):
    raise ValueError(
      f"configs/vimh.py: {data.where} has no spectrogram_config with hop_length and n_fft; leave "
      "out aux=decay, aux=both and sound_weight."
    )
  return found


def per_head(a, what, heads):
  """{head: text} of "HEAD=TEXT/HEAD=TEXT"."""
  out = {}
  for part in filter(None, what.split("/")):
    head, eq, text = part.partition("=")
    if not eq:
      raise ValueError(f"configs/vimh.py: {part!r}: expected HEAD=...; heads: {', '.join(heads)}.")
    if head not in heads:
      raise ValueError(f"configs/vimh.py: {part!r}: there is no such head. {nearest(head, heads)}")
    if head in out:
      raise ValueError(f"configs/vimh.py: {head} is given twice.")
    out[head] = text
  return out


def number(head, text):
  """The weight of a head."""
  try:
    value = float(text)
  except ValueError:
    value = -1.0
  if not 0 <= value < float("inf"):
    raise ValueError(f"configs/vimh.py: weights={head}={text}: expected a number of 0 or more.")
  return value


def head_settings(a, data):
  """config.trainer.heads."""
  heads = data.names
  classes = data.heads(256 if a.classes == "256" else "step")
  first, _, others = a.loss.partition("/")
  if "=" in first:
    raise ValueError("configs/vimh.py: loss begins with that of all heads: loss=NAME/HEAD=NAME.")
  losses = per_head(a, others, heads)
  weights = {} if a.weights == "learned" else per_head(a, a.weights, heads)
  out = {}
  for parameter in data.parameters:
    head, step = parameter.name, parameter.step
    if a.classes == "256":
      step = (parameter.max - parameter.min) / 255
    loss = losses.get(head, first)
    extra = {"unit": a.unit} if loss == "ordinal" or loss.endswith("_regression") else {}
    if loss == "soft_target":
      # Two classes on either side, but one of few classes keeps its own.
      width = min(2.0, float((classes[head] - 1) // 8))
      extra = dict(shape="triangular", width=width, centre="label")
    elif loss == "ordinal":
      extra |= dict(distance="l1", alpha=0.1)
    elif loss == "weighted_ce":
      extra = dict(power=2.0)
    out[head] = dict(
      loss=loss, weight=number(head, weights.get(head, "1")), value=f"{head}/value",
      min=parameter.min, max=parameter.max, step=step, **extra,
    )  # fmt: skip
  return out


def check(a, arg):
  """Arguments that would do nothing, and numbers that mean nothing."""
  given = {part.partition("=")[0] for part in arg.split(",")}
  where = "configs/vimh.py:"
  if a.dir and given & {"synth", "size", "data_seed", "envelopes"}:
    raise ValueError(
      f"{where} a folder has its own sounds; leave out synth, size, data_seed, envelopes."
    )
  if not a.dir and "form" in given:
    raise ValueError(f"{where} form is of a folder's files; it needs dir=PATH.")
  if "patience" in given and a.schedule != "plateau":
    raise ValueError(f"{where} patience belongs to schedule=plateau (stop_after ends a run).")
  if "unit" in given and not ("ordinal" in a.loss or "_regression" in a.loss):
    raise ValueError(f"{where} unit is of the losses ordinal and *_regression.")
  if a.input == "leaf":
    for key in ("augment", "envelopes"):
      if key in given:
        raise ValueError(f"{where} input=leaf sees no picture; leave out {key}.")
    if a.dir:
      raise ValueError(f"{where} a folder holds pictures only; input=leaf needs synth=NAME.")
    if a.aux != "none":
      raise ValueError(f"{where} input=leaf hears the sound itself; use aux=none.")
  family = a.net.partition("_")[0]
  if family != "vit" and given & {"patch", "dim"}:
    raise ValueError(f"{where} net={a.net} takes no patch and no dim; they are a vit's.")
  if family == "convnext" and "dropout" in given:
    raise ValueError(f"{where} net={a.net} takes no dropout.")
  least = dict(size=20, batch=1, patience=1)
  for key in (
    "size", "batch", "patience", "epochs", "lr", "wd", "clip", "augment", "hidden", "patch", "dim",
    "stop_after", "sound_weight",
  ):  # fmt: skip
    if not least.get(key, 0) <= a[key] < float("inf"):
      raise ValueError(
        f"{where} {key}={a[key]}: expected a number of at least {least.get(key, 0)}."
      )
  if not (a.dropout == -1 or 0 <= a.dropout < 1):
    raise ValueError(f"{where} dropout={a.dropout}: expected a share in [0, 1), or -1.")


def get_config(arg=""):
  """A network with a head for each varying parameter of the data."""
  a = args(arg, ARGS)
  check(a, arg)
  family, _, variant = a.net.partition("_")
  if a.smoke:
    small = {k: v for k, v in dict(size=256, epochs=1, batch=32).items() if a[k] == ARGS[k]}
    a = ConfigDict({**a, **small})
  data = metadata(a)
  labels = " ".join(data.raw.get("channel_labels", []))
  if ("envelope" in labels or "normalized" in labels) and a.input == "db":
    raise ValueError("configs/vimh.py: planes of envelopes have no levels in dB; use input=image.")
  joint = data.raw.get("generator", {}).get("scaling", "joint") == "joint"
  if "envelope" in labels and joint and a.aux in ("decay", "both"):
    raise ValueError("configs/vimh.py: planes of one range hide the levels; use aux=scale or none.")
  keys = [k for h in data.names for k in (h, f"{h}/value")]
  ops = {"image": ["value_range(-1, 1)"], "db": ["spec_db(-100, 20)"], "leaf": []}[a.input]
  beside = dict(scale=["aux"], decay=["decay_time"], both=["aux", "decay_time"], none=[])
  aux = beside[a.aux]
  if data.header_bytes == 6 and (a.aux != "none" or a.input == "db"):
    raise ValueError(
      f"configs/vimh.py: {data.where}: files of the older layout hold no levels; use aux=none and "
      "input=image."
    )
  before = {"aux": "spec_numbers()"}
  if "decay_time" in aux:
    before["decay_time"] = f"decay_time({spectrogram(data)['hop_length'] / data.sr!r})"
  see = "wav" if a.input == "leaf" else "image"
  pp = [before[k] for k in aux]
  pp += [*ops, "keep(" + ", ".join(f'"{k}"' for k in (see, *aux, *keys)) + ")"]
  pp = "|".join(pp)
  train_pp = pp
  if a.augment:
    train_pp = pp.replace("|keep(", f"|spec_augment({a.augment}, {a.augment})|keep(")

  c = ConfigDict()
  c.seed = 0
  c.total_epochs = a.epochs
  c.input = dict(
    batch_size=a.batch, num_threads=1, num_workers=0, max_bad_share=0.0,
    data=dict(train=dict(source(a, "train"), pp=train_pp)),
  )  # fmt: skip
  net = dict(model=family, variant=variant)
  net.update({k: a[k] for k in ("patch", "dim") if a[k]})
  if a.dropout >= 0:
    net["dropout"] = a.dropout
  if a.input == "leaf":
    net = dict(model="leaf", sr=int(data.sr), filters=32, trunk=net)
  outputs = data.heads(256 if a.classes == "256" else "step")
  hidden = a.hidden or ((a.dim or VIT_WIDTH[variant]) if family == "vit" else None)
  c.models = dict(net=net, heads=dict(model="heads", outputs=outputs, hidden=hidden))
  if aux:
    c.models.aux = dict(model="aux_mlp", hidden=32, dropout=0.0, frequencies=32, sigma=1.0)
  c.trainer = dict(
    name="multihead", key=see, heads=head_settings(a, data), aux=aux,
    weighting="learned" if a.weights == "learned" else "fixed",
  )  # fmt: skip
  if a.sound_weight:
    # As much of the sounds as the picture shows.
    spec = spectrogram(data)
    shown = (data.width - 1) * spec["hop_length"] + spec["n_fft"]
    samples = min(int(data.sr * data.secs), shown)
    c.trainer.name = "proj.vimh.trainer"
    c.trainer.sound = dict(
      weight=a.sound_weight, voice=data.voice, sr=int(data.sr), secs=data.secs,
      fixed=dict(data.fixed), samples=samples,
    )  # fmt: skip
  kind = "cosine" if a.schedule == "cosine" else "constant"
  warmup = {} if a.schedule == "plateau" else dict(warmup_percent=5)
  c.optimizer = dict(
    name="adam", lr=a.lr or LR[family], wd=a.wd, clip=a.clip, ema=dict(decay=0.98),
    schedule=[[".*", dict(kind=kind, **warmup)]],
  )  # fmt: skip
  c.log = dict(every_steps=10)
  # The best is that of the validation items, which are cut from the training file. Learned weights
  # change what the loss counts.
  best = "val/val/unweighted" if a.weights == "learned" else "val/val/loss"
  c.ckpt = dict(every_epochs=1, keep_latest=1, best=best, best_mode="min")
  if a.schedule == "plateau" or a.stop_after:
    patience = a.patience if a.schedule == "plateau" else 0
    c.plateau = dict(
      metric=best, mode="min", patience=patience, factor=0.5, stop_after=a.stop_after
    )
  common = dict(batch_size=256, limit=None)
  test = dict(source(a, "test"), pp=pp)
  kind_of = 256 if a.classes == "256" else "step"
  names = {p.name: [f"{v:.4g}" for v in p.values(kind_of)] for p in data.parameters}
  c.evals = dict(
    val=dict(type="mean", data=dict(source(a, "validation"), pp=pp), log_epochs=1, **common),
    test=dict(type="mean", data=test, log_percent=100, **common),
    confusion=dict(
      type="classify", data=test, log_percent=100, per_class=False, names=names, **common
    ),
  )
  if a.audio:
    c.evals.audio = dict(
      type="proj.vimh.audio", data=test, log_percent=100, batch_size=256, limit=1024, count=4
    )
  return c
