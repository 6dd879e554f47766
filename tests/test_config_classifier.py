"""configs/classifier.py: every variant can be traced through a step, and who sees what."""

import jax
import numpy as np
import pytest

from big_audio import config as C
from big_audio import train_step

CLASSIFIER = "configs/classifier.py:smoke"
FSDD = (
  r"data=audio_dir,dir=x,label=^(\d)_,train=_(1[5-9]|[234]\d)\.wav$,validation=_1[0-4]\.wav$,"
  r"test=_[5-9]\.wav$"
)


@pytest.mark.parametrize(
  "arg, key, shape, target",
  [
    ("data=digits", "image", (8, 8, 1), ()),
    ("data=mnist,dir=x", "image", (28, 28, 1), ()),
    (FSDD, "wav", (8000, 1), ()),
    ("data=notes,sr=16000,secs=0.5", "wav", (8000, 1), (1,)),
  ],
)
def test_every_variant_is_traced_through_a_step(arg, key, shape, target):
  config = C.with_defaults(C.load(f"{CLASSIFIER},{arg}"))
  trainer = C.resolve("trainers", config.trainer.name).Trainer(config, C.build_models(config))
  (head,) = config.models.heads.outputs
  batch = {key: np.zeros((2, *shape), np.float32), head: np.zeros((2, *target), np.int32)}
  opt, make_state = train_step.build_state(config, trainer, batch, {}, total=10, units={})
  update = train_step.make_update(
    trainer, opt, accum=1, total=10, max_skipped=0, phase=train_step.phase(trainer, 9, 10)
  )
  state = jax.eval_shape(make_state, jax.random.key(0), batch, {})
  _, metrics = jax.eval_shape(update, state, batch, jax.random.key(0))
  assert {"loss", "grad_norm", f"{head}_accuracy"} <= metrics.keys()


@pytest.mark.parametrize(
  "arg, train, test",
  [
    ("data=digits", "embed", "test"),
    ("data=mnist,dir=x", "embed", "test"),
    (FSDD, "embed", "test"),
    ("data=notes", "classifier", "test"),
    ("data=digits,split=train", "train", "test"),
  ],
)
def test_an_embedder_trains_on_a_split_of_its_own(arg, train, test):
  config = C.load(f"{CLASSIFIER},{arg}")
  assert config.input.data.train.split == train
  assert {e.data.split for e in config.evals.values()} == {"validation", test}


@pytest.mark.parametrize(
  "arg, words",
  [
    ("data=mnist", "needs dir=PATH"),
    ("data=audio_dir,dir=x", "needs label=REGEX"),
    ("data=audio_dir,dir=x,label=a,train=b", "all of train, validation and test"),
    ("data=digits,sr=16000", "does not take sr"),
    ("data=notes,dir=x", "does not take dir"),
    ("data=digit", '"digits"'),
  ],
)
def test_arguments_that_do_not_fit(arg, words):
  with pytest.raises(ValueError, match=words):
    C.load(f"{CLASSIFIER},{arg}")
