"""How the process uses its host: compiled programs kept on disk, memory kept by the allocator."""

import contextlib
import ctypes
import importlib.metadata
import os

import jax


def use_compilation_cache() -> None:
  """Keeps compiled programs across runs, unless JAX_COMPILATION_CACHE_DIR says where already."""
  if not jax.config.jax_compilation_cache_dir:
    root = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    jax.config.update("jax_compilation_cache_dir", os.path.join(root, "big_audio", "jax"))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def keep_freed_memory() -> None:
  """Has glibc reuse the buffers of a CPU step instead of mapping fresh pages for each step.

  Without it up to a third of a step is page faults. To be called before the backend starts: its
  threads keep the arenas that they begin with. With an accelerator or without glibc: nothing.
  """
  if jax.config.jax_platforms != "cpu" and importlib.metadata.entry_points(group="jax_plugins"):
    return
  with contextlib.suppress(OSError, AttributeError):
    mallopt = ctypes.CDLL("libc.so.6").mallopt
    # One arena (-8), nothing mapped apart (-4), never trimmed (-1), grown in large pieces (-2).
    for option, value in ((-8, 1), (-4, 0), (-1, -1), (-2, 1 << 28)):
      mallopt(option, value)
