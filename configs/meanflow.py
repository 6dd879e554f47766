"""System 1: a MeanFlow codec. Neural codes at a true bitrate, decoded in one network evaluation.

  python train.py --config configs/meanflow.py --workdir runs/notes

Procedural audio, no download: about 8 minutes on two CPU cores; expect val/distance/nfe1/mel of
about .77 in the last row of metrics.jsonl (.79 for the plain decoder, 4.15 for silence), and
reconstructions that can be recognised in report.html.

Recordings of a folder (here digits spoken at 8 kHz, split by the number in the file's name):

  python train.py --workdir runs/speech --config configs/meanflow.py:data=audio_dir,dir=PATH,\
train=_(1[5-9]|[234]\\d)\\.wav$,validation=_1[0-4]\\.wav$,test=_[5-9]\\.wav$

Such runs end with PESQ, STOI and ViSQOL of 32 clips, where the extra `metrics` is installed, and
with classifier=WORKDIR (of configs/classifier.py on the same folder and regexes) with distances
between distributions of its features; its half of the recordings is then not trained on.

Flows on tokens, without the waveform codec: one backbone encodes, decodes and flows, so that
methods and nets can be compared. Images (data=digits: 8x8, ships with scikit-learn; data=mnist) are
always that, audio with tokens=mdct or reshape:

  python train.py --workdir runs/d --config configs/meanflow.py:data=digits,net=dit,tokens=patch
  python train.py --workdir runs/t --config configs/meanflow.py:net=mixer_flow,tokens=mdct
"""

import math

from ml_collections import ConfigDict

from big_audio.config import args

ARGS = dict(
  method=("imf", "mf", "fm", "alpha", "ae"),  # what the flow learns; ae: no flow
  data=("notes", "audio_dir", "digits", "mnist"),
  net=("auto", "mlp_flow", "mixer_flow", "convnext1d", "dit"),  # backbone; auto: what fits tokens
  # auto: codec for audio, flat for images
  tokens=("auto", "codec", "mdct", "reshape", "flat", "block_dct", "row_dct", "patch"),
  domain=("magnitude", "mdct", "stft"),  # of the codec's refiner
  dir="",  # of audio_dir and mnist
  # workdir of configs/classifier.py, trained on the same data: Frechet distances on its features
  classifier="",
  sr=8000,  # of the codec, Hz; recordings of another rate are refused
  train="", validation="", test="",  # regexes over file names; empty: split by hash
  kbps=1.5,  # of the codes as they are packed; a range coder saves about a third of it
  # rvq: stages of 1024 learned codes in place of a fixed grid; no prior, so no range coder
  quantizer=("fsq", "rvq"),
  head=("stft", "mdct"),  # frames that the codec's decoder predicts
  # an adversary: of the plain decoder from 30 % of the run on, or of the refiner's samples
  gan=("none", "codec", "refiner"),
  coded_kbps=0.0,  # after range coding, on average; 0: whatever it comes to. See rate_weight
  rate_weight=0.0,  # of the coded bits in the codec's loss; with coded_kbps it finds its own
  channels=1,
  width=256,  # of encoder and decoder
  secs=0.6,  # of a training crop; shorter recordings are padded with silence
  batch=6,
  begin=60.0,  # per cent of the run after which the refiner is trained
  steps=0,  # 0: the number that the docstring speaks of
  smoke=False,
)  # fmt: skip

IMAGES = ("digits", "mnist")
FITS = dict(audio=("codec", "mdct", "reshape"), image=("flat", "patch", "block_dct", "row_dct"))


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
  """Audio: codec and refiner in one run (tokens=codec), or a flow on tokens; images: the latter."""
  a = args(arg, ARGS)
  kind = "image" if a.data in IMAGES else "audio"
  name = FITS[kind][0] if a.tokens == "auto" else a.tokens
  if name not in FITS[kind]:
    raise ValueError(
      f"configs/meanflow.py: tokens={name} does not fit data={a.data}; use {', '.join(FITS[kind])}."
    )
  net = a.net
  if net == "auto":
    net = "mlp_flow" if name == "flat" else "convnext1d"
  if name == "flat" and net != "mlp_flow":
    raise ValueError(
      f"configs/meanflow.py: net={net} relates tokens to each other, and tokens=flat is one token "
      f"an image. Use net=mlp_flow, or tokens=patch, block_dct or row_dct."
    )
  with a.unlocked():
    a.tokens, a.net = name, net
  default = {k: v[0] if isinstance(v, tuple) else v for k, v in ARGS.items()}
  unused = ["sr", "kbps", "secs", "batch", "channels"] if kind == "image" else []
  unused += (
    []
    if name == "codec"
    else ["domain", "begin", "quantizer", "head", "gan", "rate_weight", "coded_kbps", "width"]
  )
  odd = [k for k in unused if a[k] != default[k]]
  if odd:
    raise ValueError(
      f"configs/meanflow.py: data={a.data},tokens={name} does not take {', '.join(odd)}."
    )
  if a.classifier and a.channels != 1:
    raise ValueError(
      f"configs/meanflow.py: classifiers hear one channel, so classifier= does not go with "
      f"channels={a.channels}."
    )
  config = audio(a) if name == "codec" else images(a) if kind == "image" else audio_tokens(a)
  config.seed = 0
  return config


def backbone(a, dim, tokens, latent):
  """The net `a.net` for `tokens` tokens of width `dim`; latent=0 for a refiner."""
  width, depth = (32, 1) if a.smoke else (256, 4)
  net = dict(model=a.net, dim=dim, latent=latent, depth=depth, dtype=None, remat=False, scan=False)
  if a.net == "mlp_flow":
    return dict(net, hidden=width)
  net["width"] = width
  if latent:
    net["coder_depth"] = 1 if a.smoke else 2
  if a.net == "mixer_flow":
    net["tokens"] = tokens
  if a.net == "dit":
    net["heads"] = 2 if a.smoke else 4
    # Images have places; in sounds, attention of 8 tokens on each side keeps the reach finite.
    net.update(positions=tokens) if a.data in IMAGES else net.update(window=8)
  return net


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


def train_source(a):
  """What is trained on. A classifier that measures was trained on the other half of it."""
  halved = a.classifier and a.data != "notes"  # of notes it has a world of its own
  return source(a, "codec" if halved else "train")


def by_features(a, **kw):
  """Distances between distributions of the classifier's features; {} without a classifier."""
  if not a.classifier:
    return {}
  measures = ["fd", "kid", "manifold"]
  aux = dict(embed=f"{a.classifier}:embed")
  return dict(fid=dict(type="frechet", aux=aux, measures=measures, log_percent=100, **kw))


def audio_evals(a, nfe, pp):
  """Evaluators that codecs and flows on tokens share."""
  common = dict(data=dict(source(a, "validation"), pp=pp), batch_size=4 if a.smoke else 16)
  limit = 4 if a.smoke else 64
  evals = dict(
    val=dict(type="mean", log_percent=10, limit=limit, **common),
    distance=dict(type="audio_distance", log_percent=50, sr=a.sr, nfe=nfe, limit=limit, **common),
    samples=dict(type="samples", log_percent=100, sr=a.sr, count=4, also=["ae"],
                 variants={f"nfe{n}": dict(nfe=n) for n in nfe[:2]}, **common),
  )  # fmt: skip
  # Scores of speech: not of notes, and PESQ knows these two rates.
  if a.data == "audio_dir" and a.sr in (8000, 16000) and not a.smoke:
    evals["perceptual"] = dict(
      type="audio_distance", log_percent=100, sr=a.sr, nfe=nfe, limit=32,
      measures=["pesq_nb" if a.sr == 8000 else "pesq_wb", "stoi", "visqol_speech"], **common,
    )  # fmt: skip
  both = {s: dict(source(a, s), pp=pp) for s in ("validation", "test")}
  evals |= by_features(
    a, data=both, batch_size=common["batch_size"], key="wav", sr=a.sr, nfe=nfe,
    limit=16 if a.smoke else 512,
  )  # fmt: skip
  return evals, common, limit


def audio(a):
  """Codec on the waveform; the refiner begins when the codec has finished."""
  steps = a.steps or (30 if a.smoke else 4000)
  hop = token_samples(a.sr)
  n = hop * max(1, round(a.secs * a.sr / hop))
  second = n if a.net == "mixer_flow" else hop * round(a.sr / hop)  # a mixer knows one length
  train_pp = f'require_sr({a.sr})|pad(samples={n}, mode="random")|crop(samples={n})|keep("wav")'
  eval_pp = (
    f'require_sr({a.sr})|pad(samples={second}, mask=True)|crop(samples={second}, mode="start")'
    '|keep("wav", "wav_mask", "id")'
  )
  c = ConfigDict()
  c.total_steps = steps
  c.input = dict(
    batch_size=2 if a.smoke else a.batch,
    num_threads=1,
    num_workers=0,
    max_bad_share=0.01,
    data=dict(train=dict(train_source(a), pp=train_pp)),
  )
  fsq = dict(name="fsq", levels=levels(a.kbps, a.sr))
  quantizer = fsq
  if a.quantizer == "rvq":
    if any(len(g) < 5 for g in fsq["levels"]):
      raise ValueError(
        f"configs/meanflow.py: quantizer=rvq codes 10 bits a stage, and kbps={a.kbps:g} is not a "
        f"multiple of {a.sr / hop / 100:g}."
      )
    quantizer = dict(name="rvq", stages=len(fsq["levels"]), size=1024, learn="ema")
  small = dict(width=32, enc_depth=1, dec_depth=1) if a.smoke else {}
  codec = dict(
    model="codec", sr=a.sr, hop=hop, channels=a.channels, quantizer=quantizer, head_type=a.head,
    dtype=None,
  )  # fmt: skip
  c.models = dict(codec=dict(codec, causal=False, **(small or dict(width=a.width))))
  c.trainer = dict(
    name="autoencode", method=a.method, rate_weight=a.rate_weight, quantizer_dropout=0.0,
    # Of the losses in objectives/spectral.py; one of weight 0 is not computed.
    weights=dict(wave=12.0, mel=1.0, stft=1.0, loudness=2.0, mdct=0.0),
  )  # fmt: skip
  if a.coded_kbps:
    if not 0 < a.coded_kbps < a.kbps:
      raise ValueError(
        f"configs/meanflow.py: coded_kbps={a.coded_kbps:g} must lie below kbps={a.kbps:g}, the "
        "rate of the same codes without a range coder; twice as much is a good choice for it."
      )
    c.trainer.coded_bits = a.coded_kbps * 1000 * hop / a.sr
    c.trainer.rate_weight = a.rate_weight or 5e-4
  cosine = dict(kind="cosine", warmup_percent=2)
  ema = dict(decay=0.999)
  if a.gan != "none":
    # 64, 32 and 16 ms at any rate.
    windows = [2 ** round(math.log2(a.sr * ms / 1000)) for ms in (64, 32, 16)]
    c.models.discriminator = dict(
      model="discriminator", windows=windows, **(dict(width=4, depth=2) if a.smoke else {})
    )
    c.trainer.gan = dict(of=a.gan, begin_percent=30.0 if a.gan == "codec" else None)
  if a.gan != "none" or a.quantizer == "rvq":  # neither a discriminator nor codebooks are averaged
    ema["skip"] = "discriminator/.*|codec/quant/.*"
  schedule = [["codec/.*", cosine]]
  if a.method != "ae":
    dims = dict(mdct=hop, magnitude=2 * (hop + 1), stft=4 * (hop + 1))
    rows = n // hop + (a.domain == "mdct")
    c.models.refiner = backbone(a, dims[a.domain] * a.channels, rows, latent=0)
    c.trainer.update(
      domain=a.domain, prior="shifted", sigma=0.5, predict="x", ratio=0.5, t_dist=None,
      p=0.0 if a.method == "fm" else 1.0,
      refiner_begin_percent=a.begin, sample_weight=0.5,
    )  # fmt: skip
    schedule = [
      ["codec/.*", dict(cosine, end_percent=a.begin)],
      ["refiner/.*", dict(cosine, begin_percent=a.begin, lr=1e-3)],
    ]
  if a.quantizer == "fsq":
    c.models.prior = dict(model="code_prior", sizes=[n for g in fsq["levels"] for n in g])
    schedule.insert(0, ["prior/.*", dict(cosine, lr=3e-3, clip=1.0)])
  if a.gan != "none":
    judge = dict(cosine, lr=5e-4, b1=0.8, clip=10.0)
    if a.gan == "refiner":
      judge["begin_percent"] = a.begin
    schedule.insert(0, ["discriminator/.*", judge])
  c.optimizer = dict(name="adam", lr=2e-3, b1=0.9, b2=0.98, clip=1.0, schedule=schedule, ema=ema)
  c.log = dict(every_steps=5 if a.smoke else 50)
  c.ckpt = dict(every_steps=10 if a.smoke else 500, keep_latest=2)
  nfe = [0] if a.method == "ae" else [1, 2, 4]
  evals, common, limit = audio_evals(a, nfe, eval_pp)
  c.evals = dict(
    evals,
    fd=dict(type="frechet", log_percent=100, sr=a.sr, nfe=nfe, limit=limit, **common),
    codec=dict(
      type="codec", log_percent=100, sr=a.sr, nfe=nfe[:2], limit=min(limit, 16),
      sizes=[math.prod(g) for g in fsq["levels"]],
      measures=["codes"] if a.smoke else ["codes", "drift", "diversity", "speed"], **common,
    ),
  )  # fmt: skip
  return c


def audio_tokens(a):
  """A flow on MDCT frames or patches of samples, from quantised latents."""
  steps = a.steps or (30 if a.smoke else 4000)
  hop = token_samples(a.sr)
  n = hop * max(1, round(a.secs * a.sr / hop))
  dim, rows = hop * a.channels, n // hop + (a.tokens == "mdct")
  groups = levels(a.kbps, a.sr)
  tokens = dict(mdct=dict(name="mdct", hop=hop), reshape=dict(name="reshape", patch=hop))
  c = tokens_config(a, steps, backbone(a, dim, rows, sum(len(g) for g in groups)))
  c.trainer.update(key="wav", tokens=tokens[a.tokens], quantizer=groups)
  fit = f'require_sr({a.sr})|pad(samples={n}, mode="random")|crop(samples={n})|keep("wav")'
  start = (
    f'require_sr({a.sr})|pad(samples={n}, mask=True)|crop(samples={n}, mode="start")'
    '|keep("wav", "wav_mask", "id")'
  )
  c.input.batch_size, c.input.max_bad_share = (2 if a.smoke else a.batch), 0.01
  c.input.data = dict(train=dict(train_source(a), pp=fit))
  c.evals, _, _ = audio_evals(a, [0] if a.method == "ae" else [1, 2, 4], start)
  return c


def images(a):
  """A flow on one token an image, on patches or rows, from a float latent of about 32 numbers."""
  steps = a.steps or (60 if a.smoke else 3000)
  side = dict(digits=8, mnist=28)[a.data]
  # (number of tokens, their width)
  blocks = (side // 4) ** 2, 16
  count, dim = dict(flat=(1, side * side), row_dct=(side, side)).get(a.tokens, blocks)
  latent = max(1, (16 if a.smoke else 32) // count)
  c = tokens_config(a, steps, backbone(a, dim, count, latent))
  c.trainer.update(key="image", tokens=a.tokens)
  c.input.batch_size = 64
  c.input.data = dict(train=dict(train_source(a), pp='keep("image")'))
  c.log.every_steps = 10 if a.smoke else 50
  valid = dict(source(a, "validation"), pp='keep("image", "id")')
  variants = {"ae": {}} if a.method == "ae" else {f"nfe{n}": dict(nfe=n) for n in (1, 2, 4)}
  c.evals = dict(
    val=dict(type="mean", data=valid, batch_size=64, log_percent=25),
    samples=dict(type="samples", data=valid, batch_size=16, log_percent=100, key="image",
                 count=16, variants=variants),
  )  # fmt: skip
  nfe = [0] if a.method == "ae" else [1, 2] if a.smoke else [1, 2, 4, 8, 32]
  whole = dict(
    data={s: dict(source(a, s), pp='keep("image", "id")') for s in ("validation", "test")},
    batch_size=64, nfe=nfe,
  )  # fmt: skip
  c.evals.update(by_features(a, key="image", **whole))
  if not a.smoke:
    c.evals.pairs = dict(
      whole, type="image_distance", log_percent=100, window=7 if a.data == "digits" else 11, ci=True
    )
  return c


def tokens_config(a, steps, net):
  """What all flows on tokens share."""
  c = ConfigDict()
  c.total_steps = steps
  c.input = dict(batch_size=0, num_threads=1, num_workers=0, max_bad_share=0.0, data={})
  c.models = dict(net=dict(net, time_cond="th"))
  c.trainer = dict(
    name="flow", method=a.method, prior="shifted", sigma=0.5, ratio=0.5, t_dist=None,
    p=0.0 if a.method == "fm" else 1.0,
  )  # fmt: skip
  c.optimizer = dict(
    name="adam", lr=1e-3, clip=1.0, ema=dict(decay=0.999),
    schedule=[[".*", dict(kind="cosine", warmup_percent=2)]],
  )  # fmt: skip
  c.log = dict(every_steps=5 if a.smoke else 50)
  c.ckpt = dict(every_steps=20 if a.smoke else 1000, keep_latest=2)
  return c
