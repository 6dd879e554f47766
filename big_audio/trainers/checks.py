"""What trainers check of their config, and of its other parts: what would go wrong late, early."""

import re
from collections.abc import Collection, Iterable, Mapping

from big_audio import config as C


def ranges(**settings) -> None:
  """Raises ValueError for a setting name=(value, most) of the trainer outside of [0, most].

  A value of None stands for the method's own, `most=None` for no bound.
  """
  for key, (value, most) in settings.items():
    if value is not None and (value < 0 or (most is not None and value > most)):
      end = "" if most is None else f" and at most {most}"
      raise ValueError(f"config.trainer.{key}={value!r}: expected 0 or more{end}.")


def averages(config, names: Iterable[str], *, skip: str) -> None:
  """Raises ValueError if the EMA follows a parameter that no average may follow.

  Args:
    config: of the run.
    names: of such parameters.
    skip: of `config.optimizer.ema`, to be advised.
  """
  ema = config.optimizer.get("ema", None)
  given = ema.get("skip", "") if ema else ""
  for name in names if ema else ():
    if not (given and re.fullmatch(given, name)):
      raise ValueError(
        f"config.optimizer.ema.skip={given!r}: {name.rpartition('/')[0]} must not be averaged. "
        f'Use skip="{skip}".'
      )


def evaluations(config, cost: int) -> None:
  """Raises ValueError if an evaluator asks for network evaluations that no step divides.

  Args:
    config: of the run.
    cost: network evaluations of a sampler's step.
  """
  for name, cfg in config.get("evals", {}).items():
    asked = [("nfe", cfg.get("nfe", []))]
    asked += [(f"variants.{k}", v.get("nfe", [])) for k, v in cfg.get("variants", {}).items()]
    for key, counts in asked:
      for n in counts if isinstance(counts, (list, tuple)) else [counts]:
        if n % cost:
          raise ValueError(
            f"config.evals.{name}.{key}={n}: a step of this sampler costs {cost} evaluations; use "
            f"multiples of {cost}."
          )


def edges(
  config, parts: Mapping[str, tuple[str, float]], *, may_be_frozen: Collection[str] = ()
) -> None:
  """Raises ValueError if the optimizer's schedule begins or ends elsewhere than a trainer's phases.

  A model that is moved where nothing trains it drifts, and one that is not moved does not learn.
  An end before the run's needs a rate that falls to it. Durations in units that only the loop can
  convert, and models in several groups, are not looked at.

  Args:
    config: of the run.
    parts: {model: ("begin" or "end", per cent of the run)}.
    may_be_frozen: models that the schedule may freeze.
  """
  rules = config.optimizer.get("schedule", [[".*", {}]])
  for model, (edge, percent) in parts.items():
    # Patterns fit whole names; any parameter of the model will do, where it is one group.
    rule = next((r for r in rules if re.fullmatch(r[0], f"{model}/x")), None)
    if rule is None or (rule[1] is None and model in may_be_frozen):
      continue
    pattern, group = rule
    at = None if group is None else _percent(group, edge, config.get("total_steps", None))
    falls = group is not None and group.get("kind", "constant") in ("cosine", "linear")
    if (
      group is None
      or (at is not None and abs(at - percent) > 0.01)
      or (edge == "end" and percent < 100 and not falls)
    ):
      raise ValueError(
        f"config.optimizer.schedule: {pattern!r} should {edge} at {percent:g} % of the run, as the "
        f"trainer's {model} does; got {'a frozen group' if group is None else C.to_dict(group)}. "
        "Set config.trainer and the schedule alike."
      )


def _percent(group, edge, total):
  """Where a group begins or ends, in per cent of the run; None where only the loop knows."""
  if f"{edge}_percent" in group:
    return group[f"{edge}_percent"]
  if f"{edge}_steps" in group:
    return 100 * group[f"{edge}_steps"] / total if total else None
  given = any(key.startswith(f"{edge}_") for key in group)
  return None if given else {"begin": 0, "end": 100}[edge]
