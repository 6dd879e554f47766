"""One change at a time from the default run: what each setting of the MeanFlow refiner is worth.

  python -m big_audio.tools.sweep configs/sweeps/meanflow_ablations.py:part=p,smoke --root runs/p
  python -m big_audio.tools.tables runs/p --rows config.trainer.p --columns method \\
    --where evaluator=val measure=mse

Parts: p (adaptive weighting), ratio (share of rows with r < t), t_dist (times), time_cond (what the
net is told of t and r), sigma (width of the shifted prior), prior, scale (blocks), lr, weights (of
the sampled part of the codec's loss, on sounds), method, all.
"""

from big_audio.config import args

P, RATIO, SIGMA = "config.trainer.p", "config.trainer.ratio", "config.trainer.sigma"
DIGITS = dict(data=["digits"], net=["mlp_flow"])
PARTS = dict(
  p={**DIGITS, "method": ["mf", "imf"], P: [0.0, 0.5, 1.0, 1.5]},
  ratio={**DIGITS, "method": ["mf", "imf"], RATIO: [0.0, 0.25, 0.5, 1.0]},
  t_dist={
    **DIGITS,
    "method": ["mf", "imf"],
    "config.trainer.t_dist": [
      dict(kind="logit_normal", mean=-0.4, std=1.0),
      dict(kind="logit_normal", mean=-2.0, std=2.0),
      dict(kind="logit_normal", mean=0.8, std=0.8),
      dict(kind="uniform"),
    ],
  },
  time_cond={**DIGITS, "method": ["mf", "imf"], "config.models.net.time_cond": ["th", "tr", "h"]},
  sigma={**DIGITS, "method": ["fm", "mf", "imf"], SIGMA: [0.125, 0.25, 0.5, 1.0]},
  prior={
    **DIGITS,
    "method": ["fm", "mf", "imf"],
    "config.trainer.prior": ["shifted", "standard"],
  },
  scale={**DIGITS, "method": ["fm", "mf", "imf"], "config.models.net.depth": [4, 8, 16]},
  lr={**DIGITS, "method": ["fm", "mf", "imf"], "config.optimizer.lr": [3e-4, 1e-3, 3e-3]},
  weights=dict(
    data=["notes"], net=["convnext1d"], method=["fm", "imf"],
    **{"config.trainer.sample_weight": [0.0, 0.25, 0.5, 1.0]},
  ),
  method=dict(data=["digits", "notes"], method=["ae", "fm", "mf", "imf", "alpha"]),
)  # fmt: skip
ARGS = dict(part=("all", *PARTS), seeds=1, smoke=False)


def get_sweep(arg=""):
  """A grid for each part; a run that several parts share is made once."""
  a = args(arg, ARGS)
  grids = [g for name, g in PARTS.items() if a.part in ("all", name)]
  if a.seeds > 1:
    grids = [{**g, "config.seed": list(range(a.seeds))} for g in grids]
  return dict(config="configs/meanflow.py", fixed=dict(smoke=a.smoke), grid=grids)
