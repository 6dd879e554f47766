"""VIMH data sets: 8-bit spectrograms of a synthesiser's sounds, and the parameters behind each.

    data=dict(x=dict(source="vimh", dir="/data/vimh-32x32x1_8000Hz_1p0s_256dss_simple_2p",
                     split="train", pp="..."))

The folder holds `train`, `test` and `vimh_dataset_info.json` (`datasets.vimh_meta`). `train` is
divided once more: what is judged while training, and what picks a checkpoint, is never the test.
"""

import difflib
import functools
import sys
from pathlib import Path
from typing import Any

import numpy as np

from big_audio.datasets import vimh_meta, vimh_name, vimh_pickle, vimh_records
from big_audio.datasets.vimh_meta import Metadata, Parameter
from big_audio.datasets.vimh_records import Records

FILES = ("train", "test")
SPLITS = ("train", "validation", "test", "all")
FORMS = {"binary": "{}", "pickle": "{}_batch"}


class Source:
  """Items of a data set, see `example`.

  Attributes:
    metadata: what the JSON file says.
  """

  def __init__(
    self,
    dir: str,
    split: str = "train",
    *,
    validation: float = 0.1,
    seed: int = 0,
    classes: str | int = "step",
    form: str = "binary",
  ):
    """Opens and checks the files that the split needs; writes nothing.

    Args:
      dir: the folder.
      split: "train", "validation", "test" or "all", see `choose`.
      validation: share of the file `train` that is kept for validation.
      seed: decides which items these are.
      classes: "step", a class for each step of a parameter, or 256, its byte.
      form: "binary" reads `train` and `test`, "pickle" the pickled `train_batch` and `test_batch`.

    Raises:
      ValueError: a file is missing, damaged, or disagrees with the others or the folder's name.
    """
    folder = Path(dir).expanduser()
    self.metadata = m = vimh_meta.read(folder)
    vimh_name.check(folder, m)
    self._classes = classes
    m.heads(classes)  # raises for others
    for p in m.parameters:
      if classes == "step" and not p.whole:
        _warn(
          f"{m.where}: {p.name}: (max-min)/step = {(p.max - p.min) / p.step:.4g} is not a whole "
          f"number; {p.count()} classes, the last of them stands for {p.values()[-1]:g}."
        )
    where = f"vimh({dir})"
    check_split(split, validation, seed, where)
    needed = {"train": FILES[:1], "validation": FILES[:1], "test": FILES[1:]}.get(split, FILES)
    self._parts = {name: open_file(folder, m, name, form) for name in needed}
    # Behind the files, which hold what the metadata promise or are refused.
    self._chosen = choose(m.train, m.test, split, validation=validation, seed=seed, where=where)

  def __len__(self) -> int:
    return len(self._chosen)

  def __getitem__(self, i: int) -> dict[str, Any]:
    at, name = int(self._chosen[i]), "train"
    if at >= self.metadata.train:
      at, name = at - self.metadata.train, "test"
    part = self._parts[name]
    scale = None if part.scale is None else part.scale[at]
    return example(
      self.metadata, part.image(at), scale, part.labels[at], f"{name}/{at}", self._classes
    )

  def values(self) -> dict[str, np.ndarray]:
    """{parameter: f64[len(self)]}, the true values in physical units, without any picture."""
    m = self.metadata
    none = np.zeros((0, len(m.parameters)), np.uint8)
    parts = [self._parts[n].labels if n in self._parts else none for n in FILES]
    offset = 0 if "train" in self._parts else m.train
    return decoded(m, np.concatenate(parts)[self._chosen - offset])


def decoded(metadata: Metadata, labels: np.ndarray) -> dict[str, np.ndarray]:
  """u8[N,P] labels in the order of ids -> {parameter: f64[N]} in physical units."""
  return {p.name: p.decode(labels[:, i]) for i, p in enumerate(metadata.parameters)}


def example(
  metadata: Metadata,
  image: np.ndarray,
  scale: np.ndarray | None,
  labels: np.ndarray,
  id: str,
  classes: str | int = "step",
) -> dict[str, Any]:
  """One item.

  Args:
    metadata: names and ranges of the parameters.
    image: u8[H,W,C], row 0 the lowest frequency.
    scale: f32[2], what 0 and 255 stand for (dB), or None where it is unknown.
    labels: u8[P], in the order of ids.
    id: e.g. "train/17".
    classes: "step" or 256.

  Returns:
    {"image": image, "spec_scale": f32[2] (if known), "<parameter>": int32 class,
    "<parameter>/value": f32 in physical units, "id": id}.
  """
  out = {"image": image}
  if scale is not None:
    out["spec_scale"] = np.array(scale, np.float32)
  for p, byte in zip(metadata.parameters, labels, strict=True):
    to_class, to_value = _tables(p, classes)
    out[p.name] = to_class[byte]
    out[f"{p.name}/value"] = to_value[byte]
  out["id"] = id
  return out


def check_split(split: str, validation: float, seed: int, where: str) -> None:
  """Raises ValueError for arguments that `choose` has no items for."""
  if not isinstance(split, str) or split not in SPLITS:
    near = difflib.get_close_matches(str(split), SPLITS)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise ValueError(f'{where}: no split "{split}".{hint} There are {", ".join(SPLITS)}.')
  if not isinstance(validation, int | float) or not 0 <= validation < 1:
    raise ValueError(f"{where}: validation={validation!r}: expected a share in [0, 1).")
  if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
    raise ValueError(f"{where}: seed={seed!r}: expected a whole number of 0 or more.")


def choose(
  train: int,
  test: int,
  split: str,
  *,
  validation: float = 0.1,
  seed: int = 0,
  where: str = "vimh",
) -> np.ndarray:
  """Which items belong to a split.

  Args:
    train, test: number of items in the two files.
    split: "test" is the file `test`; "validation" is floor(validation * train) items of the file
      `train`, by a permutation; "train" is its rest; "all" is everything.
    validation: in [0, 1).
    seed: of the permutation.
    where: how errors call the place.

  Returns:
    i64[n], ascending; item k of the file `test` is train + k.

  Raises:
    ValueError: as `check_split`.
  """
  check_split(split, validation, seed, where)
  if split == "all":
    return np.arange(train + test)
  if split == "test":
    return train + np.arange(test)
  held = int(validation * train + 1e-9)  # 0.29 * 100 is a little below 29
  order = np.random.default_rng(seed).permutation(train)
  return np.sort(order[:held] if split == "validation" else order[held:])


def open_file(folder: Path, metadata: Metadata, name: str, form: str = "binary") -> Records:
  """The records of the file "train" or "test", in one of its forms.

  Raises:
    ValueError: there is no such form or file; it is damaged.
  """
  if form not in FORMS:
    raise ValueError(f"vimh({folder}): form={form!r}: expected {' or '.join(FORMS)}.")
  path = folder / FORMS[form].format(name)
  if not path.is_file():
    others = [f for f in FORMS if f != form and (folder / FORMS[f].format(name)).is_file()]
    hint = (
      f'There is {FORMS[others[0]].format(name)}: say form="{others[0]}" to read it, or convert it '
      f"with python -m big_audio.tools.make_vimh convert."
      if others
      else f"Its other form is missing too. The folder has "
      f"{', '.join(sorted(p.name for p in folder.iterdir())[:8])}; copy the data set again."
    )
    raise ValueError(f"vimh: {path} is missing. {hint}")
  read = vimh_records.open_records if form == "binary" else vimh_pickle.read
  return read(path, metadata, getattr(metadata, name))


@functools.lru_cache(maxsize=1024)
def _tables(parameter: Parameter, classes) -> tuple[np.ndarray, np.ndarray]:
  """(i32[256] classes, f32[256] values) of all bytes."""
  every = np.arange(256, dtype=np.uint8)
  return parameter.to_class(every, classes), parameter.decode(every).astype(np.float32)


@functools.lru_cache(maxsize=1024)
def _warn(text: str) -> None:
  """Says it once in a process."""
  print(text, file=sys.stderr)
