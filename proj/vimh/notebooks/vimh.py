# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Which knobs made this sound?
#
# A synthesiser turns a few numbers into a sound. This notebook makes a data set of such sounds,
# trains a small network to find the numbers from a picture of the sound's spectrum, and listens to
# what the found numbers sound like. It uses the modules of `proj.vimh`; the same steps exist as
# commands, see the README beside them.
#
# Run the cells from top to bottom; no GPU is needed. With `SMOKE = True` there are 256 sounds and
# one pass over them: all parts run, and the estimates are poor. With `SMOKE = False` there are 4096
# and five passes, half a minute on two CPU cores.

# %%
SMOKE = True
SYNTH = "simple_saw"  # or moog_basic, moog_envelope, moog_resonance, fm, additive, pluck

# Only needed where neither a checkout of the repository nor the installed package is at hand:
GIT_URL = ""  # "https://github.com/OWNER/big_audio", say

# %% [markdown]
# ## Set-up
#
# Inside a checkout the notebook uses it, with the packages that are installed there. Elsewhere it
# installs the package from `GIT_URL`.

# %%
import importlib.util
import subprocess
import sys
from pathlib import Path

here = Path.cwd()
checkout = next((p for p in (here, *here.parents) if (p / "proj/vimh").is_dir()), None)
if checkout:
  sys.path.insert(0, str(checkout))
elif importlib.util.find_spec("big_audio") is None:
  if not GIT_URL:
    raise ValueError("There is no checkout around this notebook: set GIT_URL in the cell above.")
  what = f"big_audio @ git+{GIT_URL}"
  subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", what], check=True)
  importlib.invalidate_caches()

runs = (checkout or here) / "runs"
workdir = str(runs / f"notebook_vimh_{SYNTH}{'_smoke' if SMOKE else ''}")

# %%
import csv

import jax
import matplotlib.pyplot as plt
import numpy as np
from absl import logging
from IPython.display import Audio, display

from big_audio import config as C
from big_audio import metrics, train_loop
from big_audio.datasets import synth_render, vimh
from big_audio.tools import make_vimh
from proj.vimh import audio, estimate

logging.set_verbosity(logging.ERROR)
print("jax", jax.__version__, "on", jax.devices())

# %% [markdown]
# ## Sounds, and how they are kept
#
# A VIMH data set is a folder: the files `train` and `test` hold a record for each sound (an 8-bit
# spectrogram and a byte for each parameter), `vimh_dataset_info.json` says what the bytes mean. The
# sounds themselves are not stored; they can be rendered again from the parameters.

# %%
data = runs / "data"
size = 256 if SMOKE else 4096
arguments = ["--config-name", SYNTH, "--size", str(size), "--seed", "12345"]
folders = list(data.glob(f"vimh-*_{size}dss_*")) if data.is_dir() else []
folders = [f for f in folders if (f / "vimh_dataset_info.json").is_file()]
folders = [f for f in folders if vimh.Source(str(f)).metadata.raw["generator"]["recipe"] == SYNTH]
if not folders:
  make_vimh.main(["generate", *arguments, "--output-dir", str(data)])
  folders = [f for f in data.glob(f"vimh-*_{size}dss_*")]
folder = str(folders[0])
make_vimh.main(["check", folder])

# %% [markdown]
# Six of them. Each picture is stretched from its own quietest to its own loudest point, and so
# looks alike at any loudness: the two levels (`spec_scale`) are kept beside it.

# %%
source = vimh.Source(folder, "test")
meta = source.metadata
picked = [source[i] for i in range(6)]
fig, axes = plt.subplots(1, 6, figsize=(13, 2.6), layout="constrained")
for axis, item in zip(axes, picked, strict=True):
  axis.imshow(item["image"][..., 0], origin="lower", aspect="auto", cmap="magma")
  axis.set_title("\n".join(f"{k} {item[f'{k}/value']:.3g}" for k in meta.names), fontsize=8)
axes[0].set(xlabel="frame", ylabel="bin")
plt.show()
true = {k: v[:6] for k, v in source.values().items()}
wavs = synth_render.sounds(meta, true)
for wav in wavs[:2]:
  display(Audio(wav, rate=int(meta.sr), normalize=False))

# %% [markdown]
# ## Train
#
# A config file with arguments says everything about a run. The network has a head for each
# parameter that varies; how many and how wide they are comes from the data set. A tenth of `train`
# is kept for validation and chooses the best checkpoint; `test` is looked at once, at the end.
#
# The same cell goes on where it was interrupted. A workdir refuses another config, so use another
# workdir when you change one.

# %%
epochs = 1 if SMOKE else 5
config = C.load(f"{C.repo_root()}/configs/vimh.py:dir={folder},net=cnn_10k,epochs={epochs}")
last = train_loop.train(config, workdir)

# %%
rows = metrics.read_rows(f"{workdir}/metrics.jsonl")
fig, axis = plt.subplots(figsize=(6, 3), layout="constrained")
for split in ("train", "val/val"):
  found = [(r["step"], r[f"{split}/loss"]) for r in rows if f"{split}/loss" in r]
  axis.plot(*zip(*found, strict=True), ".-", label=split)
axis.set(xlabel="step", ylabel="loss", yscale="log")
axis.legend()
plt.show()

# %% [markdown]
# ## Judge
#
# On the test sounds: how often the class is right, right or a neighbour, and how far the value is
# off in its own unit, beside the constant that errs least (the median of the training sounds).

# %%
print(f"{'parameter':>24} {'accuracy':>9} {'within 1':>9} {'error':>9} {'constant':>9}")
for k in meta.names:
  numbers = [last[f"val/test/{k}_{m}"] for m in ("accuracy", "within1", "mae")]
  numbers.append(last[f"val/audio/constant/{k}_mae"])
  print(f"{k:>24} " + " ".join(f"{n:9.4g}" for n in numbers))

# %%
head = meta.names[-1]
with open(f"{workdir}/samples/{last['step']}/confusion_{head}.csv") as f:
  matrix = np.array([row[1:] for row in list(csv.reader(f))[1:]], float)
fig, axis = plt.subplots(figsize=(4, 4), layout="constrained")
axis.imshow(matrix / np.maximum(matrix.sum(1, keepdims=True), 1), cmap="magma", vmin=0, vmax=1)
axis.set(xlabel=f"{head}: class found", ylabel="true class")
plt.show()

# %% [markdown]
# ## Listen
#
# From a sound to its parameters and back to a sound: the true one first, then what the estimates
# sound like. The numbers are distances of the two sounds.

# %%
estimator = estimate.open_estimator(workdir)
found = estimator(wavs)
again = synth_render.sounds(meta, found)
scores = audio.measures(again, wavs, meta.sr)
for i in range(2):
  print(", ".join(f"{k} {true[k][i]:.3g} -> {found[k][i]:.3g}" for k in meta.names))
  print(f"signal-to-noise ratio {scores['snr'][i]:.1f} dB, correlation {scores['xcorr'][i]:.3f}")
  display(Audio(wavs[i], rate=int(meta.sr), normalize=False))
  display(Audio(again[i], rate=int(meta.sr), normalize=False))

# %% [markdown]
# ## What next
#
# * Another synthesiser: `SYNTH = "moog_basic"` above has a filter with cutoff and resonance.
# * Another network or loss: `net=vit_23k`, `loss=ordinal` in the config's arguments;
#   `python -m big_audio.tools.list_configs` shows them all.
# * Why `note_velocity` needs `aux=scale`: train once with `aux=none`, which takes the levels away,
#   and look at its accuracy.
# * Your own recordings: `python -m proj.vimh.estimate --workdir RUN sound.wav`.
