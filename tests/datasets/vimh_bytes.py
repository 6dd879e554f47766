"""VIMH by its description alone: `struct`, `open` and `json`, nothing of the project.

Reads data sets that the project wrote, and makes those that it has to read or refuse.
"""

import json
import random
import struct


def read(folder):
  """{file: [(H, W, C, (spec_min, spec_max) or None, [(id, value)], planes)]} and the JSON.

  planes[c][h][w] are the pixels.
  """
  with open(f"{folder}/vimh_dataset_info.json", encoding="utf-8") as f:
    info = json.load(f)
  scaled = info["label_encoding"]["metadata_bytes"] == 14
  out = {}
  for name in ("train", "test"):
    with open(f"{folder}/{name}", "rb") as f:
      data = f.read()
    at, items = 0, []
    while at < len(data):
      h, w, c = struct.unpack_from("<HHH", data, at)
      at += 6
      scale = None
      if scaled:
        scale = struct.unpack_from("<ff", data, at)
        at += 8
      n = data[at]
      at += 1
      pairs = [(data[at + 2 * k], data[at + 2 * k + 1]) for k in range(n)]
      at += 2 * n
      planes = [
        [[data[at + (k * h + y) * w + x] for x in range(w)] for y in range(h)] for k in range(c)
      ]
      at += h * w * c
      items.append((h, w, c, scale, pairs, planes))
    assert at == len(data) and len(items) == info[f"{name}_samples"]
    out[name] = items
  return out, info


def record(h, w, c, scale, pairs, pixels):
  """The bytes of one record; scale None: the older layout."""
  head = struct.pack("<HHH", h, w, c) + (b"" if scale is None else struct.pack("<ff", *scale))
  return head + bytes([len(pairs)]) + bytes(v for p in pairs for v in p) + bytes(pixels)


def info(h, w, c, train, test, *, ranges, metadata_bytes=14):
  """The JSON object of a data set; ranges {name: (min, max, step)}."""
  out = {
    "format": "VIMH",
    "height": h,
    "width": w,
    "channels": c,
    "varying_parameters": len(ranges),
    "parameter_names": list(ranges),
    "train_samples": train,
    "test_samples": test,
    "sample_rate": 8000,
    "duration": 1.0,
    "synth_type": "simple",
    "parameter_mappings": {
      n: {"min": lo, "step": s, "max": hi, "description": n} for n, (lo, hi, s) in ranges.items()
    },
    "fixed_parameters": {},
    "label_encoding": {"metadata_bytes": metadata_bytes},
  }
  if metadata_bytes is None:
    del out["label_encoding"]
  return out


RANGES = {"note": (36.0, 60.0, 12.0), "decay": (-2.0, 0.3, 0.1), "cutoff": (200.0, 2000.0, 100.0)}


def folder(path, *, h=3, w=4, c=2, train=8, test=3, old=False, metadata_bytes="as it is", order=()):
  """Makes a data set of random pixels, labels and ranges; returns its path.

  Args:
    old: without spec_min and spec_max.
    metadata_bytes: what the JSON states, None nothing.
    order: ids in the records; default 0, 1, 2.
  """
  rng = random.Random(0)
  path.mkdir(parents=True)
  for name, n in (("train", train), ("test", test)):
    data = b""
    for _ in range(n):
      values = [rng.randrange(256) for _ in RANGES]
      pairs = [(i, values[i]) for i in order or range(len(RANGES))]
      scale = None if old else (-rng.uniform(40, 80), rng.uniform(-5, 5))
      data += record(h, w, c, scale, pairs, (rng.randrange(256) for _ in range(h * w * c)))
    (path / name).write_bytes(data)
  stated = (6 if old else 14) if metadata_bytes == "as it is" else metadata_bytes
  change(path, info(h, w, c, train, test, ranges=RANGES, metadata_bytes=stated))
  return path


def change(path, content=None, **keys):
  """Writes the JSON file of a data set, or changes keys of it."""
  file = path / "vimh_dataset_info.json"
  content = json.loads(file.read_text()) | keys if content is None else content
  file.write_text(json.dumps(content))
