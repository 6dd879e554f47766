"""Trains, or resumes, the run of a config in a workdir.

python train.py --config configs/meanflow.py:method=imf --workdir runs/codec
python train.py --config configs/meanflow.py --workdir runs/short --config.total_steps=100
python train.py --config runs/codec/config.json --workdir runs/codec
"""

import sys

from absl import app, flags, logging

from big_audio import config as C

FLAGS = flags.FLAGS
flags.DEFINE_string("config", None, "configs/NAME.py[:argument=value,...] or a stored config.json.")
flags.DEFINE_string("workdir", None, "Where the run lives; an existing run is resumed.")
flags.mark_flags_as_required(["config", "workdir"])


def main(argv):
  """Trains and writes the report; what the user can mend is told without a traceback."""
  if not FLAGS["verbosity"].present:
    logging.set_verbosity(logging.WARNING)  # orbax tells every step of every save
  try:
    config = C.load(FLAGS.config, C.overrides_from_argv(argv[1:], ["config", "workdir"]))
    from big_audio import train_loop  # jax is imported after the config has been checked

    train_loop.start_distributed()
    train_loop.train(config, FLAGS.workdir)
    if train_loop.is_main():
      from big_audio.tools import report

      print("Report:", report.write_report(FLAGS.workdir))
  except (ValueError, FloatingPointError, OSError, ImportError) as e:
    sys.exit(f"{type(e).__name__}: {e}")


def parse(argv):
  """Parses the flags; `main` gets what is left, the overrides of the config."""
  try:
    return FLAGS(argv, known_only=True)
  except flags.Error as e:
    sys.exit(f"{e}\n{__doc__}")


if __name__ == "__main__":
  app.run(main, flags_parser=parse)
