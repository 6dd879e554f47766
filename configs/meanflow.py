"""System 1: a MeanFlow codec. Neural codes at a true bitrate, decoded in one network evaluation.

  python train.py --config configs/meanflow.py --workdir runs/notes

Procedural audio, no download: about 8 minutes on two CPU cores; expect val/distance/nfe1/mel of
about .77 in the last row of metrics.jsonl (.79 for the plain decoder, 4.15 for silence), and
reconstructions that can be recognised in report.html.

Recordings of a folder (here digits spoken at 8 kHz, split by the number in the file's name):

  python train.py --workdir runs/speech --config configs/meanflow.py:data=audio_dir,dir=PATH,\
train=_(1[5-9]|[234]\\d)\\.wav$,validation=_1[0-4]\\.wav$,test=_[5-9]\\.wav$

Images as one token each, without a codec: data=digits (8x8, ships with scikit-learn), data=mnist.
"""

from ml_collections import ConfigDict

from big_audio.config import args

ARGS = dict(
  method=("imf", "mf", "fm", "ae"),  # what the decoder's refiner learns; ae: none
  data=("notes", "audio_dir", "digits", "mnist"),
  net=("convnext1d", "mlp_flow"),  # backbone of the refiner
  domain=("magnitude", "mdct", "stft"),  # in which it works
  dir="",  # of audio_dir and mnist
  sr=8000,  # of the codec, Hz; recordings of another rate are refused
  train="", validation="", test="",  # regexes over file names; empty: split by hash
  kbps=1.5,  # of the codes as they are packed; a range coder saves about a third of it
  rate_weight=0.0,  # of the coded bits in the codec's loss; .001 to .003 buy rate with quality
  channels=1,
  width=256,  # of encoder and decoder
  secs=0.6,  # of a training crop; shorter recordings are padded with silence
  batch=6,
  begin=60.0,  # per cent of the run after which the refiner is trained
  steps=0,  # 0: the number that the docstring speaks of
  smoke=False,
)  # fmt: skip


def token_samples(sr):
  """Samples of a token: 20 ms up to 16 kHz, 1/75 s above, rounded to what the STFT head divides."""
  return 4 * round(sr / (4 * (50 if sr <= 16000 else 75)))


def levels(kbps, sr):
  """FSQ levels for a rate: groups of ten bits, five symbols of four levels, and a rest."""
  tokens = sr / token_samples(sr)
  bits = round(1000 * kbps / tokens)
  if not 1 <= bits <= 400 or abs(bits * tokens / 1000 / kbps - 1) > 0.01:
    near = max(1, bits) * tokens / 1000
    raise ValueError(
      f"configs/meanflow.py: kbps={kbps:g} is not a whole number of bits for each of {tokens:g} "
      f"tokens a second. Use kbps={near:g}."
    )
  groups, rest = [[4] * 5] * (bits // 10), bits % 10
  return groups + ([[4] * (rest // 2) + [2] * (rest % 2)] if rest else [])


def get_config(arg=""):
  """Audio: codec and refiner in one run; images: `mlp_flow` on one token an image."""
  a = args(arg, ARGS)
  config = images(a) if a.data in ("digits", "mnist") else audio(a)
  config.seed = 0
  return config


def source(a, split):
  """The data set of a split."""
  if a.data == "notes":
    for k in ("dir", "train", "validation", "test"):
      if a[k]:
        raise ValueError(f"configs/meanflow.py: data=notes does not take {k}.")
    return dict(source="worlds.notes", split=split, sr=a.sr, secs=1.0)
  if a.data == "digits":
    return dict(source="digits", split=split)
  if not a.dir:
    raise ValueError(f"configs/meanflow.py: data={a.data} needs dir=PATH.")
  if a.data == "mnist":
    return dict(source="mnist", dir=a.dir, split=split)
  rules = {k: a[k] for k in ("train", "validation", "test")}
  if any(rules.values()) and not all(rules.values()):
    raise ValueError("configs/meanflow.py: give all of train, validation and test, or none.")
  kw = dict(splits=rules) if all(rules.values()) else {}
  return dict(source="audio_dir", dir=a.dir, split=split, sr=None, channels=a.channels, **kw)


def audio(a):
  """Codec at 50 tokens a second; the refiner begins when the codec has finished."""
  steps = a.steps or (30 if a.smoke else 4000)
  hop = token_samples(a.sr)
  n, second = hop * max(1, round(a.secs * a.sr / hop)), hop * round(a.sr / hop)
  train_pp = f'require_sr({a.sr})|pad(samples={n}, mode="random")|crop(samples={n})|keep("wav")'
  eval_pp = (
    f'require_sr({a.sr})|pad(samples={second})|crop(samples={second}, mode="start")'
    '|keep("wav", "id")'
  )
  c = ConfigDict()
  c.total_steps = steps
  c.input = dict(
    batch_size=2 if a.smoke else a.batch,
    num_threads=1,
    num_workers=0,
    max_bad_share=0.01,
    data=dict(train=dict(source(a, "train"), pp=train_pp)),
  )
  fsq = dict(name="fsq", levels=levels(a.kbps, a.sr))
  small = dict(width=32, enc_depth=1, dec_depth=1) if a.smoke else {}
  codec = dict(model="codec", sr=a.sr, hop=hop, channels=a.channels, quantizer=fsq)
  c.models = dict(
    codec=dict(codec, **(small or dict(width=a.width))),
    prior=dict(model="code_prior", sizes=[n for g in fsq["levels"] for n in g]),
  )
  c.trainer = dict(name="autoencode", method=a.method, rate_weight=a.rate_weight)
  cosine = dict(kind="cosine", warmup_percent=2)
  prior = ["prior/.*", dict(cosine, lr=3e-3, clip=1.0)]
  schedule = [prior, ["codec/.*", cosine]]
  if a.method != "ae":
    dims = dict(mdct=hop, magnitude=2 * (hop + 1), stft=4 * (hop + 1))
    net = dict(model=a.net, dim=dims[a.domain] * a.channels)
    if a.net == "mlp_flow":
      net.update(latent=0, depth=4, hidden=256)
    else:
      net.update(width=32 if a.smoke else 256, depth=1 if a.smoke else 4)
    c.models.refiner = net
    c.trainer.update(domain=a.domain, sigma=0.5, refiner_begin_percent=a.begin, sample_weight=0.5)
    schedule = [
      prior,
      ["codec/.*", dict(cosine, end_percent=a.begin)],
      ["refiner/.*", dict(cosine, begin_percent=a.begin, lr=1e-3)],
    ]
  c.optimizer = dict(
    name="adam", lr=2e-3, b1=0.9, b2=0.98, clip=1.0, schedule=schedule, ema=dict(decay=0.999)
  )
  c.log = dict(every_steps=5 if a.smoke else 50)
  c.ckpt = dict(every_steps=10 if a.smoke else 500, keep_latest=2)
  valid = dict(source(a, "validation"), pp=eval_pp)
  nfe = [0] if a.method == "ae" else [1, 2, 4]
  common = dict(data=valid, batch_size=4 if a.smoke else 16)
  limit = 4 if a.smoke else 64
  variants = {f"nfe{n}": dict(nfe=n) for n in nfe[:2]}
  c.evals = dict(
    val=dict(type="mean", log_percent=10, limit=limit, **common),
    distance=dict(type="audio_distance", log_percent=50, sr=a.sr, nfe=nfe, limit=limit, **common),
    samples=dict(type="samples", log_percent=100, sr=a.sr, count=4, also=["ae"],
                 variants=variants, **common),
  )  # fmt: skip
  return c


def images(a):
  """One token an image; mlp_flow encodes, decodes and flows."""
  default = {k: v[0] if isinstance(v, tuple) else v for k, v in ARGS.items()}
  odd = [k for k in ("net", "domain", "sr", "kbps", "secs", "batch", "begin") if a[k] != default[k]]
  if odd and not (odd == ["net"] and a.net == "mlp_flow"):
    raise ValueError(f"configs/meanflow.py: data={a.data} does not take {', '.join(odd)}.")
  steps = a.steps or (60 if a.smoke else 3000)
  c = ConfigDict()
  c.total_steps = steps
  c.input = dict(
    batch_size=64, num_threads=1, num_workers=0, max_bad_share=0.0,
    data=dict(train=dict(source(a, "train"), pp='keep("image")')),
  )  # fmt: skip
  dim = dict(digits=64, mnist=784)[a.data]
  size = dict(latent=16, depth=2, hidden=64) if a.smoke else dict(latent=32, depth=4, hidden=256)
  c.models = dict(net=dict(model="mlp_flow", dim=dim, **size))
  c.trainer = dict(name="flow", method=a.method, key="image")
  c.optimizer = dict(
    name="adam", lr=1e-3, clip=1.0, ema=dict(decay=0.999),
    schedule=[[".*", dict(kind="cosine", warmup_percent=2)]],
  )  # fmt: skip
  c.log = dict(every_steps=10 if a.smoke else 50)
  c.ckpt = dict(every_steps=20 if a.smoke else 1000, keep_latest=2)
  valid = dict(source(a, "validation"), pp='keep("image", "id")')
  variants = {"ae": {}} if a.method == "ae" else {f"nfe{n}": dict(nfe=n) for n in (1, 2, 4)}
  c.evals = dict(
    val=dict(type="mean", data=valid, batch_size=64, log_percent=25),
    samples=dict(type="samples", data=valid, batch_size=16, log_percent=100, key="image",
                 count=16, variants=variants),
  )  # fmt: skip
  return c
