"""Short names for the commands of the README.

  python -m big_audio.tools.run --list
  python -m big_audio.tools.run test -k metrics        # what follows the name goes to the command

Commands run from the root of the checkout with this interpreter, and are printed first.
"""

import difflib
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

from big_audio.tools import run_vimh

_TRAIN = "python train.py --config configs/"

# name: (what it does, the commands; arguments of the user go to the last)
COMMANDS = {
  "test": ("the fast tests", ["pytest"]),
  "test-slow": ("learning floors, kill and resume, two processes", ["pytest -m slow"]),
  "lint": ("style and import contracts", ["ruff check .", "ruff format --check .", "lint-imports"]),
  "format": ("repair style in place", ["ruff check --fix .", "ruff format ."]),
  "train-meanflow": (
    "the codec on procedural audio",
    [f"{_TRAIN}meanflow.py --workdir runs/meanflow"],
  ),
  "smoke": (
    "the same in a minute, to see that all parts work",
    [f"{_TRAIN}meanflow.py:smoke --workdir runs/smoke"],
  ),
  "report": (
    "report.html of a workdir (default runs/meanflow)",
    ["python -m big_audio.tools.report {runs/meanflow}"],
  ),
  "matrix": (
    "every method, net and kind of tokens in smoke form, resumable",
    [
      "python -m big_audio.tools.sweep configs/sweeps/meanflow_matrix.py:smoke --root runs/matrix",
    ],
  ),
  "sweep": ("a grid or a search over config arguments", ["python -m big_audio.tools.sweep"]),
  "evaluate": (
    "evaluators of trained runs, as JSON and CSV",
    ["python -m big_audio.tools.evaluate"],
  ),
  "tables": ("tables of many runs", ["python -m big_audio.tools.tables"]),
  "plots": ("quality against evaluations or bitrate", ["python -m big_audio.tools.plots"]),
  "config-diff": ("where two configs differ", ["python -m big_audio.tools.config_diff"]),
  "download-wavegen": (
    "music under Creative Commons",
    ["python -m big_audio.tools.download_wavegen"],
  ),
  "prepare-audio": ("recordings into shards", ["python -m big_audio.tools.prepare_audio"]),
  "prepare-features": (
    "recordings with classes into log-mels",
    ["python -m big_audio.tools.prepare_features"],
  ),
  "convert-weights": (
    "weights of public models to ours and back",
    ["python -m big_audio.tools.convert_weights"],
  ),
  "codec": ("encode, decode or describe audio files", ["python -m proj.meanflow_codec.codec"]),
  "configs": ("every config with its arguments", ["python -m big_audio.tools.list_configs"]),
  "bench": ("speed of one part", ["python -m big_audio.tools.bench"]),
  "clean": ("remove caches; --dry-run only lists them", ["python -m big_audio.tools.clean"]),
  "summary": ("modules, shapes and parameters of a config", ["python -m big_audio.tools.summary"]),
  "train-vimh": (
    "parameters of a synthesiser from spectrograms",
    [f"{_TRAIN}vimh.py --workdir runs/vimh"],
  ),
  **run_vimh.COMMANDS,
}


def commands(name, arguments=()):
  """The command lines of a short name.

  Args:
    name: str, a key of COMMANDS.
    arguments: str each, appended to the last command; they replace a {default} in it.

  Returns:
    list of lists of str.

  Raises:
    ValueError: unknown name, with the nearest ones.
  """
  if name not in COMMANDS:
    close = difflib.get_close_matches(name, COMMANDS, n=3, cutoff=0.4)
    hint = f"Did you mean {' or '.join(close)}?" if close else f"Known: {', '.join(COMMANDS)}."
    raise ValueError(f"run: {name!r} is no command. {hint}")
  lines = [shlex.split(text) for text in COMMANDS[name][1]]
  last = lines[-1]
  default = last.pop()[1:-1] if last[-1].startswith("{") else None
  last += list(arguments) or ([default] if default else [])
  return lines


def _program(word):
  """The interpreter for "python", else the script installed beside it, else what PATH has."""
  if word == "python":
    return sys.executable
  beside = os.path.join(os.path.dirname(sys.executable), word)
  found = beside if os.access(beside, os.X_OK) else shutil.which(word)
  if not found:
    raise ValueError(f"run: {word} is not installed: `uv sync` installs the developer tools.")
  return found


def main(argv):
  """Runs a short name; returns the exit status of the first command that fails, else 0."""
  if len(argv) < 2 or argv[1] in ("--list", "-h", "--help"):
    width = max(map(len, COMMANDS))
    for name, (about, lines) in COMMANDS.items():
      print(f"{name:<{width}}  {about}\n{'':<{width}}    {'; '.join(lines)}")
    return 0 if len(argv) > 1 else 2
  root = pathlib.Path(__file__).resolve().parents[2]
  try:
    for line in commands(argv[1], argv[2:]):
      program = _program(line[0])
      print("$", shlex.join(line), flush=True)
      status = subprocess.run([program, *line[1:]], cwd=root, check=False).returncode
      if status:
        return status if status > 0 else 128 - status
  except ValueError as e:
    print(e, file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv))
