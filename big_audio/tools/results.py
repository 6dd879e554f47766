"""Numbers of many runs in one long list, for tables and plots.

A record is one number: {"run", "workdir", "step", "evaluator", "split", "row", "nfe", "measure",
"value", "settings"}, and of an evaluation "ema", "dtype" and "key"; a run without any number is one
whose measure is None and whose value tells what became of it. Sources are the JSON of
`big_audio.tools.evaluate`, workdirs (the latest value of each metric) and folders of workdirs such
as a sweep's.
"""

import json
import math
import os
import re
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from big_audio import config as C
from big_audio import metrics
from big_audio.tools import evaluate, manifests, runs

OWN = ("run", "step", "evaluator", "split", "row", "nfe", "ema", "dtype", "measure", "key")
# Which number of which run: two of one place are two evaluations, never repetitions.
PLACE = ("workdir", "step", "evaluator", "row", "measure")
SEEDS = ("seed", "config.seed")  # runs that differ in these alone are repetitions
# Rows that no model made, of audio_distance, image_distance, frechet and proj.vimh.
CONTROLS = ("identity", "zero", "mean", "unrelated", "real", "constant", "chance")
HIGHER = (
  "si_sdr", "pesq_nb", "pesq_wb", "stoi", "estoi", "visqol_speech", "visqol_audio", "psnr", "ssim",
  "accuracy", "balanced_accuracy", "precision", "recall", "density", "coverage", "perplexity",
  "usage", "code_perplexity", "code_usage",
)  # fmt: skip
LOWER = (
  "mel", "dac_mel", "dac_train_mel", "dac_stft", "lsd", "mr_stft", "mse", "ae_mse", "loss", "fd",
  "kid", "coded_bits", "coded_bits_given_previous", "rtf_enc", "rtf_dec", "rtf_encode", "rtf_ae",
)  # fmt: skip
# Names that hold a number of evaluations, a generation or a head.
HIGHER_LIKE = re.compile(r"gen\d+_same_codes|\w+_(?:accuracy|within1)|within1")
LOWER_LIKE = re.compile(r"rtf_nfe\d+|gen\d+|(?:nfe\d+|ae)_to_original|\w+_mae")


def load(sources: Iterable[str]) -> list[dict]:
  """The records of all sources.

  Raises:
    ValueError: a source that is none, or without a single number.
  """
  out = []
  for source in sources:
    if str(source).endswith(".json"):
      found = _from_json(str(source))
    else:
      found = [r for workdir, _ in runs.expand([source]) for r in _from_workdir(workdir)]
      found += _failed(str(source), {r["run"] for r in found})
    if not found:
      raise ValueError(f"{source}: holds no number yet.")
    out += found
  return out


def _from_json(path):
  if not os.path.isfile(path):
    raise ValueError(f"{path}: no such file.")
  out = []
  for row in evaluate.read(path):
    base = {k: row.get(k) for k in ("workdir", "step", "evaluator", "split", "row", "nfe", "ema",
                                    "dtype", "key")}  # fmt: skip
    base.update(run=os.path.basename(os.path.normpath(row["workdir"])), settings=row["settings"])
    values = row.get("values") or ({} if not row.get("error") else {None: "failed"})
    out += [{**base, "measure": k, "value": number(v)} for k, v in values.items()]
  return out


def _from_workdir(workdir):
  path = os.path.join(workdir, metrics.FILE)
  latest = {}
  for row in metrics.read_rows(path) if os.path.isfile(path) else []:
    latest.update({k: (row["step"], v) for k, v in row.items() if k.startswith("val/")})
  splits = runs.value(workdir, "config.evals", {}) or {}
  settings, out = runs.settings(workdir), []
  for (evaluator, row, measure), (step, value) in _placed(latest).items():
    data = splits.get(evaluator, {}).get("data", {})
    out.append(dict(
      run=os.path.basename(workdir), workdir=workdir, step=step, evaluator=evaluator, row=row,
      split=evaluate.split_of(data), nfe=evaluate.nfe_of(row), measure=measure, value=value,
      settings=settings,
    ))  # fmt: skip
  return out


def _placed(latest):
  """{(evaluator, row, measure): (step, value)} of {"val/evaluator/row/measure": the same}.

  A measure whose package is missing stands as "unavailable" in every row of its evaluator.
  """
  out, missing = {}, {}
  for name, found in latest.items():
    _, evaluator, *rest = name.split("/")
    row, measure = "/".join(rest[:-1]), rest[-1] if rest else evaluator
    (missing if row == evaluate.UNAVAILABLE else out)[evaluator, row, measure] = found
  for (evaluator, _, measure), (step, _) in missing.items():
    for row in {r for e, r, _ in out if e == evaluator and r} or {""}:
      at = evaluator, row, measure
      if at not in out or out[at][0] < step:
        out[at] = step, evaluate.UNAVAILABLE
  return out


def _failed(root, with_numbers):
  """Runs of a sweep that left no number: a table has to show them."""
  return [
    dict(run=r["name"], workdir=os.path.join(root, r["name"]), step=None, measure=None,
         value=r["state"], settings=r.get("settings") or {})
    for r in manifests.read(os.path.join(root, runs.SWEEP), missing_ok=True)
    if r["name"] not in with_numbers
  ]  # fmt: skip


def number(v: Any) -> float | str:
  """A number, or the text that stands in its place ("unavailable")."""
  if isinstance(v, str):
    return float(v) if v.lower() in ("nan", "inf", "-inf") else v
  return float(v)


def get(record: dict, key: str) -> Any:
  """What a record has under one of OWN, a setting of its sweep, or `config.a.b` of its config."""
  if key in OWN:
    return record.get(key)
  found = runs.value(record["workdir"], key, record["settings"])
  return json.dumps(found) if isinstance(found, (dict, list)) else found


def check_keys(records: Sequence[dict], keys: Iterable[str]) -> None:
  """Raises a ValueError for a key that no record has."""
  for key in keys:
    if all(get(r, key) is None for r in records):
      known = [*OWN, *dict.fromkeys(k for r in records for k in r["settings"])]
      raise ValueError(
        f"no run has {key!r}. {C.nearest(key, known)} Keys of a stored config are written "
        "config.trainer.method."
      )


def where(records: Sequence[dict], conditions: Iterable[str]) -> list[dict]:
  """The records for which all `key=value` (or `key=a/b`, one of several) hold.

  Runs without any number stay unless a setting of theirs speaks against it.

  Raises:
    ValueError: a condition without "=", a key that no record has, or nothing that is left.
  """
  out = list(records)
  for condition in conditions:
    key, eq, text = condition.partition("=")
    if not eq:
      raise ValueError(f"{condition!r}: expected KEY=VALUE or KEY=A/B.")
    check_keys(out, [key])
    wanted = {text, *text.split("/")}
    lost = lambda r: r["measure"] is None and get(r, key) is None  # noqa: B023
    kept = [r for r in out if lost(r) or str(get(r, key)) in wanted]
    if not [r for r in kept if not lost(r)]:
      there = dict.fromkeys(str(get(r, key)) for r in out if get(r, key) is not None)
      raise ValueError(f"{condition!r} leaves nothing. {C.nearest(text, there)}")
    out = kept
  return out


def groups(records: Sequence[dict], keys: Sequence[str]) -> dict[tuple, list[dict]]:
  """{values of the keys: records}, each holding repetitions of one thing only.

  Raises:
    ValueError: records of a group differ in more than the seed; names in what. Or two are numbers
      of one run for the same thing.
  """
  out = {}
  for r in records:
    out.setdefault(tuple(get(r, k) for k in keys), []).append(r)
  for at, members in out.items():
    names = dict.fromkeys(
      [*(k for k in OWN if k not in ("run", "key")), *(k for r in members for k in r["settings"])]
    )
    if not any(r["settings"] for r in members):
      names["run"] = None
    differ = {
      k: sorted({str(get(r, k)) for r in members})
      for k in names
      if k not in SEEDS and k not in keys and len({str(get(r, k)) for r in members}) > 1
    }
    if differ:
      told = "; ".join(f"{k}: {', '.join(v[:6])}" for k, v in differ.items())
      place = ", ".join(f"{k}={v}" for k, v in zip(keys, at, strict=True)) or "the table"
      raise ValueError(
        f"{len(members)} numbers fall together at {place}; they differ in {told}. Add such a key "
        "to --rows or --columns, or choose with --where KEY=VALUE."
      )
    _each_once(members)
  return out


def _each_once(records):
  seen = {}
  for r in records:
    at = tuple(r.get(k) for k in PLACE)
    if at not in seen:
      seen[at] = r.get("key")
      continue
    told = f"{len(records)} numbers fall together; two are the {at[4]} of {at[0]}, step {at[1]}, "
    told += f"{at[2]}/{at[3]}"
    if seen[at] == r.get("key"):
      raise ValueError(f"{told}. Name each source once.")
    raise ValueError(
      f"{told}, by evaluations with other settings. Choose with --where key={seen[at]} or "
      f"key={r.get('key')}."
    )


def summary(values: Sequence[float | str]) -> dict:
  """{"median", "low", "high", "n", "text"} of repetitions; text alone where none is a number."""
  numbers = [v for v in values if not isinstance(v, str) and not math.isnan(v)]
  if not numbers:
    odd = next((v for v in values if isinstance(v, str)), "NaN")
    return dict(median=None, low=None, high=None, n=0, of=len(values), text=odd)
  return dict(
    median=statistics.median(numbers), low=min(numbers), high=max(numbers), n=len(numbers),
    of=len(values), text="",
  )  # fmt: skip


def is_control(record: dict) -> bool:
  """Whether a number is of a row such as "identity" or "mean", which no model made."""
  return record.get("row") in CONTROLS


def better(measure: str) -> str:
  """ "min", "max" or "none" for a measure by its name; that over halves is like that over all."""
  leaf = measure.rsplit("/", 1)[-1].removesuffix("_half")
  if leaf in HIGHER or HIGHER_LIKE.fullmatch(leaf):
    return "max"
  return "min" if leaf in LOWER or LOWER_LIKE.fullmatch(leaf) else "none"
