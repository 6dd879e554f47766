"""System 1: a MeanFlow codec. Neural codes at a true bitrate, decoded in one network evaluation.

  python train.py --config configs/meanflow.py --workdir runs/notes

Procedural audio, no download: about 7 minutes on two CPU cores; expect val/distance/nfe1/mel of
about .74 in the last row of metrics.jsonl (.78 for the plain decoder, 4.15 for silence), and
reconstructions that can be recognised in report.html.

Recordings of a folder (here digits spoken at 8 kHz, split by the number in the file's name):

  python train.py --workdir runs/speech --config configs/meanflow.py:data=audio_dir,dir=PATH,\
train=_(1[5-9]|[234]\\d)\\.wav$,validation=_1[0-4]\\.wav$,test=_[5-9]\\.wav$

Such runs end with PESQ, STOI and ViSQOL of the first second of 32 single recordings (the project's
`compare` scores whole clips: other numbers), where the extra `metrics` is installed, and with
classifier=WORKDIR (of configs/classifier.py on the same folder and regexes) with distances
between distributions of its features; its half of the recordings is then not trained on. Of such
distances compare the rows `_half` with their floor `real/fd_half`; `fd` is of paired sets, which
may lie below it.

Flows on tokens, without the waveform codec: one backbone encodes, decodes and flows, so that
methods and nets can be compared. Images (data=digits: 8x8, ships with scikit-learn; data=mnist) are
always that, audio with tokens=mdct or reshape. An image becomes 64 (digits) or 196 (mnist) bits of
FSQ codes: the 32 float numbers of quantizer=none are more than digits have, and flatter any method.

  python train.py --workdir runs/d --config configs/meanflow.py:data=digits,net=dit,tokens=patch
  python train.py --workdir runs/t --config configs/meanflow.py:net=mixer_flow,tokens=mdct
  python train.py --workdir runs/g --config configs/meanflow.py:data=digits,guidance=fixed
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
  # auto: fsq, a fixed grid. rvq: stages of 1024 learned codes; no prior, so no range coder.
  # none, kl: continuous, to compare with; no codes and no bitstream. Tokens: fsq or none
  quantizer=("auto", "fsq", "rvq", "none", "kl"),
  bits=0,  # of an image's codes; 0: what the docstring speaks of
  head=("stft", "mdct"),  # frames that the codec's decoder predicts
  # an adversary: of the plain decoder, until the refiner begins, or of the refiner's samples
  gan=("none", "codec", "refiner"),
  gan_begin=30.0,  # per cent of the run after which gan=codec begins
  coded_kbps=0.0,  # after range coding, on average; 0: whatever it comes to. See rate_weight
  rate_weight=0.0,  # of the coded bits in the codec's loss; with coded_kbps it finds its own
  channels=1,
  width=256,  # of encoder and decoder
  secs=0.6,  # of a training crop; shorter recordings are padded with silence
  batch=6,
  begin=60.0,  # per cent of the run after which the refiner is trained
  joint=False,  # the codec goes on to be trained beside the refiner
  predict=("auto", "u", "x"),  # what the net gives; auto: u of tokens, x of the codec's refiner
  warmup=("none", "fm", "alpha"),  # objective of the first fifth of the flow's training (mf, imf)
  # auto: u_steps, euler for fm. midpoint and heun take two evaluations a step
  sampler=("auto", "u_steps", "euler", "midpoint", "heun", "consistency"),
  # of images by their class, trained into the net or as its input; a tenth loses its condition
  guidance=("none", "fixed", "flexible"),
  v_head=0,  # last blocks that net=dit doubles for a head of the instantaneous velocity
  steps=0,  # 0: the number that the docstring speaks of
  smoke=False,
)  # fmt: skip

WARMUP = 2  # per cent of the run, of every learning rate
SMALL = dict(width=32, enc_depth=1, dec_depth=1)
IMAGES = ("digits", "mnist")
FITS = dict(audio=("codec", "mdct", "reshape"), image=("flat", "patch", "block_dct", "row_dct"))
GUIDANCE = dict(
  none=None,
  fixed=dict(kind="fixed", omega=2.0, kappa=0.0, interval=[0.0, 1.0]),
  flexible=dict(kind="flexible", largest=8.0),
)


def token_samples(sr):
  """Samples of a token: 20 ms up to 16 kHz, 1/75 s above, rounded to what the STFT head divides."""
  return 4 * round(sr / (4 * (50 if sr <= 16000 else 75)))


def grid(bits):
  """FSQ levels of a token: groups of ten bits, five symbols of four levels, and a rest."""
  groups, rest = [[4] * 5] * (bits // 10), bits % 10
  return groups + ([[4] * (rest // 2) + [2] * (rest % 2)] if rest else [])


def levels(kbps, sr):
  """FSQ levels for a rate."""
  tokens = sr / token_samples(sr)
  bits = round(1000 * kbps / tokens)
  if not 1 <= bits <= 400 or abs(bits * tokens / 1000 / kbps - 1) > 0.01:
    near = max(1, bits) * tokens / 1000
    raise ValueError(
      f"configs/meanflow.py: kbps={kbps:g} is not a whole number of bits for each of {tokens:g} "
      f"tokens a second. Use kbps={near:g}."
    )
  return grid(bits)


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
  known = ("fsq", "rvq", "none", "kl") if name == "codec" else ("fsq", "none")
  quantizer = known[0] if a.quantizer == "auto" else a.quantizer
  if quantizer not in known:
    raise ValueError(
      f"configs/meanflow.py: quantizer={quantizer} does not fit tokens={name}; use "
      f"{' or '.join(known)}."
    )
  with a.unlocked():
    a.tokens, a.net, a.quantizer = name, net, quantizer
  refuse_unused(a, kind)
  if a.classifier and a.channels != 1:
    raise ValueError(
      f"configs/meanflow.py: classifiers hear one channel, so classifier= does not go with "
      f"channels={a.channels}."
    )
  config = audio(a) if name == "codec" else images(a) if kind == "image" else audio_tokens(a)
  config.seed = 0
  return config


def refuse_unused(a, kind):
  """Raises for arguments that would change nothing, and for what needs a part that is not there."""
  codec, continuous = a.tokens == "codec", a.quantizer in ("none", "kl")
  default = {k: v[0] if isinstance(v, tuple) else v for k, v in ARGS.items()}
  for key, unused, names in (
    ("data", kind == "image", "sr kbps secs batch channels"),
    ("data", kind == "audio", "bits guidance"),
    ("tokens", not codec, "domain begin head gan rate_weight coded_kbps width joint"),
    ("quantizer", a.quantizer != "fsq", "rate_weight coded_kbps bits"),
    ("quantizer", codec and continuous, "kbps"),
    ("method", a.method == "ae", "predict sampler joint domain begin"),
    ("method", a.method in ("ae", "fm"), "guidance v_head"),
    ("method", a.method not in ("mf", "imf"), "warmup"),
    ("gan", a.gan != "codec", "gan_begin"),
    ("net", a.net != "dit", "v_head"),
  ):
    odd = [k for k in names.split() if unused and a[k] != default[k]]
    if odd:
      raise ValueError(f"configs/meanflow.py: {key}={a[key]} does not take {', '.join(odd)}.")
  if a.method == "ae" and a.gan == "refiner":
    raise ValueError(
      "configs/meanflow.py: gan=refiner judges samples of the refiner, which method=ae does not "
      "have. Use gan=codec, or a method with a refiner: imf, mf, fm or alpha."
    )
  if a.gan == "codec" and a.method != "ae" and a.gan_begin + WARMUP >= a.begin:
    raise ValueError(
      f"configs/meanflow.py: gan=codec plays from gan_begin={a.gan_begin:g} % of the run until the "
      f"refiner begins at begin={a.begin:g} %: never, or for its warm-up. Use gan_begin below "
      f"{a.begin - WARMUP:g}."
    )


def backbone(a, dim, tokens, latent):
  """The net `a.net` for `tokens` tokens of width `dim`; latent=0 for a refiner."""
  width, depth = (32, 1) if a.smoke else (256, 4)
  net = dict(
    model=a.net, dim=dim, latent=latent, depth=depth, time_cond="th", time_scale=1.0, dtype=None,
    remat=False, scan=False,
  )  # fmt: skip
  if latent:
    net.update(guidance=a.guidance == "flexible", classes=0 if a.guidance == "none" else 10)
  if a.net != "dit":
    net["cond_dim"] = 128
  if a.net == "mlp_flow":
    return dict(net, hidden=width)
  net["width"] = width
  if latent:
    net["coder_depth"] = 1 if a.smoke else 2
  if a.net == "mixer_flow":
    net.update(tokens=tokens, token_hidden=None, expansion=2.0)
  if a.net == "convnext1d":
    net.update(kernel=7, norm="layer", expansion=2.0)
  if a.net == "dit":
    # Images have places; in sounds, attention of 8 tokens on each side keeps the reach finite.
    places = dict(positions=tokens, window=None) if a.data in IMAGES else dict(window=8)
    net.update(places, heads=2 if a.smoke else 4, v_head=a.v_head)
  return net


def flow_settings(a, predict):
  """The flow's settings (trainers/flow_loss.py) that apply, so that flags can reach all of them.

  They are what the code does without them; None leaves the choice to the method.
  """
  if a.method == "ae":
    return {}
  out = dict(
    prior="shifted", sigma=0.5, predict=predict if a.predict == "auto" else a.predict,
    sampler=None if a.sampler == "auto" else a.sampler, p=None, eps=None, t_dist=None, drop=None,
  )  # fmt: skip
  if a.method != "fm":
    out.update(ratio=0.5, guidance=GUIDANCE[a.guidance])
  if a.method in ("mf", "imf"):
    out.update(
      dict(warmup=None, warmup_percent=0.0)
      if a.warmup == "none"
      else dict(warmup=a.warmup, warmup_percent=20.0),
      warmup_steps=0,
    )
  if a.method == "alpha":
    out.update(alpha_begin_percent=0.0, alpha_end_percent=100.0)
  if a.net == "dit" and a.method != "fm":
    out["v_weight"] = 1.0
  return out


def evaluations(a, *counts):
  """Numbers of evaluations that the sampler can make; 0 is the plain decoder."""
  if a.method == "ae":
    return [0]
  return [n for n in counts if n % 2 == 0 or a.sampler not in ("midpoint", "heun")]


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
    distance=dict(
      type="audio_distance", log_percent=50, sr=a.sr, nfe=nfe, limit=limit,
      measures=["si_sdr", "lsd", "mel"], ci=False, **common,
    ),
    samples=dict(type="samples", log_percent=100, sr=a.sr, count=4, also=["ae"],
                 variants={f"nfe{n}": dict(nfe=n) for n in nfe[:2]}, **common),
  )  # fmt: skip
  if not a.smoke:
    evals["published"] = dict(
      type="audio_distance", log_percent=100, sr=a.sr, nfe=nfe, limit=limit,
      measures=["dac_mel", "dac_train_mel", "dac_stft", "mr_stft"], ci=True, **common,
    )  # fmt: skip
  # Scores of speech: not of notes, and PESQ knows these two rates. Of the clips that `pp` cuts, the
  # first second of single recordings.
  if a.data == "audio_dir" and a.sr in (8000, 16000) and not a.smoke:
    evals["perceptual"] = dict(
      type="audio_distance", log_percent=100, sr=a.sr, nfe=nfe, limit=32,
      measures=["pesq_nb" if a.sr == 8000 else "pesq_wb", "stoi", "visqol_speech"], ci=False,
      **common,
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
  quantizer, groups = bottleneck(a, hop)
  codec = dict(
    model="codec", sr=a.sr, hop=hop, channels=a.channels, quantizer=quantizer, width=a.width,
    enc_depth=4, dec_depth=6, head_type=a.head, sub=2, power=0.3, norm="none", kernel=7,
    expansion=3.0, causal=False, dtype=None,
  )  # fmt: skip
  c.models = dict(codec=dict(codec, **(SMALL if a.smoke else {})))
  c.trainer = dict(
    name="autoencode", method=a.method,
    # Of the losses in objectives/spectral.py; one of weight 0 is not computed.
    weights=dict(wave=12.0, mel=1.0, stft=1.0, loudness=2.0, mdct=0.0),
    # In samples at any rate, as codecs of 24 and 44.1 kHz are trained; loudness takes 20 to 45 ms.
    losses=dict(
      mel_windows=[128, 256, 512, 1024, 2048], mels=[16, 32, 64, 80, 80],
      stft_windows=[128, 256, 512, 1024], mdct_windows=[128, 512, 2048], power=0.3, floor=1e-5,
      loudness_windows=[256 * 2 ** round(math.log2(a.sr / 8000))], bands=24, excess=2.0,
    ),
  )  # fmt: skip
  if groups:
    c.trainer.quantizer_dropout = 0.0
  cosine = dict(kind="cosine", warmup_percent=WARMUP)
  schedule = [["codec/.*", cosine]]
  if a.method != "ae":
    dims = dict(mdct=hop, magnitude=2 * (hop + 1), stft=4 * (hop + 1))
    rows = n // hop + (a.domain == "mdct")
    c.models.refiner = backbone(a, dims[a.domain] * a.channels, rows, latent=0)
    c.trainer.update(
      domain=a.domain, sub=None, power=0.3, refiner_begin_percent=a.begin, sample_weight=1.0,
      sample_share=0.25, scale=1.0, **flow_settings(a, "x"),
    )  # fmt: skip
    if a.joint:
      c.trainer.joint = True
    schedule = [
      ["codec/.*", cosine if a.joint else dict(cosine, end_percent=a.begin)],
      ["refiner/.*", dict(cosine, begin_percent=a.begin, lr=1e-3)],
    ]
  if a.quantizer == "fsq":
    c.models.prior = dict(
      model="code_prior", sizes=[n for g in groups for n in g], context=2, units=12
    )
    schedule.insert(0, ["prior/.*", dict(cosine, lr=3e-3, clip=1.0)])
    c.trainer.update(far_weight=0.1, soft_share=0.0, **rate(a, hop))
  if a.gan != "none":
    schedule.insert(0, ["discriminator/.*", adversary(a, c, cosine)])
  ema = dict(decay=0.999)
  if a.gan != "none" or a.quantizer == "rvq":  # neither a discriminator nor codebooks are averaged
    ema["skip"] = "discriminator/.*|codec/quant/books_.*"
  c.optimizer = dict(name="adam", lr=2e-3, b1=0.9, b2=0.98, clip=1.0, schedule=schedule, ema=ema)
  c.log = dict(every_steps=5 if a.smoke else 50)
  c.ckpt = dict(every_steps=10 if a.smoke else 500, keep_latest=2)
  nfe = evaluations(a, 1, 2, 4)
  evals, common, limit = audio_evals(a, nfe, eval_pp)
  measures = ["codes"] if a.smoke else ["codes", "drift", "diversity", "speed"]
  c.evals = dict(
    evals,
    fd=dict(type="frechet", log_percent=100, sr=a.sr, nfe=nfe, limit=limit,
            measures=["fd", "kid"], **common),
    codec=dict(
      type="codec", log_percent=100, sr=a.sr, nfe=nfe[:2], limit=min(limit, 16),
      sizes=[math.prod(g) for g in groups],
      measures=measures if groups else ["drift", "diversity", "speed"], **common,
    ),
  )  # fmt: skip
  return c


def bottleneck(a, hop):
  """(quantiser of the codec, levels of its groups of codes)."""
  if a.quantizer in ("none", "kl"):
    return dict(name="continuous", dim=32, weight=0.01 if a.quantizer == "kl" else 0.0), []
  groups = levels(a.kbps, a.sr)
  if a.quantizer == "fsq":
    return dict(name="fsq", levels=groups, gain=1.6), groups
  if any(len(g) < 5 for g in groups):
    raise ValueError(
      f"configs/meanflow.py: quantizer=rvq codes 10 bits a stage, and kbps={a.kbps:g} is not a "
      f"multiple of {a.sr / hop / 100:g}."
    )
  rvq = dict(name="rvq", stages=len(groups), size=1024, learn="ema")
  return dict(rvq, dim=64, code_dim=8, decay=0.99, dead=0.03, commitment=0.25), groups


def rate(a, hop):
  """What the codec's bits weigh in its loss."""
  if not a.coded_kbps:
    return dict(rate_weight=a.rate_weight, coded_bits=None)
  if not 0 < a.coded_kbps < a.kbps:
    raise ValueError(
      f"configs/meanflow.py: coded_kbps={a.coded_kbps:g} must lie below kbps={a.kbps:g}, the rate "
      "of the same codes without a range coder; twice as much is a good choice for it."
    )
  return dict(rate_weight=a.rate_weight or 5e-4, coded_bits=a.coded_kbps * 1000 * hop / a.sr)


def adversary(a, c, cosine):
  """Adds the discriminator and what it weighs to the config; the schedule of its rate."""
  # 64, 32 and 16 ms at any rate.
  windows = [2 ** round(math.log2(a.sr * ms / 1000)) for ms in (64, 32, 16)]
  width, depth = (4, 2) if a.smoke else (32, 4)
  c.models.discriminator = dict(model="discriminator", windows=windows, width=width, depth=depth)
  c.trainer.gan = dict(of=a.gan, weight=0.1, feature_weight=0.2, kind="hinge")
  judge = dict(cosine, lr=5e-4, b1=0.8, clip=10.0)
  if a.gan == "refiner":
    return dict(judge, begin_percent=a.begin)
  c.trainer.gan.begin_percent = judge["begin_percent"] = a.gan_begin
  return judge if a.method == "ae" else dict(judge, end_percent=a.begin)


def audio_tokens(a):
  """A flow on MDCT frames or patches of samples, from quantised latents."""
  steps = a.steps or (30 if a.smoke else 4000)
  hop = token_samples(a.sr)
  n = hop * max(1, round(a.secs * a.sr / hop))
  dim, rows = hop * a.channels, n // hop + (a.tokens == "mdct")
  groups = levels(a.kbps, a.sr)
  tokens = dict(mdct=dict(name="mdct", hop=hop, power=0.3), reshape=dict(name="reshape", patch=hop))
  c = tokens_config(a, steps, backbone(a, dim, rows, sum(len(g) for g in groups)))
  c.trainer.update(
    key="wav", tokens=tokens[a.tokens], quantizer=groups if a.quantizer == "fsq" else None
  )
  fit = f'require_sr({a.sr})|pad(samples={n}, mode="random")|crop(samples={n})|keep("wav")'
  start = (
    f'require_sr({a.sr})|pad(samples={n}, mask=True)|crop(samples={n}, mode="start")'
    '|keep("wav", "wav_mask", "id")'
  )
  c.input.batch_size, c.input.max_bad_share = (2 if a.smoke else a.batch), 0.01
  c.input.data = dict(train=dict(train_source(a), pp=fit))
  c.evals, _, _ = audio_evals(a, evaluations(a, 1, 2, 4), start)
  return c


def images(a):
  """A flow on one token an image, on patches or rows, from the codes of its tokens."""
  steps = a.steps or (60 if a.smoke else 3000)
  side, bits, raw = dict(digits=(8, 64, 64 * math.log2(17)), mnist=(28, 196, 784 * 8))[a.data]
  # (number of tokens, their width)
  blocks = (side // 4) ** 2, 16
  count, dim = dict(flat=(1, side * side), row_dct=(side, side)).get(a.tokens, blocks)
  groups, latent = None, max(1, (16 if a.smoke else 32) // count)
  if a.quantizer == "fsq":
    bits = a.bits or bits
    if not 0 < bits < raw or bits % count:
      raise ValueError(
        f"configs/meanflow.py: bits={bits} must be a multiple of the {count} tokens of an image, "
        f"and below the {raw:.0f} bits of the image itself."
      )
    groups = grid(bits // count)
    latent = sum(map(len, groups))
  c = tokens_config(a, steps, backbone(a, dim, count, latent))
  c.trainer.update(key="image", tokens=a.tokens, quantizer=groups)
  label = ["label"] if a.guidance != "none" else []
  c.trainer.label = label[0] if label else None
  keep = lambda *keys: f"keep({', '.join(repr(k) for k in (*keys, *label))})"
  c.input.batch_size = 64
  c.input.data = dict(train=dict(train_source(a), pp=keep("image")))
  c.log.every_steps = 10 if a.smoke else 50
  valid = dict(source(a, "validation"), pp=keep("image", "id"))
  nfe = evaluations(a, 1, 2, *(() if a.smoke else (4, 8, 32)))
  variants = {f"nfe{n}": dict(nfe=n) for n in evaluations(a, 1, 2, 4) if n} or {"ae": {}}
  if a.guidance == "flexible":
    variants |= {f"w{w}": dict(nfe=nfe[0], w=float(w)) for w in (2, 4)}
  c.evals = dict(
    val=dict(type="mean", data=valid, batch_size=64, log_percent=25),
    samples=dict(type="samples", data=valid, batch_size=16, log_percent=100, key="image",
                 count=16, variants=variants),
  )  # fmt: skip
  whole = dict(
    data={s: dict(source(a, s), pp=keep("image", "id")) for s in ("validation", "test")},
    batch_size=64, nfe=nfe,
  )  # fmt: skip
  c.evals.update(by_features(a, key="image", **whole))
  if not a.smoke:
    c.evals.pairs = dict(
      whole, type="image_distance", log_percent=100, window=7 if a.data == "digits" else 11,
      measures=["mse", "psnr", "ssim"], ci=True, raw_bits=raw,
    )  # fmt: skip
  return c


def tokens_config(a, steps, net):
  """What all flows on tokens share."""
  c = ConfigDict()
  c.total_steps = steps
  c.input = dict(batch_size=0, num_threads=1, num_workers=0, max_bad_share=0.0, data={})
  c.models = dict(net=net)
  c.trainer = dict(name="flow", method=a.method, **flow_settings(a, "u"))
  if a.method != "ae":
    c.trainer.detach = False
  c.optimizer = dict(
    name="adam", lr=1e-3, clip=1.0, ema=dict(decay=0.999),
    schedule=[[".*", dict(kind="cosine", warmup_percent=WARMUP)]],
  )  # fmt: skip
  c.log = dict(every_steps=5 if a.smoke else 50)
  c.ckpt = dict(every_steps=20 if a.smoke else 1000, keep_latest=2)
  return c
