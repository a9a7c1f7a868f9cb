"""How well a linear classifier answers a question."""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from featcache.methods.pretext.leaks.cues import Question
from featcache.metrics.intervals import Metric, accuracies, rank_of_truth
from featcache.metrics.settings import IntervalSettings

NUM_FOLDS = 5


def mean_class_accuracy(question: Question, *, intervals: IntervalSettings, seed: int) -> Metric:
    """Accuracy of logistic regression, the mean over the answers, so that one answer for all is worth a guess.

    Each fifth of the draws is answered by a classifier trained on the others, which are of the same videos: whatever
    a network could learn by heart counts as told.

    Args:
        question: Features and answers.
        intervals: Settings of the interval.
        seed: Seed of the folds.
    """
    scores = np.full((len(question.answers), question.num_answers), -np.inf)
    for train, test in KFold(NUM_FOLDS, shuffle=True, random_state=seed).split(question.features):
        if len(np.unique(question.answers[train])) == 1:
            scores[test, question.answers[train[0]]] = 0.0
            continue
        model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=2000))
        model.fit(question.features[train], question.answers[train])
        scores[np.ix_(test, model.classes_)] = model.predict_proba(question.features[test])
    ranks = rank_of_truth(scores, question.answers)[None]
    found = accuracies(ranks, question.answers, num_classes=question.num_answers, intervals=intervals)
    return found["mean_class"]
