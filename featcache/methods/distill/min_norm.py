"""The shortest weighed sum of some vectors, given their products: the quadratic programme of AE-KD.

AE-KD (Du et al., 2020) solves it as the dual of a one-class support vector machine with nu = 1 / (C m), whose duals
over m nu are weights between 0 and C that add to 1. Its code does so with an absolute tolerance of 1e-6: where
gradients are small, the solver stops at its starting point, which depends on the order of the teachers. Here the
tolerance is relative to the vectors, and of several solutions the most equal one is taken.
"""

from collections.abc import Sequence

_EQUAL = 1e-9
"""Weight of the preference for equal weights, relative to the mean squared length; it decides only between ties."""
_TOLERANCE = 1e-12
_MOST_STEPS = 10_000


def smallest_combination(gram: Sequence[Sequence[float]], *, largest: float) -> list[float]:
    """Weights w that minimise w' G w, with 0 <= w <= max(``largest``, 1 / m) and a sum of 1.

    In each step one weight grows and another shrinks, the pair of the steepest descent, as far as is best.

    Args:
        gram: m x m, products of the vectors.
        largest: Largest weight.

    Returns:
        m weights; all 1 / m for vectors of zeros.
    """
    num = len(gram)
    largest = max(largest, 1 / num)
    scale = sum(gram[i][i] for i in range(num)) / num
    weights = [1 / num] * num
    if not 0 < scale < float("inf"):
        return weights
    matrix = [[gram[i][j] / scale + (_EQUAL if i == j else 0.0) for j in range(num)] for i in range(num)]
    slope = [sum(row[j] * weights[j] for j in range(num)) for row in matrix]
    for _ in range(_MOST_STEPS):
        up = min((i for i in range(num) if weights[i] < largest), key=slope.__getitem__, default=0)
        down = max((i for i in range(num) if weights[i] > 0), key=slope.__getitem__)
        descent = slope[down] - slope[up]
        if descent <= _TOLERANCE:
            break
        room = min(largest - weights[up], weights[down])
        step = min(room, descent / (matrix[up][up] + matrix[down][down] - 2 * matrix[up][down]))
        weights[up] = largest if step == largest - weights[up] else weights[up] + step
        weights[down] = 0.0 if step == weights[down] else weights[down] - step
        slope = [each + step * (row[up] - row[down]) for each, row in zip(slope, matrix, strict=True)]
    return weights
