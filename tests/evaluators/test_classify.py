"""Accuracy, confusion, and an embedder that another run's evaluator opens by its workdir."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from big_audio import config as C
from big_audio import inference, sharding, train_loop
from big_audio.datasets import digits
from big_audio.evaluators import classify

TEST = dict(source="digits", split="validation", pp="keep('image', 'label')")


def mesh():
  return sharding.make_mesh(jax.devices()[:1])


def predict(state, batch, rng):
  """Takes every third class for its successor."""
  label = batch["label"]
  found = jnp.where(label % 3 == 0, label + 1, label)
  return {"label": jax.nn.one_hot(found, 10), "target/label": label}


def run(tmp_path, fn=predict, **kw):
  kw = dict(data=TEST, batch_size=50, mesh=mesh(), workdir=str(tmp_path), **kw)
  return dict(classify.Evaluator({"classify": fn}, **kw).run({"step": jnp.int32(7)}))


def test_accuracy_classes_and_confusion(tmp_path):
  names = dict(label=[f"n{i}" for i in range(10)])
  got = run(tmp_path, names=names)
  source = digits.Source("validation")
  labels = np.array([source[i]["label"] for i in range(len(source))])
  assert got["items"] == len(labels)
  assert got["label/accuracy"] == pytest.approx(np.mean(labels % 3 != 0))
  assert got["label/balanced_accuracy"] == pytest.approx(0.6)
  assert got["label/class/n1"] == 1 and got["label/class/n3"] == 0
  with open(tmp_path / "samples" / "7" / "confusion_label.csv") as f:
    table = list(csv.reader(f))
  assert table[0][1:] == names["label"]
  matrix = np.array([row[1:] for row in table[1:]], int)
  np.testing.assert_array_equal(matrix.sum(1), np.bincount(labels, minlength=10))
  assert matrix[3, 4] == np.sum(labels == 3) and matrix[3, 3] == 0


def test_data_that_do_not_fit(tmp_path):
  few = lambda *a: {k: v[:, :4] if k == "label" else v for k, v in predict(*a).items()}
  with pytest.raises(ValueError, match="4 classes, the data classes 0 to 9"):
    run(tmp_path, few)
  with pytest.raises(ValueError, match="no target"):
    run(tmp_path, lambda *a: {"label": predict(*a)["label"]})


def test_a_trained_embedder_judges_another_run(tmp_path):
  one = mesh()
  config = C.load("configs/classifier.py:smoke", ["total_steps=2"])
  last = train_loop.train(config, str(tmp_path / "embed"), mesh=one)
  assert 0 <= last["val/accuracy/label/accuracy"] <= 1
  aux = {"embed": f"{tmp_path}/embed:embed"}
  kw = dict(type="frechet", key="image", aux=aux, data=TEST, batch_size=64, limit=64, nfe=[1],
            halves=1)  # fmt: skip
  reconstruct = lambda state, batch, rng, nfe: {"image": 0.5 * batch["image"]}
  node = C.canonical(dict(evals=dict(fid=kw)))
  # On two devices, while the embedder's parameters lie on one.
  two = sharding.make_mesh(jax.devices()[:2])
  with jax.set_mesh(two):
    made = train_loop.make_evaluators(
      node, {"reconstruct": reconstruct}, two, str(tmp_path), total=10, units={}
    )
    got = dict(made["fid"][1].run({}))
  assert got["dims"] == 32 and got["nfe1/fd"] > 0 and got["real/fd_half"] > 0

  for spec, words in (
    (f"{tmp_path}/embed:embd", 'Did you mean "embed"'),
    (f"{tmp_path}/embed:2", "workdir:function"),
    (f"{tmp_path}/embd:embed", "not the workdir of a run"),
  ):
    with pytest.raises(ValueError, match=words):
      inference.open_aux("config.evals.fid.aux", {"embed": spec})
  with pytest.raises(ValueError, match="expected"):
    inference.open_aux("config.evals.fid.aux", "runs/x:embed")
