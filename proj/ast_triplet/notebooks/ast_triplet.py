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
# # Which recordings sound alike?
#
# A network turns a recording into a point on a sphere; recordings of one class lie near each other.
# This notebook trains one on procedural drum loops of nine sub-genres, measures how well
# neighbours agree, embeds a folder of sounds, and listens to neighbours. It uses the modules of
# `proj.ast_triplet`; the same steps exist as commands, see the README beside them.
#
# Run the cells from top to bottom; no GPU is needed. With `SMOKE = True` the network learns next to
# nothing in a few seconds: all parts run. With `SMOKE = False` it takes some minutes on two cores.

# %%
SMOKE = True

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
checkout = next((p for p in (here, *here.parents) if (p / "proj/ast_triplet").is_dir()), None)
if checkout:
  sys.path.insert(0, str(checkout))
elif importlib.util.find_spec("big_audio") is None:
  if not GIT_URL:
    raise ValueError("There is no checkout around this notebook: set GIT_URL in the cell above.")
  what = f"big_audio @ git+{GIT_URL}"
  subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", what], check=True)
  importlib.invalidate_caches()

runs = (checkout or here) / "runs"
workdir = str(runs / f"notebook_loops{'_smoke' if SMOKE else ''}")

# %%
import matplotlib.pyplot as plt
import numpy as np
import soundfile
from absl import logging
from IPython.display import Audio, Image, display

from big_audio import config as C
from big_audio import metrics, train_loop
from big_audio.datasets.worlds import loops
from big_audio.tools import embed, embeddings, playlist, similar
from proj.ast_triplet import browse

logging.set_verbosity(logging.ERROR)

# %% [markdown]
# ## Loops
#
# A sub-genre is a region of tempo, swing, density, brightness and pattern. The regions overlap in
# each of these: a spectrum without time does not tell them apart.

# %%
source = loops.Source("train", num_examples=9)
fig, axes = plt.subplots(3, 3, figsize=(12, 5), layout="constrained", sharex=True)
for axis, item in zip(axes.flat, (source[i] for i in range(9)), strict=True):
  axis.plot(np.arange(len(item["wav"])) / item["sr"], item["wav"], lw=0.4)
  bpm = item["loop_tempo_bpm"]
  axis.set_title(f"{source.classes[item['label']]}, {float(bpm):.0f} bpm", fontsize=8)
plt.show()
display(Audio(source[0]["wav"][:, 0], rate=source.sr))

# %% [markdown]
# ## Train
#
# A config file with arguments says everything about a run: here an Audio Spectrogram Transformer
# and the supervised contrastive loss. A batch holds eight sub-genres with four loops each. What is
# already there is resumed, bit for bit.

# %%
root = C.repo_root()
config = C.load(f"{root}/configs/ast_triplet.py:{'smoke' if SMOKE else ''}")
last = train_loop.train(config, workdir)
print({k: round(v, 3) for k, v in last.items() if k.startswith("val/test/") and "class" not in k})

# %% [markdown]
# How often the nearest other loop is of the same sub-genre, along the run; `map_r` looks at as many
# neighbours as there are loops of the class. `collapsed` would be 1 where all embeddings are alike.

# %%
rows = metrics.read_rows(f"{workdir}/{metrics.FILE}")
for name in ("val/val/map_r", "train/loss", "train/spread", "train/collapsed"):
  seen = [(r["step"], r[name]) for r in rows if name in r]
  print(f"{name}: {seen[0][1]:.3f} at step {seen[0][0]}, {seen[-1][1]:.3f} at step {seen[-1][0]}")
folder = Path(workdir) / "samples" / str(last["step"])
for name in ("test_confusion.png", "test_umap.png", "test_pca.png"):
  if (folder / name).is_file():
    display(Image(filename=str(folder / name)))

# %% [markdown]
# ## A folder of sounds
#
# `embed` takes any folder; what cannot be read is listed. Here: loops that were never heard, with
# tempos, swings and drum kits that were held out.

# %%
music = runs / "notebook_loops_folder"
heldout = loops.Source("regions", num_examples=18 if SMOKE else 180)
for i in range(len(heldout)):
  item = heldout[i]
  path = music / heldout.classes[item["label"]] / f"{i}.wav"
  path.parent.mkdir(parents=True, exist_ok=True)
  soundfile.write(path, item["wav"], item["sr"])
out = runs / "notebook_loops.npz"
secs = "0.5" if SMOKE else "2"  # what the network sees at once
embed.main([workdir, str(music), str(out), "--label", "folder", "--secs", secs])
table = embeddings.load(out)
print(table.x.shape, table.ids[:3], table.labels[:3])

# %% [markdown]
# Neighbours of one loop, to read and to hear; a playlist that begins with it.

# %%
similar.main([str(out), "--query", "0", "--k", "4"])
found = similar.neighbours(table, [0], k=2)
for name in (table.ids[0], *(row[3] for row in found)):
  wav, sr = soundfile.read(music / name)
  print(name)
  display(Audio(wav, rate=sr))

# %%
m3u = runs / "notebook_loops.m3u"
playlist.main([str(out), "--seeds", table.ids[0], "--length", "6", "--out", str(m3u)])
print(m3u.read_text())

# %% [markdown]
# And a page of neighbours side by side, with sound: open it in a browser.

# %%
page = runs / "notebook_loops.html"
browse.main([str(out), "--audio-dir", str(music), "--out", str(page), "--queries", "6", "--k", "3"])
print(page)
