"""Audio Spectrogram Transformer: MIT/ast-finetuned-* and files of the same model.

Dialects:
  a         on disk, as transformers writes it; with a classifier under a prefix
  b         in memory of transformers 5
  c         files of a fine-tuned trunk with a projector: ast. + (a) or (b), projector.*
  original  the .pth files of the paper's authors

Parameters: {"net": `models.ast`, "classifier": {"norm", "dense"}, "head": {"dense0", "dense1"}},
the last two where the file has them. Classes read the mean of the two special tokens.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from big_audio import config as C
from big_audio import trees
from big_audio.convert.table import HEADS, JOIN, LINEAR, Dialect, Rule, permute, same_size
from big_audio.models import ast

# What shapes do not tell, and the name that it has in a config.json.
_GIVEN = {
  "heads": "num_attention_heads",
  "frames": "max_length",
  "bins": "num_mel_bins",
  "stride_time": "time_stride",
  "stride_freq": "frequency_stride",
}
# What they do tell, and what a config.json must not contradict.
_STATED = {"dim": "hidden_size", "depth": "num_hidden_layers"}
_MOST = 100_000  # frames, bins and strides beyond it are no model's, but would cost memory
# The one setting of each of these that the model has.
_FIXED = {"hidden_act": "gelu", "qkv_bias": True, "layer_norm_eps": 1e-12}
_PATCHES = permute("(D,1,freq,time)->(time,freq,1,D)", 3, 2, 1, 0)
_TOKEN = same_size("(1,1,D)->(D)", lambda s: (1, 1, *s))
_POSITIONS = same_size("(1,L,D)->(L,D)", lambda s: (1, *s))


def _dense(theirs: str, ours: str) -> list[Rule]:
  return [
    Rule(f"{theirs}.weight", f"{ours}/kernel", LINEAR),
    Rule(f"{theirs}.bias", f"{ours}/bias"),
  ]


def _norm(theirs: str, ours: str) -> list[Rule]:
  return [Rule(f"{theirs}.weight", f"{ours}/scale"), Rule(f"{theirs}.bias", f"{ours}/bias")]


def _embeddings(cls: str, dist: str, positions: str, patches: str) -> list[Rule]:
  return [
    Rule(cls, "net/class", _TOKEN),
    Rule(dist, "net/distil", _TOKEN),
    Rule(positions, "net/positions", _POSITIONS),
    Rule(f"{patches}.weight", "net/embed/kernel", _PATCHES),
    Rule(f"{patches}.bias", "net/embed/bias"),
  ]


def _block(block: str, qkv: Mapping[str, tuple[str, ...]], names: tuple[str, ...]) -> list[Rule]:
  """`names`: of the layer that joins the heads, the two norms and the two layers of the MLP."""
  out, norm1, norm2, expand, project = (f"{block}.{n}" for n in names)
  rules = []
  for theirs, ours in qkv.items():
    for last, part in (("weight", "kernel"), ("bias", "bias")):
      to = tuple(f"net/block_{{i}}/attend/{o}/{part}" for o in ours)
      rules.append(Rule(f"{block}.{theirs}.{last}", to, HEADS))
  return [
    *rules,
    Rule(f"{out}.weight", "net/block_{i}/attend/out/kernel", JOIN),
    Rule(f"{out}.bias", "net/block_{i}/attend/out/bias"),
    *_norm(norm1, "net/block_{i}/norm1"),
    *_norm(norm2, "net/block_{i}/norm2"),
    *_dense(expand, "net/block_{i}/expand"),
    *_dense(project, "net/block_{i}/project"),
  ]


def _trunk(prefix: str, blocks: str) -> list[Rule]:
  """Of (a) or (b): only the blocks differ."""
  e = f"{prefix}embeddings"
  return [
    *_embeddings(
      f"{e}.cls_token", f"{e}.distillation_token", f"{e}.position_embeddings",
      f"{e}.patch_embeddings.projection",
    ),
    *(_block_a(prefix) if blocks == "a" else _block_b(prefix)),
    *_norm(f"{prefix}layernorm", "net/norm"),
  ]  # fmt: skip


def _block_a(prefix: str) -> list[Rule]:
  qkv = {f"attention.attention.{n}": (n,) for n in ("query", "key", "value")}
  names = ("attention.output.dense", "layernorm_before", "layernorm_after", "intermediate.dense",
           "output.dense")  # fmt: skip
  return _block(f"{prefix}encoder.layer.{{i}}", qkv, names)


def _block_b(prefix: str) -> list[Rule]:
  qkv = {f"attention.{n[0]}_proj": (n,) for n in ("query", "key", "value")}
  names = ("attention.o_proj", "layernorm_before", "layernorm_after", "mlp.fc1", "mlp.fc2")
  return _block(f"{prefix}layers.{{i}}", qkv, names)


def _classifier(norm: str, dense: str) -> list[Rule]:
  return [*_norm(norm, "classifier/norm"), *_dense(dense, "classifier/dense")]


def _public(name: str, blocks: str, prefix: str, *writes: str) -> Dialect:
  rules = [*_trunk(prefix, blocks), *_classifier("classifier.layernorm", "classifier.dense")]
  return Dialect(name, tuple(rules), frozenset(writes))


def _projected(name: str, blocks: str, last: int) -> Dialect:
  """`last`: index of the second layer; dropout in front of it counts where there is any."""
  rules = [*_trunk("ast.", blocks), *_dense("projector.0", "head/dense0")]
  rules += _dense(f"projector.{last}", "head/dense1")
  return Dialect(name, tuple(rules), frozenset(("net", "head")))


def _original(name: str, prefix: str) -> Dialect:
  v = f"{prefix}v"
  names = ("attn.proj", "norm1", "norm2", "mlp.fc1", "mlp.fc2")
  rules = [
    *_embeddings(f"{v}.cls_token", f"{v}.dist_token", f"{v}.pos_embed", f"{v}.patch_embed.proj"),
    *_block(f"{v}.blocks.{{i}}", {"attn.qkv": ("query", "key", "value")}, names),
    *_norm(f"{v}.norm", "net/norm"),
    *_classifier(f"{prefix}mlp_head.0", f"{prefix}mlp_head.1"),
  ]
  # Left over from the image model that it began as; its forward pass has no use for them.
  drops = tuple(f"{v}.{h}.{p}" for h in ("head", "head_dist") for p in ("weight", "bias"))
  return Dialect(name, tuple(rules), frozenset(("net", "classifier")), drops)


DIALECTS = (
  _public("a", "a", "", "net"),
  _public("a.prefix", "a", "audio_spectrogram_transformer.", "net", "classifier"),
  _public("b", "b", "", "net"),
  _public("b.prefix", "b", "audio_spectrogram_transformer.", "net", "classifier"),
  _projected("c", "a", 3),
  _projected("c.2", "a", 2),
  _projected("c.b", "b", 3),
  _projected("c.b2", "b", 2),
  _original("original", "module."),
  _original("original.plain", ""),
)


def given(where: str, config: Mapping[str, Any]) -> dict[str, int]:
  """What a public config.json says beyond the shapes.

  Raises:
    ValueError: another activation, epsilon or kind of attention than the model has.
  """
  for key, value in _FIXED.items():
    if config.get(key, value) != value:
      raise ValueError(f"{where}: config.json has {key}={config[key]!r}; the model has {value!r}.")
  stated = {**_GIVEN, **_STATED}
  return {ours: config[theirs] for ours, theirs in stated.items() if theirs in config}


def configure(
  where: str, sizes: Mapping[str, tuple[int, ...]], known: Mapping[str, Any]
) -> dict[str, Any]:
  """Arguments of `models.ast.Model`.

  Args:
    where: named in errors.
    sizes: {our name: shape of the tensor that it comes from, in whatever layout}.
    known: heads, frames, bins, stride_time and stride_freq where they are known. Heads default to
      D / 64, the others to those of the model; both are checked against the shapes.

  Raises:
    ValueError: parts that no model goes without are missing, or the shapes contradict.
  """
  needed = ("net/class", "net/positions", "net/embed/kernel", "net/block_0/expand/bias")
  if absent := [n for n in needed if n not in sizes]:
    raise ValueError(f"{where}: not a whole model: nothing in it gives {', '.join(absent)}.")
  count = lambda name: math.prod(sizes[name])
  dim = count("net/class")
  blocks = {m[1] for n in sizes if (m := re.match(r"net/block_(\d+)/", n))}
  if dim < 1 or count("net/positions") % dim or count("net/embed/kernel") % dim:
    raise ValueError(f"{where}: positions or patches do not have the width {dim} of the tokens.")
  derived = dict(
    dim=dim,
    depth=len(blocks),
    mlp_ratio=count("net/block_0/expand/bias") / dim,
    patch=_patch(where, sizes["net/embed/kernel"], dim),
  )
  heads = sizes.get("net/block_0/attend/query/kernel", ())
  if len(heads) == 3:  # our own layout tells them
    derived["heads"] = heads[1]
  out = {k: getattr(ast.Ast, k) for k in _GIVEN if k != "heads"}
  for key, value in known.items():
    if key not in _GIVEN and key not in derived:
      raise ValueError(f"{where}: config has {key!r}. {C.nearest(key, _GIVEN)}")
    if key in _GIVEN and (
      isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _MOST
    ):
      raise ValueError(f"{where}: config: expected a whole {key} in 1..{_MOST}, got {value!r}.")
    if derived.get(key, value) != value:
      raise ValueError(f"{where}: config has {key}={value}, the shapes say {derived[key]}.")
    out[key] = value
  out |= derived
  if "heads" not in out:
    if dim % 64:
      raise ValueError(f"{where}: heads of 64 do not divide a width of {dim}. Give heads.")
    out["heads"] = dim // 64
  if out["heads"] < 1 or dim % out["heads"]:
    raise ValueError(f"{where}: {out['heads']} heads do not divide a width of {dim}.")
  rows, columns = grid(out)
  if (n := count("net/positions") // dim - ast.SPECIAL) != rows * columns:
    raise ValueError(
      f"{where}: it has {n} positions, but {out['frames']} frames x {out['bins']} bins with "
      f"strides {out['stride_time']} (time) and {out['stride_freq']} give {rows} x {columns}. Give "
      "the frames, bins, stride_time and stride_freq that it was trained with."
    )
  return out


def described(net: ast.Ast) -> dict[str, int]:
  """The arguments of a network that its shapes do not tell, for the header of a file."""
  return {name: getattr(net, name) for name in _GIVEN}


def _patch(where, kernel, dim):
  """A number, or [frames, mels], from (D, 1, mels, frames) or our (frames, mels, 1, D)."""
  if len(kernel) == 4 and kernel[:2] == (dim, 1):
    high, wide = kernel[2:]
  elif len(kernel) == 4 and kernel[2:] == (1, dim):
    wide, high = kernel[:2]
  else:
    raise ValueError(f"{where}: patches of shape {kernel}: expected ({dim}, 1, mels, frames).")
  return wide if wide == high else [wide, high]


def grid(config: Mapping[str, Any]) -> tuple[int, int]:
  """(rows, columns) of the patches of a model with these arguments."""
  names = ("frames", "bins", "patch", "stride_time", "stride_freq")
  return ast.grid(*(config[n] for n in names))


def shapes(
  config: Mapping[str, Any], sizes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
  """{our name: shape} of a whole model with these arguments and the heads that `sizes` has."""
  x = jax.ShapeDtypeStruct((1, config["frames"], config["bins"]), jnp.float32)
  net = jax.eval_shape(ast.Model(**config).init, jax.random.key(0), x)["params"]
  out = {f"net/{name}": leaf.shape for name, leaf in trees.flatten(net).items()}
  width = lambda name: math.prod(sizes.get(name, ()))
  dense = lambda name, n, m: {f"{name}/kernel": (n, m), f"{name}/bias": (m,)}
  dim, groups = config["dim"], {name.partition("/")[0] for name in sizes}
  if "classifier" in groups:
    out |= {"classifier/norm/scale": (dim,), "classifier/norm/bias": (dim,)}
    out |= dense("classifier/dense", dim, width("classifier/dense/bias"))
  if "head" in groups:
    hidden = width("head/dense0/bias")
    # The statistics of tokens are twice as wide as their mean.
    both = width("head/dense0/kernel") == 2 * dim * hidden
    out |= dense("head/dense0", 2 * dim if both else dim, hidden)
    out |= dense("head/dense1", hidden, width("head/dense1/bias"))
  return out


def fit(
  where: str, params: Mapping, config: Mapping[str, Any], net: Any, positions: str | None
) -> dict:
  """Parameters of the trunk for a network whose grid of patches may be another.

  Args:
    where: named in errors.
    params: of the trunk.
    config: arguments of the model that they are of.
    net: the network to fill.
    positions: "cut" or "interpolate", see `ast.resize_positions`; None: the grids must be the same.

  Raises:
    ValueError: grids that differ without `positions`, or `positions` for another kind of network.
  """
  if not isinstance(net, ast.Ast):
    if positions:
      raise ValueError(f"{where}: positions={positions!r} needs models.ast, got {type(net)}.")
    return dict(params)
  old, new = grid(config), grid({k: getattr(net, k) for k in (*_GIVEN, "patch")})
  if positions is None and old != new:
    raise ValueError(
      f"{where}: positions of {old[0]} x {old[1]} patches, but this network has {new[0]} x "
      f'{new[1]}. Set positions="cut" (the first ones) or "interpolate", or frames, bins and '
      "strides of the network to those of the weights."
    )
  return dict(params) if old == new else ast.resize_positions(params, old, new, positions)
