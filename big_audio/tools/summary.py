"""What a config trains: its modules with shapes and parameters, its batches, and a drawing of it.

  python -m big_audio.tools.summary --config configs/vimh.py:net=vit_23k
  python -m big_audio.tools.summary --config configs/meanflow.py:smoke --depth 3 --out meanflow.html

The models and the trainer are built and traced with the shapes of one real batch; no parameter is
allocated and nothing is trained. --out FILE.svg or .png draws the modules, .html has the drawing
and the table. --depth counts levels of names: 1 are the models, 2 (the default) their modules.
Drawn shapes are of one item. --flops adds the cost of a training step, before any optimisation by
the compiler.
"""

import argparse
import contextlib
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

import jax
import numpy as np

from big_audio import config as C
from big_audio import inference, input_pipeline, sharding, train_step, trees
from big_audio.nn import trace
from big_audio.tools import diagram, manifests
from big_audio.tools import report_page as page

FORMATS = (".html", ".svg", ".png")
_IDLE = ("Dropout",)  # modules that do nothing a reader looks for


@dataclass
class Row:
  """A module, or a level of names: shapes of one item and what lies at and below it.

  Attributes:
    name: "/"-joined, the model's first.
    kind: class; "" where no module of that name was called.
    outputs: shapes without the batch's axis.
    arrays: {name: shape} of its own parameters, not those of modules in it.
    count, frozen: parameters at and below it; how many of them do not train.
  """

  name: str
  kind: str = ""
  outputs: tuple[tuple[int, ...], ...] = ()
  arrays: dict[str, tuple[int, ...]] = field(default_factory=dict)
  count: int = 0
  frozen: int = 0


@dataclass
class Summary:
  """A config, described.

  Attributes:
    title: how the user named it; trainer: name of the strategy.
    batch: {key: "float32[64,32,32,1]"} of one training batch.
    params: {name: shape} of all parameters; frozen: names of those that do not train.
    others: {collection: numbers} beside the parameters.
    calls: {model: its calls in order}.
    flops: of a step; None where it was not asked for.
  """

  title: str
  trainer: str
  batch: dict[str, str]
  params: dict[str, tuple[int, ...]]
  frozen: frozenset[str]
  others: dict[str, int]
  calls: dict[str, list[trace.Call]]
  flops: float | None = None

  def count(self, prefix: str = "") -> int:
    """Parameters at and below a name; all without one."""
    own = lambda n: not prefix or n == prefix or n.startswith(prefix + "/")
    return sum(math.prod(s) for n, s in self.params.items() if own(n))

  def rows(self, depth: int = 2) -> list[Row]:
    """The modules down to `depth` levels of names, in the order in which they are called."""
    names = {}  # what is called first, then what only has parameters
    for model, calls in self.calls.items():
      names.setdefault(model)
      for c in calls:
        if c.kind not in _IDLE:
          names.setdefault("/".join((model, *c.path)))
    for name in self.params:
      parts = name.split("/")
      for n in range(1, len(parts)):
        names.setdefault("/".join(parts[:n]))
    kinds = {"/".join((m, *c.path)): c for m, calls in self.calls.items() for c in calls}
    rank = {n: i for i, n in enumerate(names)}
    place = lambda n: [rank["/".join(n.split("/")[: i + 1])] for i in range(n.count("/") + 1)]
    out = []
    for name in sorted((n for n in names if n.count("/") < depth), key=place):
      call = kinds.get(name)
      row = Row(name, call.kind if call else "", tuple(s[1:] for s in call.outputs) if call else ())
      for leaf, shape in self.params.items():
        if leaf.startswith(name + "/"):
          row.count += math.prod(shape)
          row.frozen += math.prod(shape) if leaf in self.frozen else 0
          rest = leaf[len(name) + 1 :]
          if "/" not in rest:
            row.arrays[rest] = shape
      out.append(row)
    return out

  def cells(self, depth: int = 2) -> tuple[list[str], list[list[str]]]:
    """(heads, rows of texts) of the table."""
    total, out = max(self.count(), 1), []
    for r in self.rows(depth):
      level = r.name.count("/")
      name = "  " * level + (r.name.rpartition("/")[2] if level else r.name)
      arrays = ", ".join(f"{k} {size(s)}" for k, s in r.arrays.items())
      outputs = " + ".join(map(size, r.outputs[:4])) + (" + ..." if len(r.outputs) > 4 else "")
      kind = {0: ""}.get(r.frozen, "frozen" if r.frozen == r.count else f"{r.frozen:,} frozen")
      share = f"{100 * r.count / total:.1f} %"
      out.append([name, r.kind, outputs, arrays, f"{r.count:,}", share, kind])
    return ["module", "kind", "output", "parameters", "count", "share", ""], out

  def facts(self) -> list[str]:
    """Sentences behind the table."""
    total = self.count()
    frozen = sum(math.prod(self.params[n]) for n in self.frozen)
    lines = [f"{total:,} parameters: {total - frozen:,} trainable, {frozen:,} frozen"]
    if self.others:
      beside = ", ".join(f"{k} {n:,}" for k, n in self.others.items())
      lines.append(f"beside them: {beside} numbers")
    if self.flops is not None:
      lines.append(f"{self.flops:,.0f} floating-point operations a step")
    return lines

  def text(self, depth: int = 2) -> str:
    """Everything as text."""
    head, rows = self.cells(depth)
    if not any(r[-1] for r in rows):
      head, rows = head[:-1], [r[:-1] for r in rows]
    widths = [max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]
    right = {4, 5}
    fit = lambda line: "  ".join(
      f"{x:>{w}}" if i in right else f"{x:<{w}}"
      for i, (x, w) in enumerate(zip(line, widths, strict=True))
    ).rstrip()
    width = max(map(len, self.batch))
    batch = [f"  {k:<{width}}  {v}" for k, v in self.batch.items()]
    lines = [f"{self.title}  (trainer {self.trainer})", "", "batch", *batch, ""]
    return "\n".join([*lines, fit(head), *map(fit, rows), "", *self.facts()])

  def lanes(self, depth: int = 2) -> list[diagram.Lane]:
    """What `diagram` draws: a lane for each model, a box for each module that no other contains."""
    out = []
    for model, calls in self.calls.items():
      root = calls[0]
      levels = depth - 1
      inside = [c for c in calls if c.path and c.kind not in _IDLE]
      shown = [
        c for c in inside if len(c.path) == levels or (len(c.path) < levels and not c.inside)
      ]
      boxes = [
        diagram.Box("/".join(c.path) or model, c.kind, c.outputs[0][1:] if c.outputs else (),
                    self.count("/".join((model, *c.path))), c.takes)
        for c in shown or [root]
      ]  # fmt: skip
      given = root.inputs[0][1:]
      out.append(diagram.Lane(model, root.kind, self.count(model), given, tuple(boxes)))
    return out

  def html(self, depth: int = 2) -> str:
    """One page: drawing, table, batch."""
    head, rows = self.cells(depth)
    # Names are set in by their level; spaces alone would not show.
    rows = [[r[0].replace("  ", "\u2003"), *r[1:]] for r in rows]
    svg = diagram.draw(self.lanes(depth)).svg()
    batch = page.table(["key", "one batch"], list(self.batch.items()))
    facts = "".join(f"<p>{page.text(f)}</p>" for f in self.facts())
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
      f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{page.text(self.title)}"
      f'</title><meta http-equiv="Content-Security-Policy" content="{policy}">'
      f"<style>{page.CSS}.drawing {{ overflow-x: auto; background: #fff; padding: 12px; }} "
      ".drawing svg { width: auto; }</style></head><body><main>"
      f"<h1>{page.text(self.title)}</h1><p class=dim>trainer {page.text(self.trainer)}</p>{facts}"
      f"<h2>Modules</h2><div class='card drawing'>{svg}</div><h2>Parameters</h2>"
      f"{page.table(head, rows)}<h2>Batch</h2>{batch}</main></body></html>\n"
    )


def size(shape) -> str:
  """ "32x32x8"; a scalar is "1"."""
  return "x".join(map(str, shape)) or "1"


def describe(config, title: str = "config", *, flops: bool = False) -> Summary:
  """The summary of a loaded config; one batch is read and nothing allocated.

  Args:
    config: of `config.load`.
    title: how to call it.
    flops: also trace a training step for its cost.

  Raises:
    ValueError: a config or data that do not fit, as training would.
  """
  config = C.with_defaults(config)
  trainer = C.resolve("trainers", config.trainer.name).Trainer(config, C.build_models(config))
  here = C.canonical({"input": {**C.to_dict(config.input), "num_workers": 0}}).input
  with contextlib.closing(input_pipeline.train_batches(here, seed=config.seed)) as batches:
    batch = inference.numeric(next(batches))
  stats = trainer.stats([batch]) if hasattr(trainer, "stats") else {}
  units = dict(
    batch_size=config.input.batch_size, data_size=input_pipeline.num_examples(config.input)
  )
  total = C.steps("total", config, **units)
  with trace.calls() as found:
    shapes = jax.eval_shape(lambda *a: trainer.init(*a), jax.random.key(0), batch, stats)
  opt, make_state = train_step.build_state(config, trainer, batch, stats, total=total, units=units)
  params = {n: tuple(x.shape) for n, x in trees.flatten(shapes["params"]).items()}
  cost = _flops(config, trainer, opt, make_state, batch, stats, total) if flops else None
  return Summary(
    title=title,
    trainer=config.trainer.name,
    batch={
      k: f"{v.dtype}{list(v.shape)}".replace(" ", "") for k, v in batch.items() if k[0] != "_"
    },
    params=params,
    frozen=frozenset(n for n in params if opt.groups[n] == ""),
    others={k: trees.count(v) for k, v in shapes.items() if k != "params" and trees.count(v)},
    calls=_by_model(found, params),
    flops=cost,
  )


def _by_model(found: list[trace.Call], params: Mapping) -> dict[str, list[trace.Call]]:
  """Calls under the names of the parameters' first level, told by which parameters they have."""
  own: dict[str, dict] = {}
  for name, shape in params.items():
    model, _, rest = name.partition("/")
    own.setdefault(model, {})[rest] = shape
  roots = {c.owner: c for c in found if not c.path}
  names: dict[int, str] = {}
  for owner, root in roots.items():
    same = [m for m, tree in own.items() if tree == dict(root.params)]
    free = [m for m in same if m not in names.values()]
    if same:
      names[owner] = (free or same)[0]
  out: dict[str, list[trace.Call]] = {}
  for c in found:
    if c.owner in names:
      calls = out.setdefault(names[c.owner], [])
      if all(c.path != o.path for o in calls):
        calls.append(c)
  return out


def _flops(config, trainer, opt, make_state, batch, stats, total) -> float | None:
  """Operations of a step as it is written, None where the backend does not say."""
  with jax.set_mesh(sharding.make_mesh(jax.devices()[:1])):
    state = jax.eval_shape(make_state, jax.random.key(0), batch, stats)
    phase = train_step.phase(trainer, 0, max(total, 1))
    step = train_step.make_update(
      trainer, opt, accum=config.accum_steps, total=total, max_skipped=0, phase=phase,
      active=opt.active(0),
    )  # fmt: skip
    like = {k: jax.ShapeDtypeStruct(np.shape(v), v.dtype) for k, v in batch.items()}
    cost = jax.jit(step).lower(state, like, jax.random.key(0)).cost_analysis()
  return None if not cost or "flops" not in cost else float(cost["flops"])


def write(summary: Summary, path: str, depth: int = 2) -> None:
  """Writes a drawing or a page, by the name's end."""
  kind = os.path.splitext(path)[1]
  os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
  if kind == ".png":
    diagram.draw(summary.lanes(depth)).png(path)
  else:
    drawing = lambda: diagram.draw(summary.lanes(depth)).svg()
    manifests.replace(path, summary.html(depth) if kind == ".html" else drawing())


def parser() -> argparse.ArgumentParser:
  """The command line."""
  p = argparse.ArgumentParser(
    prog="python -m big_audio.tools.summary", description=__doc__, allow_abbrev=False,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )  # fmt: skip
  p.add_argument("--config", required=True, help="FILE.py[:ARGUMENTS] or a stored config.json; "
                 "--config.a.b=VALUE overrides")  # fmt: skip
  p.add_argument("--out", help=f"a file that ends in {', '.join(FORMATS)}")
  p.add_argument("--depth", type=int, default=2, help="levels of names, default %(default)s")
  p.add_argument("--flops", action="store_true", help="also the cost of a step")
  return p


def main(argv=None) -> int:
  """Prints a summary and draws it; returns the exit status."""
  flags, rest = parser().parse_known_args(argv)
  try:
    if flags.depth < 1:
      raise ValueError(f"--depth {flags.depth}: expected 1 or more.")
    if flags.out and os.path.splitext(flags.out)[1] not in FORMATS:
      raise ValueError(f"--out {flags.out!r}: expected a name that ends in {', '.join(FORMATS)}.")
    overrides = C.overrides_from_argv(rest, ["config", "out", "depth", "flops"])
    summary = describe(C.load(flags.config, overrides), flags.config, flops=flags.flops)
    print(summary.text(flags.depth))
    if flags.out:
      write(summary, flags.out, flags.depth)
      print(flags.out)
  except (ValueError, OSError, ImportError) as e:
    print(f"summary: {e}", file=sys.stderr)
    return 2
  return 0


if __name__ == "__main__":
  sys.exit(main())
