r"""Music similarity from scratch on procedural loops, spoken digits and environmental sounds.

  python -m big_audio.tools.sweep configs/sweeps/ast_tasks.py:data=DIR,seeds=3 --root runs/tasks
  python -m proj.ast_triplet.compare --root runs/tasks

DIR holds fsdd/ (Free Spoken Digit Dataset, wavs in one folder) and esc10/ (metadata.csv with path,
label, fold); tasks=loops needs none. Clips of ESC-10 that were cut from one recording lie in one
fold and count as tracks of their own. What is held out:

| task | class | trained on | judged on |
|---|---|---|---|
| loops | sub-genre | 2700 loops | other loops; and tempos, swings and kits that were never heard |
| speaker | speaker | recordings 15 to 49 | recordings 5 to 9 |
| digits | digit | four speakers | the two others, for each of three pairs |
| esc10 | kind of sound | three folds | the fourth, for each of four |

All items that are not judged are trained on, for a number of steps that was chosen before; one more
run of each is made with steps=0, as it begins.
"""

from big_audio.config import args

PAIRS = ("george|jackson", "lucas|nicolas", "theo|yweweler")
TASKS = ("loops", "speaker", "digits", "esc10")
ARGS = dict(data="", tasks="", seeds=1, smoke=False)


def grids(folder):
  """{task: grids}; settings that belong together are one grid each."""
  fsdd = dict(dir=[f"{folder}/fsdd"])
  digits = []
  for pair in PAIRS:
    rest = "|".join(s for p in PAIRS if p != pair for s in p.split("|"))
    digits.append(dict(fsdd, recipe=["digits"], train=[f"_({rest})_"], test=[f"_({pair})_"]))
  speaker = dict(
    fsdd, recipe=["speaker"], train=[r"_(1[5-9]|[234]\d)\.wav$"], test=[r"_[5-9]\.wav$"]
  )
  esc10 = dict(
    recipe=["sounds"], list=[f"{folder}/esc10/metadata.csv"], fold=["1", "2", "3", "4"],
    validation_share=[0.0],
  )  # fmt: skip
  return dict(loops=[{}], speaker=[speaker], digits=digits, esc10=[esc10])


def get_sweep(arg=""):
  """A grid for each task: trained from several seeds, and untrained once."""
  a = args(arg, ARGS)
  tasks = a.tasks.split("/") if a.tasks else list(TASKS if a.data else TASKS[:1])
  for task in tasks:
    if task not in TASKS:
      raise ValueError(f"configs/sweeps/ast_tasks.py: no task {task!r}, only {', '.join(TASKS)}.")
  if not a.data and tasks != ["loops"]:
    raise ValueError("configs/sweeps/ast_tasks.py: data=DIR is needed for all but tasks=loops.")
  trained = {"steps": [-1], "config.seed": list(range(a.seeds))}
  untrained = {"steps": [0], "config.seed": [0]}
  chosen = [
    {**g, **kind} for kind in (untrained, trained) for task in tasks for g in grids(a.data)[task]
  ]
  return dict(config="configs/ast_triplet.py", fixed=dict(smoke=a.smoke), grid=chosen)
