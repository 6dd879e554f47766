"""A linear probe: logistic regression on embeddings that stay as they are. scikit-learn, lazily."""

import numpy as np
import threadpoolctl

STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
_TOLERANCE, _ITERATIONS = 1e-3, 500  # of a fit: accuracies stand still long before the weights do


def linear(
  train_x: np.ndarray, train_y: np.ndarray, train_group: np.ndarray, x: np.ndarray, *,
  folds: int = 3, seed: int = 0,
) -> tuple[np.ndarray, float]:  # fmt: skip
  """Classes that a logistic regression with an L2 penalty finds.

  Features are standardised by training items. The inverse strength C is that of `STRENGTHS` with
  the best accuracy in a cross-validation within the training items, no group in two folds; each
  fold is standardised by its own training part. Test items take part in nothing.

  Args:
    train_x: f32[N,D]; train_y: int[N]; train_group: int[N], the track (or artist) of an item.
    x: f32[M,D].
    folds: at most; fewer where a class has fewer groups.
    seed: of the folds.

  Returns:
    (int[M] classes, C).

  Raises:
    ValueError: values that are not finite, fewer than two classes, a class with one group.
  """
  from sklearn import linear_model, model_selection, pipeline, preprocessing

  train_y, train_group = np.asarray(train_y), np.asarray(train_group)
  if not (np.isfinite(train_x).all() and np.isfinite(x).all()):
    raise ValueError("probe: the embeddings hold values that are not finite.")
  groups = {c: len(np.unique(train_group[train_y == c])) for c in np.unique(train_y)}
  if len(groups) < 2 or min(groups.values()) < 2:
    few = [int(c) for c, n in groups.items() if n < 2]
    raise ValueError(
      f"probe: expected training items of 2 classes or more with 2 tracks each, got "
      f"{len(groups)} classes; of one track only: {few}."
    )
  splits = model_selection.StratifiedGroupKFold(
    min(folds, *groups.values()), shuffle=True, random_state=seed
  )
  regression = linear_model.LogisticRegression(tol=_TOLERANCE, max_iter=_ITERATIONS)
  model = pipeline.make_pipeline(preprocessing.StandardScaler(), regression)
  search = model_selection.GridSearchCV(
    model, {"logisticregression__C": list(STRENGTHS)}, cv=splits, error_score="raise"
  )
  # Its products are small: threads of BLAS would wait for each other.
  with threadpoolctl.threadpool_limits(1, user_api="blas"):
    search.fit(np.float64(train_x), train_y, groups=train_group)
  return search.predict(np.float64(x)), float(search.best_params_["logisticregression__C"])
