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
# # A MeanFlow codec: train, encode, listen
#
# This notebook trains a small neural audio codec, writes a recording as a file of true bytes,
# decodes it with 0, 1 and 2 evaluations of its refiner, and compares the results. It uses the
# modules of `proj.meanflow_codec`; the same steps exist as commands, see the README beside them.
#
# Run the cells from top to bottom. With `SMOKE = True` the codec is tiny and trains for 30 steps:
# all parts run, and what you hear is far from the recording. With `SMOKE = False` it trains for
# 4000 steps, about 8 minutes on two CPU cores.

# %%
SMOKE = True
RECORDINGS = ""  # a folder of your recordings, all of one rate; "" trains on procedural notes
SR = 8000  # of the codec, in Hz; recordings must have it

# Only needed where neither a checkout of the repository nor the installed package is at hand:
GIT_URL = ""  # "https://github.com/OWNER/big_audio", say
EXTRAS = "codec,metrics"  # range coding, and PESQ, STOI and ViSQOL; add gpu or tpu for those

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
checkout = next((p for p in (here, *here.parents) if (p / "proj/meanflow_codec").is_dir()), None)
if checkout:
  sys.path.insert(0, str(checkout))
elif importlib.util.find_spec("big_audio") is None:
  if not GIT_URL:
    raise ValueError("There is no checkout around this notebook: set GIT_URL in the cell above.")
  what = f"big_audio[{EXTRAS}] @ git+{GIT_URL}"
  subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", what], check=True)
  importlib.invalidate_caches()

runs = (checkout or here) / "runs"
workdir = str(runs / f"notebook{'_recordings' if RECORDINGS else ''}{'_smoke' if SMOKE else ''}")

# %%
import shutil
import tempfile
import time

import jax
import matplotlib.pyplot as plt
import numpy as np
import soundfile
from absl import logging
from IPython.display import Audio, Image, Markdown, display

from big_audio import config as C
from big_audio import metrics, train_loop
from big_audio.datasets.worlds import notes
from big_audio.evaluators import plots
from proj.meanflow_codec import bitstream, codec, compare, streams

logging.set_verbosity(logging.ERROR)
print("jax", jax.__version__, "on", jax.devices())

# %% [markdown]
# ## Train
#
# A config file with arguments says everything about a run. The codec is trained first; from 60 % of
# the steps on it stands still, and the refiner is trained.
#
# To stop early, interrupt the kernel: the step is finished and saved, and the same cell goes on
# from there. A workdir refuses another config, so use another workdir when you change one.

# %%
arguments = ["smoke"] if SMOKE else []
arguments.append(f"sr={SR}")
if RECORDINGS:
  arguments += ["data=audio_dir", f"dir={Path(RECORDINGS).resolve()}"]
config = C.load(f"{C.repo_root()}/configs/meanflow.py:{','.join(arguments)}")
last = train_loop.train(config, workdir)

# %% [markdown]
# `metrics.jsonl` holds a row for each logged step. Left, the codec's loss; right, the refiner's raw
# error (its weighted loss stays near 1 by design). The grey line marks where the refiner begins.

# %%
rows = metrics.read_rows(f"{workdir}/metrics.jsonl")
fig, axes = plt.subplots(1, 2, figsize=(10, 3), layout="constrained")
for axis, name in zip(axes, ("ae_loss", "mse"), strict=True):
  for split in ("train", "val/val"):
    found = [(r["step"], r[f"{split}/{name}"]) for r in rows if f"{split}/{name}" in r]
    axis.plot(*zip(*found, strict=True), label=f"{split}/{name}")
  axis.set(xlabel="step", yscale="log")
  axis.axvline(config.total_steps * config.trainer.refiner_begin_percent / 100, color="0.7")
  axis.legend()
plt.show()

# %% [markdown]
# ## Clips that were not trained on
#
# Notes of the test split, or the test split of your recordings: those whose path has a certain
# hash.

# %%
count, secs = (2, 2) if SMOKE else (8, 4)
if RECORDINGS:
  from big_audio.datasets import audio_dir

  source = audio_dir.Source(RECORDINGS, "test", channels=1)
  found = [source[i] for i in range(min(count, len(source)))]
  clips = [(e["id"], e["wav"].numpy()[: secs * SR]) for e in found]
else:
  world = notes.Source("test", sr=SR, secs=1.0)
  join = lambda i: np.concatenate([world[secs * i + k]["wav"] for k in range(secs)])
  clips = [(f"notes {i}", join(i)) for i in range(count)]
name, wav = clips[0]
print(f"{len(clips)} clips; {name}: {wav.shape} samples and channels, {len(wav) / SR:.2f} s")

# %% [markdown]
# ## Encode
#
# `encode` gives a few codes for each token; the file is a header, the codes and a CRC32. "packed"
# spends the same number of bits on every token. "range" uses the prior that was trained beside the
# codec: the same codes, another number of bytes.

# %%
model = codec.open_codec(workdir)
codes = model.encode(wav)
print(f"codes {codes.shape}: tokens and groups; {model.kbps:g} kbps packed")

data = {}
for coding in ("packed", "range"):
  header = codec.header_of(model, len(wav), coding=coding)
  data[coding] = bitstream.dumps(codes, header, model.coder)
  print(f"\n{coding}: {len(data[coding])} bytes")
  for key, value in bitstream.info(data[coding]).items():
    print(f"  {key:16} {value}")

back = {coding: bitstream.loads(raw, model.coder)[1] for coding, raw in data.items()}
assert all(np.array_equal(codes, read) for read in back.values())

# %% [markdown]
# ## Decode and listen
#
# 0 evaluations give the plain decoder. Each evaluation of the refiner is one pass of its net.

# %%
panels = {"recording": wav}
for nfe in (0, 1, 2):
  label = f"{nfe} evaluation{'' if nfe == 1 else 's'}"
  panels[label] = model.decode(back["packed"], len(wav), nfe=nfe)
for label, sound in panels.items():
  print(label)
  display(Audio(np.clip(sound.T, -1, 1), rate=SR, normalize=False))

# %%
picture = Path(tempfile.mkdtemp()) / "spectrograms.png"
plots.spectrograms(picture, panels, SR, title=name)
display(Image(str(picture)))

# %% [markdown]
# ## Compare
#
# The table of `proj.meanflow_codec.compare`, on the clips above: through bytes, aligned, beside the
# recordings themselves ("identity") and silence ("zero"). Small is good in `mel`, `lsd`, `fd` and
# `fd_half`, large in `si_sdr`. `fd` is the Frechet distance of log-mel frames to those of the same
# clips, `fd_half` that of one half of the clips to the other, where "identity" shows the floor;
# with few clips it is high. PESQ and STOI are made for speech, so they are shown for your
# recordings only, as "unavailable" where their packages are missing.
#
# Opus and Codec 2 are in the table if their programs are installed (on Debian, Ubuntu and Colab:
# `apt-get install opus-tools codec2`).

# %%
measures = ["pesq_nb", "stoi"] if RECORDINGS else []
table = compare.Table(clips, SR, [*measures, "mel", "lsd", "si_sdr"])
compare.add_ours(table, model, clips, [0, 1, 2], codings=("packed", "range"))
peers = ["opus:6", "opus:12"] if shutil.which("opusenc") and shutil.which("opusdec") else []
if SR == 8000 and shutil.which("c2enc") and shutil.which("c2dec"):
  peers.append("codec2:2400")
for peer in peers:
  compare.add_peer(table, peer, clips, SR)
table.add_controls()
display(Markdown(compare.text(table.rows)))

# %% [markdown]
# ## Stream
#
# Encoder and decoder also take a recording while it still comes in. A small `core` waits less and
# computes more. The sound is bit-equal to that of the whole recording with the same `core`.

# %%
live = codec.open_codec(workdir, core=10)
print(f"latency: encoder {live.latency():.2f} s, decoder {live.latency(nfe=1):.2f} s")

encoder, decoder = streams.StreamEncoder(live), streams.StreamDecoder(live, nfe=1)
block = SR // 50
parts, begin = [], time.perf_counter()
for start in range(0, len(wav), block):
  parts.append(decoder.push(encoder.push(wav[start : start + block])))
parts += [decoder.push(encoder.finish()), decoder.finish(samples=encoder.samples)]
took = time.perf_counter() - begin
streamed = np.concatenate(parts)

whole = live.decode(live.encode(wav), len(wav), nfe=1)
assert np.array_equal(streamed, whole)
print(f"{len(wav) / SR:.1f} s in blocks of {block} samples took {took:.1f} s, compilation included")
print("bit-equal to the whole recording:", np.array_equal(streamed, whole))

# %% [markdown]
# ## Your own recordings
#
# *Encode them.* `encode_file` reads wav, flac, ogg, opus and mp3; `resample=True` converts another
# rate and number of channels. On Colab, `from google.colab import files; files.upload()` brings a
# file here. Here a stereo file of 16 kHz stands in for yours. A codec knows only what it was
# trained on: expect little from one of notes on speech.

# %%
folder = Path(tempfile.mkdtemp())
mine = str(folder / "mine.wav")  # put your file's name here, and remove the next two lines
stereo = notes.Source("test", sr=16000, channels=2)[0]["wav"]
soundfile.write(mine, stereo, 16000)

info = codec.encode_file(model, mine, str(folder / "mine.bac"), resample=True)
print(f"{info['secs']:.2f} s, {info['bytes']} bytes, {info['payload_kbps']:.2f} kbps + header")
codec.decode_file(model, str(folder / "mine.bac"), str(folder / "again.wav"), nfe=1)
display(Audio(str(folder / "again.wav")))

# %% [markdown]
# *Train on them.* Set `RECORDINGS` and `SR` in the first cell, restart the kernel and run all
# cells. The folder is searched recursively; recordings that cannot be read are left out and listed.
# A hash of their path splits them: 90 % for training, 5 % each for validation and test, and none
# may be empty, so there should be a hundred or more.
#
# The same from a shell, with everything that the config takes:
#
# ```bash
# python train.py --workdir runs/mine --config configs/meanflow.py:data=audio_dir,dir=PATH,sr=16000
# ```
