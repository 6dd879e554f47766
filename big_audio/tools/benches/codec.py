"""Encoding and decoding: our codec beside EnCodec (24 kHz) and DAC (44.1 kHz), random weights.

All at about 6 kbps; `kbps` of each row is what that codec's codes need.

The peers are those of `transformers` on torch, on the same seconds of audio, one recording at a
time, as their users run them. Weights do not matter to the time. `rtf` is time / duration, `params`
in millions.
"""

import importlib.util

import jax
import numpy as np

from big_audio import config as C
from big_audio import trees
from big_audio.tools import timing

SECS = 10
RATES = {24000: ("EnCodec-24k", 6.0), 44100: ("DAC-44k", 6.0)}
DAC_BOOKS = 7  # of 9: 7 x 10 bits at 86 frames a second


def run(rounds: int) -> list[timing.Row]:
  """A block of rows for encoding and one for decoding at each rate."""
  rows = []
  for sr, (peer, kbps) in RATES.items():
    wav = (0.1 * np.random.default_rng(0).standard_normal((1, SECS * sr, 1))).astype(np.float32)
    encode, decode, millions, rate = _ours(sr, kbps, wav)
    torch = importlib.util.find_spec("torch")
    theirs = _peer(sr, kbps, wav) if torch else ("torch is not installed",) * 2
    title = f"{SECS} s at {sr} Hz, about {kbps:g} kbps"
    block = timing.interleaved({"ours": encode, peer: theirs[0]}, rounds, group=f"encode {title}")
    block += timing.interleaved(
      {**decode, peer: theirs[1]}, rounds, group=f"decode {title}", ours="1 evaluation"
    )
    for row in block:
      if "wall_ms" in row:
        size, bits = theirs[2:] if row["name"] == peer else (millions, rate)
        row |= {"rtf": row["wall_ms"] / 1000 / SECS, "kbps": bits, "params": size}
    rows += block
  return rows


def _ours(sr, kbps, wav):
  """(encode, {name: decode}, millions of parameters, kbps) of the config's codec and refiner."""
  config = C.load(f"configs/meanflow.py:sr={sr},kbps={kbps}")
  trainer = C.resolve("trainers", "autoencode").Trainer(C.canonical(config), C.build_models(config))
  hop = trainer.codec.hop
  wav = wav[:, : wav.shape[1] // hop * hop]
  batch = {"wav": wav[:, : 20 * hop]}
  variables = jax.jit(trainer.init)(jax.random.key(0), batch, trainer.stats([batch]))
  jitted = jax.jit(lambda v, w: trainer.encode(v, {"wav": w}, None)["codes"])
  codes = jitted(variables, wav)
  frames = codes.shape[1]
  rest = {
    "mask": np.ones((1, frames), bool),
    "token": np.arange(frames, dtype=np.int32)[None],
    "seed": np.zeros(1, np.uint32),
  }
  decode = {}
  for nfe, name in ((0, "plain AE"), (1, "1 evaluation"), (2, "2 evaluations")):
    fn = jax.jit(
      lambda v, c, nfe=nfe: trainer.decode(v, {"codes": c, **rest}, None, nfe=nfe)["wav"]
    )
    decode[name] = lambda fn=fn: fn(variables, codes)
  used = {k: variables["params"][k] for k in ("codec", "refiner")}
  rate = trainer.codec.bits_per_token() * sr / hop / 1000
  return lambda: jitted(variables, wav), decode, trees.count(used) / 1e6, rate


def _peer(sr, kbps, wav):
  """(encode, decode, millions of parameters, kbps) of the codec that transformers has for `sr`."""
  import torch
  import transformers

  x = torch.from_numpy(np.ascontiguousarray(wav[..., 0])[:, None])
  if sr == 24000:
    model = transformers.EncodecModel(transformers.EncodecConfig()).eval()
    run = lambda: model.encode(x, bandwidth=kbps)
    back = lambda out: model.decode(out.audio_codes, out.audio_scales)[0]
  else:
    model = transformers.DacModel(
      transformers.DacConfig(sampling_rate=44100, upsampling_ratios=[8, 8, 4, 2])
    ).eval()
    run = lambda: model.encode(x, n_quantizers=DAC_BOOKS)
    back = lambda out: model.decode(audio_codes=out.audio_codes)[0]

  def quietly(fn):
    def call():
      with torch.inference_mode():
        return fn()

    return call

  with torch.inference_mode():
    coded = run()
  size = sum(p.numel() for p in model.parameters()) / 1e6
  books = coded.audio_codes.shape[-2]
  rate = books * model.bits_per_codebook * sr / model.config.hop_length / 1000
  waited = lambda fn: lambda: fn().numpy()
  encode = quietly(lambda: run().audio_codes)
  return waited(encode), waited(quietly(lambda: back(coded))), size, rate
