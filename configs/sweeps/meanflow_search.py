"""A search for the refiner's settings on digits: learning rate, prior, weighting, size.

  python -m big_audio.tools.sweep configs/sweeps/meanflow_search.py --root runs/search \\
    --search tpe --trials 30
"""

from big_audio.config import args

ARGS = dict(method=("imf", "mf", "fm"), smoke=False)


def get_sweep(arg=""):
  """Ranges: log (both ends), uniform, int, or a list of choices."""
  a = args(arg, ARGS)
  return dict(
    config="configs/meanflow.py",
    fixed=dict(data="digits", net="mlp_flow", method=a.method, smoke=a.smoke),
    search={
      "config.optimizer.lr": dict(log=[1e-4, 1e-2]),
      "config.models.net.depth": dict(int=[2, 8]),
      "config.models.net.hidden": [64, 128, 256],
    },
    metric="val/val/mse",
    mode="min",
  )
