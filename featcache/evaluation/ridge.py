"""The probe ``ridge``: a linear regression on the mean vector of each video."""

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import LeaveOneGroupOut
from sklearn.preprocessing import StandardScaler

from featcache.evaluation.probe import Prediction, Task
from featcache.evaluation.settings import RidgeSettings


def ridge(task: Task, settings: RidgeSettings, /) -> Prediction:
    """Standardise the channels by the training videos, fit, and predict each test video's number.

    The penalty is the one with the smallest squared error when each training video (or group of videos) is left out in
    turn; for single videos ridge regression has this error in closed form. A linear map of the mean vector is the mean
    of the map over a video's clips (LVU's protocol).
    """
    assert task.data.targets is not None, "run_probe gives this probe numbers alone"
    scaler = StandardScaler()
    train = scaler.fit_transform(task.data.video_means(task.train).astype(np.float64))
    targets, groups = task.data.targets[task.train], task.groups_of(task.train)
    folds = None  # in closed form
    if len(np.unique(groups)) < len(groups):
        folds = list(LeaveOneGroupOut().split(train, targets, groups))
    model = RidgeCV(alphas=list(settings.alphas), cv=folds, scoring="neg_mean_squared_error").fit(train, targets)
    numbers = model.predict(scaler.transform(task.data.video_means(task.test).astype(np.float64)))
    return Prediction(
        scores=numbers[None, :, None],
        table=({"alpha": float(model.alpha_), "chosen": True, "left_out_mse": -float(model.best_score_)},),
    )
