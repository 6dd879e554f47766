"""Every network of configs/vimh.py on one data set, a few epochs each.

  python -m big_audio.tools.sweep configs/sweeps/vimh_nets.py --root runs/vimh_nets
  python -m big_audio.tools.sweep configs/sweeps/vimh_nets.py:nets=small,seeds=3 --root runs/small

`python -m proj.vimh.compare --root runs/vimh_nets` trains the same runs and prints one table.
"""

import os

from big_audio.config import args, arguments, nearest

# One or two of each family; each takes less than a minute on two CPU cores.
SMALL = ("cnn_10k", "cnn_39k", "vit_23k", "convnext_18k", "efficientnet_66k", "mlp_68k")
ARGS = dict(
  nets="all",  # "small", or some of them, separated by /
  synth="",  # a recipe, or
  dir="",  # a folder; neither: the config's own
  size=0,  # sounds of synth; 0: the config's
  loss="",
  lr=0.0,
  batch=0,
  epochs=3,
  seeds=1,
  audio=False,
  smoke=False,
)


def get_sweep(arg=""):
  """A run for each net and seed."""
  a = args(arg, ARGS)
  every = arguments(os.path.join(os.path.dirname(__file__), "..", "vimh.py"))["net"]
  nets = dict(all=every, small=SMALL).get(a.nets) or a.nets.split("/")
  for net in nets:
    if net not in every:
      raise ValueError(f"sweeps/vimh_nets.py: no net {net!r}. {nearest(net, every)}")
  fixed = {k: a[k] for k in ("synth", "dir", "size", "loss", "lr", "batch") if a[k]}
  fixed |= dict(epochs=a.epochs, audio=a.audio, smoke=a.smoke)
  grid = {"net": list(nets)}
  if a.seeds > 1:
    grid["config.seed"] = list(range(a.seeds))
  return dict(config="configs/vimh.py", fixed=fixed, grid=grid)
