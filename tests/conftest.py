"""Fixtures for all tests, which run on eight simulated CPU devices."""

import gc
import os
import shutil
import tempfile

# Before jax is imported: tests choose how many of the eight they use. Programs run once or twice,
# so most of the time is their compilation: done less thoroughly, without parallel parts, it takes
# two thirds of the time.
os.environ["XLA_FLAGS"] = " ".join(
  [
    os.environ.get("XLA_FLAGS", ""),
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
    "--xla_cpu_parallel_codegen_split_count=1",
  ]
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("NUMBA_OPT", "0")  # librosa compiles with it, in a new environment

from pathlib import Path

import pytest
from absl import flags


def pytest_configure(config):
  # Tracing makes and drops millions of small objects; looking for cycles took a tenth of the time.
  gc.set_threshold(100_000, 20, 50)
  # One folder of compiled programs for the session: its workers and programs that they start.
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    folder = tempfile.mkdtemp(prefix="big_audio_jax_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    config.add_cleanup(lambda: shutil.rmtree(folder))


@pytest.fixture(scope="session", autouse=True)
def absl_flags():
  """Grain and others read absl flags, which only `absl.app.run` parses."""
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()


@pytest.fixture(scope="module", autouse=True)
def heap():
  """Collections look at what this module makes, not at all that earlier ones have compiled."""
  gc.collect()
  gc.freeze()


@pytest.fixture(scope="session")
def data_dir() -> Path:
  """The folder of shared recordings that `BIG_AUDIO_DATA` names; skips where it is not set."""
  folder = os.environ.get("BIG_AUDIO_DATA")
  if not folder:
    pytest.skip("needs real data: set BIG_AUDIO_DATA to the folder with fsdd, esc10, music, mnist")
  return Path(folder)
