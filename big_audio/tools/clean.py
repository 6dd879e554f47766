"""Removes caches and build output of the checkout, and what killed runs left behind.

  python -m big_audio.tools.clean --dry-run                    # only list, with sizes
  python -m big_audio.tools.clean --workdirs runs              # leftovers of runs as well

Of runs it takes unfinished checkpoint saves, temporary files, and workdirs that hold nothing but
a config; each only if nothing in it has changed for an hour, so that a live run keeps its own.
Links are never followed, and nothing outside the given folders is touched.
"""

import fnmatch
import os
import pathlib
import shutil
import sys
import time

from absl import app, flags

from big_audio.tools.report import folder_bytes, size_text

CACHES = ("__pycache__", ".pytest_cache", ".ruff_cache", ".hypothesis", ".import_linter_cache")
CACHES += ("*.egg-info",)
TOP_ONLY = ("build", "dist")  # ordinary names further down
KEEP = (".git", ".venv", "venv", "node_modules", "runs", "data")
LEFTOVERS = ("*.orbax-checkpoint-tmp",)
LEFTOVERS += ("metrics.jsonl.tmp", "config.json.tmp", "splits.json.tmp", "report.html.tmp")
IDLE_SECS = 3600


def _is(name, patterns):
  return any(fnmatch.fnmatchcase(name, p) for p in patterns)


def _idle(path, now):
  """Whether nothing at or below `path` has changed for IDLE_SECS."""
  paths = [path, *(os.path.join(r, n) for r, ds, fs in os.walk(path) for n in ds + fs)]
  return now - max(os.lstat(p).st_mtime for p in paths) > IDLE_SECS


def _is_empty_run(path):
  """Whether a folder is a workdir without a single row, checkpoint or sample."""
  if not os.path.isfile(os.path.join(path, "config.json")):
    return False
  for root, _, names in os.walk(path):
    for name in names:
      file = os.path.join(root, name)
      begun = name not in ("config.json", "splits.json")
      if begun and os.lstat(file).st_size and not _is(name, LEFTOVERS):
        return False
      if name == "config.json" and root != path:
        return False
  return not any(
    d.isdigit() for d in os.listdir(path) + _listdir(os.path.join(path, "checkpoints"))
  )


def _listdir(path):
  return os.listdir(path) if os.path.isdir(path) else []


def find_caches(root):
  """Caches and build output below a checkout, sorted; links and KEEP folders are left alone."""
  found = []
  for folder, names, _ in os.walk(root):
    links = [n for n in names if os.path.islink(os.path.join(folder, n))]
    names[:] = sorted(n for n in names if n not in KEEP and n not in links)
    top = os.path.samefile(folder, root)
    take = [n for n in names if _is(n, CACHES) or (top and n in TOP_ONLY)]
    found += [os.path.join(folder, n) for n in take]
    names[:] = [n for n in names if n not in take]
  return sorted(found)


def find_leftovers(workdirs, now=None):
  """What killed runs left below a folder of workdirs, sorted, if idle for IDLE_SECS."""
  now, found = now or time.time(), []
  for folder, names, files in os.walk(workdirs):
    names[:] = sorted(n for n in names if not os.path.islink(os.path.join(folder, n)))
    take = [n for n in names + files if _is(n, LEFTOVERS)]
    runs = [n for n in names if n not in take and _is_empty_run(os.path.join(folder, n))]
    paths = [os.path.join(folder, n) for n in take + runs]
    found += [p for p in paths if not os.path.islink(p) and _idle(p, now)]
    names[:] = [n for n in names if n not in take and n not in runs]
  return sorted(found)


def check_root(root, what):
  """The folder's true path; raises ValueError for a folder that nobody means to clean."""
  true = pathlib.Path(root).resolve()
  if not true.is_dir():
    raise ValueError(f"clean: {what}: expected a folder, got {str(root)!r}.")
  if true == pathlib.Path(true.anchor) or true == pathlib.Path.home().resolve():
    raise ValueError(f"clean: {what}: {true} is too much to search. Name the folder itself.")
  return str(true)


def remove(path, root):
  """Deletes a file, link or folder that lies truly below `root`; raises ValueError elsewhere."""
  parent = os.path.realpath(os.path.dirname(path))  # of the parent: a link itself may be removed
  if os.path.commonpath([parent, os.path.realpath(root)]) != os.path.realpath(root):
    raise ValueError(f"clean: {path} is not below {root}; nothing was removed there.")
  if os.path.isdir(path) and not os.path.islink(path):
    shutil.rmtree(path)
  else:
    os.remove(path)


def clean(root=None, workdirs=None, *, dry_run=False, now=None):
  """Finds and removes; returns [(path, bytes)].

  Args:
    root: a checkout (has pyproject.toml), or None.
    workdirs: a folder of workdirs, or None.
    dry_run: only find.
    now: seconds since the epoch; for tests.

  Raises:
    ValueError: a root that is no checkout, no folder, or / or the home folder.
  """
  found = []
  if root is not None:
    root = check_root(root, "root")
    if not os.path.isfile(os.path.join(root, "pyproject.toml")):
      raise ValueError(f"clean: root: expected a checkout (with pyproject.toml), got {root}.")
    found += [(root, p) for p in find_caches(root)]
  if workdirs is not None:
    workdirs = check_root(workdirs, "--workdirs")
    found += [(workdirs, p) for p in find_leftovers(workdirs, now)]
  out = []
  for base, path in found:
    out.append((path, folder_bytes(path) if os.path.isdir(path) else os.lstat(path).st_size))
    if not dry_run:
      remove(path, base)
  return out


def main(argv):
  """The command line: removes, or with --dry-run lists, and prints sizes."""
  if len(argv) > 1:
    sys.exit(f"clean: expected only flags, got {argv[1:]}.")
  root = pathlib.Path(__file__).resolve().parents[2]
  try:
    # From an installed wheel there is no checkout, only workdirs to clean.
    root = root if (root / "pyproject.toml").is_file() or not _WORKDIRS.value else None
    done = clean(root, _WORKDIRS.value, dry_run=_DRY_RUN.value)
  except ValueError as e:
    sys.exit(str(e))
  for path, size in done:
    print(f"{size_text(size):>9}  {os.path.relpath(path)}")
  verb = "would be removed" if _DRY_RUN.value else "removed"
  print(f"{size_text(sum(s for _, s in done)):>9}  in {len(done)} places {verb}")


if __name__ == "__main__":
  _DRY_RUN = flags.DEFINE_bool("dry-run", False, "only list what would be removed")
  _WORKDIRS = flags.DEFINE_string("workdirs", None, "also clean the workdirs below this folder")
  app.run(main)
