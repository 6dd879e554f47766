"""Every loss of a head on one network, over several seeds.

  python -m big_audio.tools.sweep configs/sweeps/vimh_losses.py --root runs/vimh_losses
  python -m big_audio.tools.tables runs/vimh_losses --rows loss --columns measure \\
    --where evaluator=test measure=log10_decay_time_mae/log10_decay_time_within1/accuracy
"""

from big_audio.config import args, nearest

LOSSES = (
  "cross_entropy", "weighted_ce", "soft_target", "ordinal", "coral", "corn",
  "quantized_regression", "normalized_regression",
)  # fmt: skip
ARGS = dict(
  losses="all",  # or some of them, separated by /
  net="cnn_10k",
  synth="",
  dir="",
  size=0,
  epochs=5,
  seeds=3,
  audio=False,
  smoke=False,
)


def get_sweep(arg=""):
  """A run for each loss and seed."""
  a = args(arg, ARGS)
  losses = LOSSES if a.losses == "all" else a.losses.split("/")
  for loss in losses:
    if loss not in LOSSES:
      raise ValueError(f"sweeps/vimh_losses.py: no loss {loss!r}. {nearest(loss, LOSSES)}")
  fixed = {k: a[k] for k in ("synth", "dir", "size") if a[k]}
  fixed |= dict(net=a.net, epochs=a.epochs, audio=a.audio, smoke=a.smoke)
  grid = {"loss": list(losses)}
  if a.seeds > 1:
    grid["config.seed"] = list(range(a.seeds))
  return dict(config="configs/vimh.py", fixed=fixed, grid=grid)
