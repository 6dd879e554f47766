"""The Hugging Face hub: the table of a data set, without the package `datasets`; model weights."""

import contextlib
import csv
import importlib
import json
import logging
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator

_TABLES = (".parquet", ".csv", ".jsonl", ".json")
_OTHER = re.compile(r"(^|[/_.-])(test|val|valid|validation|dev)([/_.-]|$)")


def need(package: str):
  """The imported package of the extra `download`; raises an ImportError that names the extra."""
  try:
    return importlib.import_module(package)
  except ImportError as e:
    raise ImportError(
      f"the package {package.replace('_', '-')} is missing: `uv sync --extra download` "
      "or `pip install -e '.[download]'`."
    ) from e


def files_of(split: str, names: list[str]) -> list[str]:
  """The tables of a split among the files of a repository, sorted.

  Files that carry the split's name; without any, all that carry no other split's name, since an
  unnamed table is the train split. One kind of file only, parquet before csv before JSON.
  """
  tables = [n for n in names if n.endswith(_TABLES) and not os.path.basename(n).startswith(".")]
  # Descriptions of the repository are no tables.
  tables = [n for n in tables if os.path.basename(n) not in ("dataset_infos.json", "metadata.json")]
  own = re.compile(rf"(^|[/_.-]){re.escape(split)}([/_.-]|$)")
  chosen = [n for n in tables if own.search(n)]
  if not chosen and split == "train":
    chosen = [n for n in tables if not _OTHER.search(n)]
  for suffix in _TABLES:
    if kind := sorted(n for n in chosen if n.endswith(suffix)):
      return kind
  return []


def rows_of(path: str, columns) -> Iterator[dict]:
  """Rows of a parquet, csv or JSON-lines file; of parquet only these columns, if it has any."""
  if path.endswith(".parquet"):
    parquet = need("pyarrow.parquet")
    with parquet.ParquetFile(path) as table:
      names = table.schema_arrow.names
      wanted = [n for n in names if n.lower() in columns] or names
      for batch in table.iter_batches(columns=wanted):
        yield from batch.to_pylist()
  elif path.endswith(".csv"):
    with open(path, newline="", encoding="utf-8") as f:
      yield from csv.DictReader(f)
  else:
    with open(path, encoding="utf-8") as f:
      text = f.read()
    if text.lstrip().startswith("["):
      yield from json.loads(text)
    else:
      yield from (json.loads(line) for line in text.split("\n") if line.strip())


def _reach(endpoint: str) -> None:
  """Raises an OSError within seconds where there is no network; the hub's client would retry."""
  with contextlib.suppress(urllib.error.HTTPError):  # which is an answer
    urllib.request.urlopen(endpoint, timeout=15).close()  # minds the proxies of the environment


def read_split(repo: str, split: str, columns, cache, endpoint: str | None = None) -> list[dict]:
  """All rows of a split.

  Args:
    repo: "owner/name" of a data set.
    split: "train", "test", ...
    columns: lower-case names of the columns that are wanted.
    cache: folder for the fetched files.
    endpoint: of the hub; default the environment's HF_ENDPOINT, else huggingface.co.

  Raises:
    ImportError: the extra `download` is not installed.
    ValueError: the hub cannot be reached or has no such data set, split or readable table.
  """
  hf = need("huggingface_hub")
  endpoint = endpoint or os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
  logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # what fails is told once, below
  try:
    _reach(endpoint)
    names = hf.HfApi(endpoint=endpoint).list_repo_files(repo, repo_type="dataset")
    found = files_of(split, names)
    if not found:
      raise ValueError(f"{repo} has no table of the split {split!r}, only {', '.join(names[:10])}.")
    paths = [
      hf.hf_hub_download(
        repo, n, repo_type="dataset", endpoint=endpoint, cache_dir=os.fspath(cache)
      )
      for n in found
    ]
  except ValueError:
    raise
  except Exception as e:  # httpx, OSError and the hub's own: all mean that the list is not here
    why = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
    raise ValueError(
      f"the list {repo} cannot be fetched from {endpoint}: {why[:200]}. Is there a network? "
      "HF_ENDPOINT names a mirror, --output-dir a folder with list.jsonl."
    ) from None
  return [row for path in paths for row in rows_of(path, columns)]


def fetch_weights(repo: str, revision: str | None = None, endpoint: str | None = None) -> str:
  """The folder, in the hub's cache, of a model's weights, config.json and README.md.

  Args:
    repo: "owner/name" of a model.
    revision: branch, tag or commit; default the newest.
    endpoint: of the hub; default the environment's HF_ENDPOINT, else huggingface.co.

  Raises:
    ImportError: huggingface_hub is not installed.
    ValueError: the hub cannot be reached or has no such model, revision or weights.
  """
  hf = need("huggingface_hub")
  # The HTTP library beneath changes with the hub's version; the hub's error derives from its error.
  failures = (*need("huggingface_hub.errors").HfHubHTTPError.__bases__, OSError, ValueError)
  endpoint = endpoint or os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
  try:
    _reach(endpoint)
    names = hf.HfApi(endpoint=endpoint).list_repo_files(repo, revision=revision)
    weights = [n for n in names if re.fullmatch(r"model([.-].*)?\.safetensors(\.index\.json)?", n)]
    weights = weights or [n for n in names if n == "pytorch_model.bin"]
    if not weights:
      raise ValueError(f"it has no model.safetensors, only {', '.join(names[:10])}")
    wanted = [*weights, *(n for n in names if n in ("config.json", "README.md"))]
    return hf.snapshot_download(repo, revision=revision, endpoint=endpoint, allow_patterns=wanted)
  except failures as e:
    why = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
    raise ValueError(
      f"the model {repo} cannot be fetched from {endpoint}: {why[:200]}. Is there a network? "
      "HF_ENDPOINT names a mirror; a downloaded file or folder may be given in its place."
    ) from None
