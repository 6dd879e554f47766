"""Every config with what it is for and its arguments.

  python -m big_audio.tools.list_configs [FOLDER]

An argument is set behind a colon: `--config configs/meanflow.py:method=ae,smoke`.
"""

import os
import sys
import textwrap

from absl import app

from big_audio import config as C


def default_folder():
  """The folder of the configs that came with this package."""
  import configs

  return os.path.relpath(os.path.dirname(configs.__file__))


def describe(path):
  """One config as text: path, first paragraph of its docstring, arguments with defaults.

  Args:
    path: str, a config file.

  Returns:
    str of several lines; of an argument with choices all are shown, the default first.
  """
  about = " ".join(C.docstring(path).split("\n\n")[0].split()) or "(no docstring)"
  lines = [path, *textwrap.wrap(about, 96, initial_indent="  ", subsequent_indent="  ")]
  arguments = C.arguments(path)
  width = max(map(len, arguments), default=0)
  for name, default in arguments.items():
    if isinstance(default, tuple):
      shown = " | ".join(map(str, default))
    else:
      shown = repr(default) if default in ("", None) else str(default)
    lines.append(f"    {name:<{width}} = {shown}")
  return "\n".join(lines)


def find(folder):
  """Paths of the config files of a folder, sorted; raises ValueError where there are none."""
  names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
  names = [n for n in names if n.endswith(".py") and not n.startswith("_")]
  if not names:
    what = "no config there" if os.path.isdir(folder) else "no such folder"
    raise ValueError(f"list_configs: expected a folder of configs, got {folder!r}: {what}.")
  return [os.path.join(folder, n) for n in names]


def main(argv):
  """Prints the configs of a folder; exits with 1 if one cannot be loaded."""
  try:
    paths = find(argv[1] if len(argv) > 1 else default_folder())
  except ValueError as e:
    sys.exit(str(e))
  broken = 0
  for i, path in enumerate(paths):
    try:
      text = describe(path)
    except Exception as e:  # one broken file must not hide the others
      text, broken = f"{path}\n  cannot be loaded: {type(e).__name__}: {e}", broken + 1
    print(("\n" if i else "") + text)
  sys.exit(1 if broken else 0)


if __name__ == "__main__":
  app.run(main)
