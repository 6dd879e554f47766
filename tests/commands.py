"""Runs of the real command line, and how to compare what two runs have left."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

ROOT = Path(__file__).parents[1]
MARK = "BIG_AUDIO_TEST_RUN"  # in the environment of a run and all processes that it starts


def command(config, workdir, *flags):
  """The command line of `train.py`; flags such as "seed=1" override keys of the config."""
  overrides = [f if f.startswith("--") else f"--config.{f}" for f in flags]
  return [sys.executable, "train.py", "--config", config, "--workdir", str(workdir), *overrides]


def start(argv, log, *, cache=None, **env):
  """Starts a command in a session of its own; all that it prints goes to the file `log`."""
  env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": "1", **env}
  env.pop("XLA_FLAGS", None)  # one device, whatever the tests of this process simulate
  if cache is not None:
    env["JAX_COMPILATION_CACHE_DIR"] = str(cache)
  with open(log, "ab") as out:
    return subprocess.Popen(
      argv, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, env=env, start_new_session=True
    )


def finish(argv, log, *, timeout=600, **kw):
  """Runs a command to its end: (exit code, what it printed)."""
  before = os.path.getsize(log) if os.path.exists(log) else 0
  code = start(argv, log, **kw).wait(timeout)
  return code, printed(log)[before:]


def printed(log):
  """The text of a log file."""
  return Path(log).read_text(errors="replace")


def wait_until(condition, process, *, timeout=300, poll=0.002):
  """Whether `condition()` came true while the process lived."""
  end = time.monotonic() + timeout
  while time.monotonic() < end:
    if condition():
      return True
    if process.poll() is not None:
      return False
    time.sleep(poll)
  raise TimeoutError(f"process {process.pid}: nothing happened in {timeout} s")


def rows(workdir, *, z=False):
  """Rows of metrics.jsonl, without the wall-clock values unless `z`."""
  text = (Path(workdir) / "metrics.jsonl").read_text()
  found = [json.loads(line) for line in text.splitlines()]
  return [{k: v for k, v in r.items() if z or not k.startswith("z/")} for r in found]


def last_step(workdir):
  """The step of the last whole row of a metrics.jsonl that may be growing; 0 without any."""
  try:
    with open(Path(workdir) / "metrics.jsonl", "rb") as f:
      f.seek(max(0, os.fstat(f.fileno()).st_size - 8192))
      lines = f.read().split(b"\n")[:-1]
    return json.loads(lines[-1])["step"] if lines else 0
  except (FileNotFoundError, ValueError):
    return 0


def steps(workdir):
  """Complete checkpoints."""
  folder = Path(workdir) / "checkpoints"
  return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit())


def whole_state(workdir, step=None):
  """{name: array} of everything in a checkpoint: parameters, EMA, optimizer, vars, ctl, step."""
  step = steps(workdir)[-1] if step is None else step
  path = Path(workdir).resolve() / "checkpoints" / str(step) / "state"
  reader = ocp.PyTreeCheckpointer()
  shapes = reader.metadata(path).item_metadata.tree
  how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
  state = reader.restore(path, args=ocp.args.PyTreeRestore(restore_args=how))
  return {jax.tree_util.keystr(k): v for k, v in jax.tree_util.tree_leaves_with_path(state)}


def assert_same_run(a, b):
  """The last checkpoints are equal bit for bit, and so is every metric row outside `z/`."""
  assert rows(a) == rows(b)
  one, two = whole_state(a), whole_state(b)
  assert one.keys() == two.keys()
  kinds = {name.split("'")[1] for name in one}
  assert {"params", "opt", "ctl", "step"} <= kinds
  for name in one:
    assert one[name].dtype == two[name].dtype
    assert np.asarray(one[name]).tobytes() == np.asarray(two[name]).tobytes(), name


def marked(value):
  """{pid: command line} of the living processes whose environment holds MARK=value."""
  found = {}
  for entry in Path("/proc").iterdir():
    if entry.name.isdigit() and int(entry.name) != os.getpid():
      try:
        if f"{MARK}={value}".encode() in (entry / "environ").read_bytes().split(b"\0"):
          words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
          if "\nState:\tZ" not in (entry / "status").read_text():
            found[int(entry.name)] = words
      except (OSError, ValueError):
        continue
  return found


def orphans(value, *, patience=10.0):
  """Those of `marked` that are still there after a while."""
  end = time.monotonic() + patience
  while (left := marked(value)) and time.monotonic() < end:
    time.sleep(0.05)
  return left
