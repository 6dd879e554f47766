"""The base matrix of the MeanFlow codec: 4 methods x 4 nets x 2 tokens, on digits and on notes.

  python -m big_audio.tools.sweep configs/sweeps/meanflow_matrix.py:smoke --root runs/matrix
  python -m big_audio.tools.tables runs/matrix --rows method --columns net,tokens \\
    --where data=notes evaluator=val measure=ae_mse

64 runs. In smoke form each takes about half a minute on two CPU cores, most of it compilation.
"""

from big_audio.config import args

ARGS = dict(
  data=("both", "digits", "notes"),
  methods="imf/mf/fm/ae",  # a choice of them, separated by /
  nets="mlp_flow/mixer_flow/convnext1d/dit",
  seeds=1,
  smoke=False,
)


def get_sweep(arg=""):
  """One grid for the images and one for the sounds, whose tokens differ."""
  a = args(arg, ARGS)
  tokens = dict(digits=["block_dct", "patch"], notes=["mdct", "reshape"])
  both = dict(method=a.methods.split("/"), net=a.nets.split("/"))
  grids = [
    {"data": [data], **both, "tokens": tokens[data]} for data in tokens if a.data in ("both", data)
  ]
  if a.seeds > 1:
    grids = [{**g, "config.seed": list(range(a.seeds))} for g in grids]
  return dict(config="configs/meanflow.py", fixed=dict(smoke=a.smoke), grid=grids)
