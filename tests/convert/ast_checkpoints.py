"""Small AST checkpoints in every spelling, and golden outputs of the public model on them."""

import json
import re
from pathlib import Path

import numpy as np
import safetensors.numpy

GOLDEN = Path(__file__).parent / "golden" / "ast.npz"
WIDTH, DEPTH, HEADS, CLASSES = 48, 3, 3, 5
# name -> (frames, bins, stride_time, stride_freq, every how many tokens are kept)
MODELS = {"long": (1024, 128, 10, 10, 173), "square": (128, 128, 10, 10, 29)}
PREFIX = "audio_spectrogram_transformer."


def model_config(model):
  """Arguments of ours."""
  frames, bins, time, freq, _ = MODELS[model]
  return dict(frames=frames, bins=bins, stride_time=time, stride_freq=freq, heads=HEADS)


def public_config(model):
  """Of transformers."""
  frames, bins, time, freq, _ = MODELS[model]
  return dict(
    hidden_size=WIDTH, num_hidden_layers=DEPTH, num_attention_heads=HEADS,
    intermediate_size=4 * WIDTH, max_length=frames, num_mel_bins=bins, time_stride=time,
    frequency_stride=freq, num_labels=CLASSES,
  )  # fmt: skip


def fill(shapes):
  """Tensors of these shapes, in order of names; norms are around 1."""
  random = np.random.RandomState(7)
  out = {}
  for name in sorted(shapes):
    x = random.standard_normal(shapes[name]).astype(np.float32)
    out[name] = 1 + 0.2 * x if "layernorm" in name and name.endswith("weight") else 0.15 * x
  return {k: v.astype(np.float32) for k, v in out.items()}


def clips(model, b=2):
  frames, bins, *_ = MODELS[model]
  return np.random.RandomState(8).standard_normal((b, frames, bins)).astype(np.float32)


def golden():
  with np.load(GOLDEN) as f:
    return {k: f[k] for k in f}


def tensors(model):
  """Dialect (a) with prefix and classifier; its keys are those that transformers writes."""
  return fill(json.loads(str(golden()[f"{model}/shapes"])))


def spelt(a, dialect):
  """The same checkpoint in another dialect, by plain renaming."""
  trunk = {k.removeprefix(PREFIX): v for k, v in a.items() if k.startswith(PREFIX)}
  head = {k: v for k, v in a.items() if k.startswith("classifier.")}
  if dialect == "a":
    return trunk
  if dialect == "a.prefix":
    return a
  if dialect == "original":
    return original(trunk, head)
  b = {to_b(k): v for k, v in trunk.items()}
  if dialect == "b":
    return b
  if dialect == "b.prefix":
    return {**{PREFIX + k: v for k, v in b.items()}, **head}
  inner = b if dialect.startswith("c.b") else trunk
  last = 2 if dialect.endswith("2") else 3
  shapes = {
    "0.weight": (12, WIDTH),
    "0.bias": (12,),
    f"{last}.weight": (6, 12),
    f"{last}.bias": (6,),
  }
  projector = {f"projector.{k}": v for k, v in fill(shapes).items()}
  return {**{f"ast.{k}": v for k, v in inner.items()}, **projector}


def to_b(key):
  key = key.replace("encoder.layer.", "layers.")
  key = re.sub(r"attention\.attention\.(.)\w+\.", r"attention.\1_proj.", key)
  key = key.replace("attention.output.dense", "attention.o_proj")
  return key.replace("intermediate.dense", "mlp.fc1").replace("output.dense", "mlp.fc2")


def original(trunk, head):
  out = {
    "module.v.cls_token": trunk["embeddings.cls_token"],
    "module.v.dist_token": trunk["embeddings.distillation_token"],
    "module.v.pos_embed": trunk["embeddings.position_embeddings"],
    "module.v.head.weight": np.zeros((7, WIDTH), np.float32),  # of the image model
    "module.v.head.bias": np.zeros(7, np.float32),
  }
  for end in ("weight", "bias"):
    out[f"module.v.patch_embed.proj.{end}"] = trunk[f"embeddings.patch_embeddings.projection.{end}"]
    out[f"module.v.norm.{end}"] = trunk[f"layernorm.{end}"]
    out[f"module.mlp_head.0.{end}"] = head[f"classifier.layernorm.{end}"]
    out[f"module.mlp_head.1.{end}"] = head[f"classifier.dense.{end}"]
    for i in range(DEPTH):
      theirs, ours = f"encoder.layer.{i}.", f"module.v.blocks.{i}."
      parts = [trunk[f"{theirs}attention.attention.{n}.{end}"] for n in ("query", "key", "value")]
      out[f"{ours}attn.qkv.{end}"] = np.concatenate(parts)
      for a, b in (("attention.output.dense", "attn.proj"), ("layernorm_before", "norm1"),
                   ("layernorm_after", "norm2"), ("intermediate.dense", "mlp.fc1"),
                   ("output.dense", "mlp.fc2")):  # fmt: skip
        out[f"{ours}{b}.{end}"] = trunk[f"{theirs}{a}.{end}"]
  return out


def write(path, arrays, **metadata):
  safetensors.numpy.save_file(arrays, str(path), metadata={"format": "pt", **metadata})
  return str(path)


def public(model, folder):
  """(ASTForAudioClassification, its folder): needs torch."""
  import torch
  import transformers

  net = transformers.ASTForAudioClassification(transformers.ASTConfig(**public_config(model)))
  net.save_pretrained(folder)
  with safetensors.safe_open(folder / "model.safetensors", "numpy") as f:
    shapes = {k: f.get_slice(k).get_shape() for k in f.keys()}  # noqa: SIM118
  write(folder / "model.safetensors", fill(shapes))
  net = transformers.ASTForAudioClassification.from_pretrained(folder).eval()
  with torch.inference_mode():
    x = torch.from_numpy(clips(model))
    out = net(x, output_hidden_states=True)
    final = net.audio_spectrogram_transformer(x).last_hidden_state
  states = [h.numpy() for h in (*out.hidden_states, final)]
  return net, shapes, states, out.logits.numpy()


def make_golden(folder):
  """Writes the golden file; needs torch and transformers (5.23). `folder`: an empty one."""
  out = {}
  for model, (*_, every) in MODELS.items():
    (Path(folder) / model).mkdir()
    _, shapes, states, logits = public(model, Path(folder) / model)
    out[f"{model}/shapes"] = json.dumps(shapes)
    out[f"{model}/states"] = np.stack([h[:, ::every] for h in states])
    out[f"{model}/means"] = np.stack([h.mean(1) for h in states])
    out[f"{model}/logits"] = logits
  GOLDEN.parent.mkdir(exist_ok=True)
  np.savez_compressed(GOLDEN, **out)
