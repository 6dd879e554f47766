"""Short names of NSMT and of the template behind it, for `big_audio.tools.run`.

The names are those of their make targets, the settings those of their experiments: data set, size,
batch, rate, weight decay, epochs. Networks go by their true sizes: what was called micro is
cnn_10k, tiny cnn_39k, 64K cnn_1.1m, and vit_23k, vit_116k. Data sets are rendered when a run
begins; none has to be made before. What differs on purpose: a cosine schedule where theirs waits
for a plateau that so few epochs never reach, validation items apart from the test, and the dB range
of a picture beside it (aux=none leaves that out).
"""

_CONFIG = "configs/vimh.py"


def _train(name, synth, size, net, **settings):
  given = dict(synth=synth, size=size, net=net, **settings)
  arg = ",".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in given.items())
  return f"python train.py --config {_CONFIG}:{arg} --workdir runs/{name}"


def _make(recipe, **flags):
  more = "".join(f" --{k} {v}" for k, v in flags.items())
  return f"python -m big_audio.tools.make_vimh generate --config-name {recipe}{more}"


_CE = dict(loss="cross_entropy")
_REGRESSION = dict(loss="normalized_regression")
_SMALL = dict(synth="simple_saw", size=256)
_LARGE = dict(synth="simple_saw", size=16384)
_LONG = dict(
  net="cnn_1.1m", batch=128, lr=1e-3, wd=1e-4, epochs=100, schedule="plateau", patience=10,
  stop_after=15,
)  # fmt: skip

# name: (what it is, arguments of configs/vimh.py)
EXPERIMENTS = {
  "ex": ("the example: CNN, 256 saws",
         dict(**_SMALL, net="cnn_1.1m", **_CE, batch=64, lr=2e-3, clip=0.5, epochs=10)),
  "etms": ("micro CNN, 256 saws",
           dict(**_SMALL, net="cnn_10k", **_CE, batch=32, lr=5e-3, wd=1e-2, epochs=5)),
  "etts": ("tiny CNN, 256 saws",
           dict(**_SMALL, net="cnn_39k", **_CE, batch=32, lr=3e-3, wd=1e-3, epochs=8)),
  "etml": ("micro CNN, 16384 saws",
           dict(**_LARGE, net="cnn_10k", **_CE, batch=64, lr=3e-3, wd=1e-2, epochs=10)),
  "ettl": ("tiny CNN, 16384 saws",
           dict(**_LARGE, net="cnn_39k", **_CE, batch=64, lr=2e-3, wd=1e-3, epochs=15)),
  "et64l": ("CNN of 1.1 M, 16384 saws",
            dict(**_LARGE, net="cnn_1.1m", **_CE, batch=128, lr=1e-3, wd=1e-4, epochs=5)),
  "etmsr": ("micro CNN that regresses, 256 saws",
            dict(**_SMALL, net="cnn_10k", **_REGRESSION, batch=32, lr=5e-3, wd=1e-2, epochs=5)),
  "etmlr": ("micro CNN that regresses, 16384 saws",
            dict(**_LARGE, net="cnn_10k", **_REGRESSION, batch=64, lr=3e-3, wd=1e-2, epochs=10)),
  "evitms": ("micro ViT, 256 saws",
             dict(**_SMALL, net="vit_23k", **_CE, batch=32, lr=5e-3, wd=1e-2, epochs=8)),
  "evitmsr": ("micro ViT that regresses, 256 saws",
              dict(**_SMALL, net="vit_23k", **_REGRESSION, batch=32, lr=5e-3, wd=1e-2, epochs=8)),
  "evitts": ("tiny ViT, 256 saws",
             dict(**_SMALL, net="vit_116k", **_CE, batch=32, lr=3e-3, wd=1e-3, epochs=10)),
  "evitml": ("micro ViT, 16384 saws",
             dict(**_LARGE, net="vit_23k", **_CE, batch=64, lr=3e-3, wd=1e-2, epochs=15)),
  "evittl": ("tiny ViT, 16384 saws",
             dict(**_LARGE, net="vit_116k", **_CE, batch=64, lr=2e-3, wd=1e-3, epochs=20)),
  "emb": ("micro CNN, filtered saws",
          dict(synth="moog_basic", size=256, net="cnn_10k", **_CE, batch=32, lr=3e-3, epochs=20)),
  "eme": ("tiny CNN, filter envelopes",
          dict(synth="moog_envelope", size=512, net="cnn_39k", **_CE, batch=24, lr=2e-3,
               wd=1.5e-2, epochs=25)),
  "emer": ("the same that regresses",
           dict(synth="moog_envelope", size=512, net="cnn_39k", **_REGRESSION, batch=24, lr=2e-3,
                wd=1.5e-2, epochs=25)),
  "emr": ("tiny CNN, high resonance",
          dict(synth="moog_resonance", size=384, net="cnn_39k", **_CE, batch=20, lr=2.5e-3,
               epochs=22)),
  "emvitb": ("micro ViT with patches of 4, filtered saws",
             dict(synth="moog_basic", size=256, net="vit_23k", patch=4, **_CE, batch=16, lr=4e-3,
                  wd=1e-2, epochs=15)),
  "emvite": ("tiny ViT on pictures of 32 x 64, filter envelopes",
             dict(synth="moog_envelope", size=512, net="vit_116k", patch=8, **_CE, batch=12,
                  lr=3e-3, wd=5e-3, epochs=20)),
  "emvitr": ("ViT of width 72 on pictures of 48 x 48, high resonance",
             dict(synth="moog_resonance", size=384, net="vit_116k", patch=6, dim=72, **_CE,
                  batch=10, lr=2.5e-3, wd=8e-3, epochs=18)),
  "evimh": ("CNN, 256 saws, up to 100 epochs", dict(**_SMALL, **_LONG, **_CE)),
  "evimh16k": ("CNN, 16384 saws, up to 100 epochs", dict(**_LARGE, **_LONG, **_CE)),
  "evimho": ("the same, ordinal loss", dict(**_LARGE, **_LONG, loss="ordinal")),
  "evimhr": ("the same, regression", dict(**_LARGE, **_LONG, **_REGRESSION)),
  "evimhst": ("the same, soft targets", dict(**_LARGE, **_LONG, loss="soft_target")),
  "evimhwce": ("the same, cross entropy weighted by distance",
               dict(**_LARGE, **_LONG, loss="weighted_ce")),
  "evimhqr": ("the same, quantised regression",
              dict(**_LARGE, **_LONG, loss="quantized_regression")),
  "evimhstk": ("CNN, 16384 plucked strings, up to 100 epochs",
               dict(synth="pluck", size=16384, **_LONG, **_CE)),
  "trq": ("one epoch of the default, to see that all works", dict(**_SMALL, net="cnn_1.1m",
                                                                  batch=32, epochs=1)),
  "tq": ("one epoch of a plain network", dict(**_SMALL, net="mlp_68k", batch=32, epochs=1)),
  "tqc": ("one epoch of a CNN", dict(**_SMALL, net="cnn_69k", batch=32, epochs=1)),
  "tqv": ("one epoch of a ViT", dict(**_SMALL, net="vit_38k", batch=32, epochs=1)),
  "tqcn": ("one epoch of a ConvNeXt", dict(**_SMALL, net="convnext_73k", batch=32, epochs=1)),
}  # fmt: skip

_BROWSE = "python -m proj.vimh.browse"
_SUMMARY = f"python -m big_audio.tools.summary --config {_CONFIG}"

COMMANDS = {
  "sds": ("make 256 saws", [_make("simple_saw")]),
  "sdl": ("make 16384 saws", [_make("simple_saw_large")]),
  "sdmb": ("make filtered saws", [_make("moog_basic")]),
  "sdme": ("make filter envelopes", [_make("moog_envelope")]),
  "sdmr": ("make sounds of high resonance", [_make("moog_resonance")]),
  "ddr": ("look into the data set that was made last",
          [f"{_BROWSE} --recent data --out runs/ddr.html --audio"]),
  "dds": ("look into the 256 saws",
          [f"{_BROWSE} --synth simple_saw --size 256 --out runs/dds.html --audio"]),
  "ddl": ("look into the 16384 saws",
          [f"{_BROWSE} --synth simple_saw --size 16384 --out runs/ddl.html --audio"]),
  **{name: (about, [_train(name, **given)]) for name, (about, given) in EXPERIMENTS.items()},
  "ae": ("hear what the estimates of a run (default runs/ex) sound like",
         ["python -m big_audio.tools.evaluate --only audio --out runs/ae {runs/ex}"]),
  "td": ("modules of a config as a page", [f"{_SUMMARY} --out runs/td.html"]),
  "tds": ("modules of a config as text", [_SUMMARY]),
  "tdv": ("modules of a config as a drawing", [f"{_SUMMARY} --out runs/tdv.png"]),
  "ca": ("all networks, 3 epochs each, in one table",
         ["python -m proj.vimh.compare --root runs/vimh_nets --out runs/vimh_nets.md"]),
  "t": ("the fast tests", ["pytest"]),
  "ta": ("all tests", ["pytest -m 'slow or not slow'"]),
  "tb": ("curves of runs with --config.log.tensorboard=True", ["tensorboard --logdir runs"]),
  "lc": ("every config with its arguments", ["python -m big_audio.tools.list_configs"]),
}  # fmt: skip


def _all(about, names):
  return about, [line for name in names.split() for line in COMMANDS[name][1]]


COMMANDS |= {
  "sdma": _all("make the three data sets with a filter", "sdmb sdme sdmr"),
  "etall": _all("every CNN on saws", "ex etms etts etml ettl et64l"),
  "evitall": _all("every ViT on saws", "evitms evitts evitml evittl"),
  "emall": _all("every CNN on filtered saws", "emb eme emr"),
  "emvit": _all("every ViT on filtered saws", "emvitb emvite emvitr"),
  "tqa": _all("one epoch of each architecture", "tq tqc tqv tqcn"),
}
