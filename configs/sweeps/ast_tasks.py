r"""Music similarity from scratch on procedural loops, spoken digits and environmental sounds.

  python -m big_audio.tools.sweep configs/sweeps/ast_tasks.py:data=DIR,seeds=3 --root runs/tasks
  python -m proj.ast_triplet.compare --root runs/tasks

DIR holds fsdd/ (Free Spoken Digit Dataset, wavs in one folder) and esc10/ (metadata.csv with path,
label, fold, freesound_id); tasks=loops needs none. What is held out:

| task | class | trained on | judged on |
|---|---|---|---|
| loops | sub-genre | 5400 loops | other loops; and tempos, swings and kits that were never heard |
| speaker | speaker | recordings 15 to 49 | recordings 5 to 9 |
| digits | digit | four speakers | the two others, for each of three pairs |
| esc10 | kind of sound | three folds | the fourth, for each of four |

Every run is made twice: trained, and with steps=0 as it begins.
"""

from big_audio.config import args

PAIRS = ("george|jackson", "lucas|nicolas", "theo|yweweler")
TASKS = ("loops", "speaker", "digits", "esc10")
ARGS = dict(data="", tasks="loops/speaker/digits/esc10", seeds=1, smoke=False)


def grids(folder):
  """{task: grid}; settings that belong together are one grid each."""
  fsdd = dict(data=["tracks"], dir=[f"{folder}/fsdd"])
  digits = []
  for pair in PAIRS:
    rest = "|".join(s for p in PAIRS if p != pair for s in p.split("|"))
    digits.append({
      **fsdd, "task": ["digits"], "train": [f"_({rest})_"], "test": [f"_({pair})_"],
    })  # fmt: skip
  return dict(
    loops=[dict(task=["loops"])],
    speaker=[dict(
      fsdd, task=["speaker"], train=[r"_(1[5-9]|[234]\d)\.wav$"], test=[r"_[5-9]\.wav$"],
    )],
    digits=digits,
    esc10=[dict(
      task=["esc10"], data=["tracks"], list=[f"{folder}/esc10/metadata.csv"],
      fold=["1", "2", "3", "4"],
    )],
  )  # fmt: skip


def get_sweep(arg=""):
  """A grid for each task, over seeds, trained and untrained."""
  a = args(arg, ARGS)
  tasks = a.tasks.split("/")
  for task in tasks:
    if task not in TASKS:
      raise ValueError(f"configs/sweeps/ast_tasks.py: no task {task!r}, only {', '.join(TASKS)}.")
  if not a.data and tasks != ["loops"]:
    raise ValueError("configs/sweeps/ast_tasks.py: data=DIR is needed for all but tasks=loops.")
  both = {"steps": [-1, 0], "config.seed": list(range(a.seeds))}
  chosen = [{**g, **both} for task in tasks for g in grids(a.data)[task]]
  return dict(config="configs/ast_triplet.py", fixed=dict(smoke=a.smoke), grid=chosen)
