"""Embeddings of clips: our AST and its log-mels beside those of `transformers` on torch.

The same random weights on both sides; that the outputs agree is checked first. One clip of 10.24 s
at a time. `ours, stride 16` is the same network on fewer patches (the paper's fast setting), and
has no peer. The public extractor is its numpy path, which it takes without torchaudio.
"""

import importlib.util
import tempfile
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from big_audio import convert
from big_audio.dsp.fbank import fbank
from big_audio.models import ast
from big_audio.tools import timing

SIZE = dict(frames=1024, dim=768, depth=12, heads=12)
BATCH = 1
SECS = 10.24
NO_TORCH = "torch is not installed"


def run(rounds: int) -> list[timing.Row]:
  """A block of rows for the network and one for its front end."""
  torch = importlib.util.find_spec("torch")
  return [*_networks(rounds, torch), *_front_ends(rounds, torch)]


def _networks(rounds, torch):
  x = np.random.default_rng(0).standard_normal((BATCH, SIZE["frames"], 128)).astype(np.float32)
  peer, params = _peer(x) if torch else (NO_TORCH, None)
  ours, stride16 = _ours(x, params), _ours(x, None, stride_time=16, stride_freq=16)
  if torch:
    worst = float(np.abs(ours() - peer()).max())
    if not worst < 1e-3:
      raise ValueError(f"embed: ours and torch's outputs differ by {worst:.2g}.")
  group = f"AST, width {SIZE['dim']}, {SIZE['depth']} blocks, {BATCH} x {SIZE['frames']} frames"
  candidates = {"ours": ours, "ASTModel, torch": peer, "ours, stride 16": stride16}
  return _per_second(timing.interleaved(candidates, rounds, group=group), "clips", BATCH)


def _ours(x, params, **kw):
  """x -> f32[B, D], the mean of all tokens; random weights without `params`."""
  net = ast.Model(**SIZE, **kw)
  if params is None:
    params = jax.jit(net.init)(jax.random.key(0), x)["params"]
  params = jax.tree.map(jnp.asarray, params)
  embed = jax.jit(lambda p, x: net.apply({"params": p}, x))
  return lambda: embed(params, x)


def _peer(x):
  """(the same of transformers, its weights as our parameters)."""
  import torch
  import transformers

  config = transformers.ASTConfig(
    hidden_size=SIZE["dim"], num_hidden_layers=SIZE["depth"], num_attention_heads=SIZE["heads"],
    intermediate_size=4 * SIZE["dim"], max_length=SIZE["frames"],
  )  # fmt: skip
  net = transformers.ASTModel(config).eval()
  with tempfile.TemporaryDirectory() as folder:
    net.save_pretrained(folder)
    params = convert.load(folder, "ast").params["net"]
  inputs = torch.from_numpy(x)

  def embed():
    with torch.inference_mode():
      return net(inputs).last_hidden_state.mean(1).numpy()

  return embed, params


def _front_ends(rounds, torch):
  wav = 0.1 * np.random.default_rng(0).standard_normal((round(SECS * 16000), 1))
  wav = wav.astype(np.float32)
  jitted = jax.jit(fbank)
  candidates = {
    "ours, jitted": lambda: jitted(wav),
    "ours, numpy": lambda: fbank(wav),
    "ASTFeatureExtractor": _extractor(wav[:, 0]) if torch else NO_TORCH,
  }
  group = f"log-mel of {SECS:g} s"
  rows = timing.interleaved(candidates, rounds, group=group, ours="ours, numpy")
  return _per_second(rows, "frames", len(fbank(wav)))


def _extractor(wav):
  import transformers

  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # two of its filters are narrower than a bin
    extractor = transformers.ASTFeatureExtractor()
  return lambda: extractor(wav, sampling_rate=16000, return_tensors="np")["input_values"]


def _per_second(rows, what, count):
  for row in rows:
    if "wall_ms" in row:
      row[f"{what}_per_sec"] = count * 1e3 / row["wall_ms"]
  return rows
