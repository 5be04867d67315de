"""Logistic regression by Newton's method: small, weighted, with coefficients that stay >= 0.

It is for a handful of features and soft targets, which is what calibration and fusion need.

Letters: P pairs, F features.
"""

from __future__ import annotations

import numpy as np
import scipy

MAX_STEPS = 200
TOLERANCE = 1e-12
LISTWISE_RIDGE = 1e-2
SEPARATED = 1e-9
"""A mean loss so small that the features separate the targets, and steps would never end."""


def sigmoid(logit: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-logit)), without overflow.

    >>> sigmoid(np.array([-1000.0, 0.0, 1000.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    small = np.exp(-np.abs(logit))
    return np.where(logit >= 0, 1.0, small) / (1.0 + small)


def fit_logistic(
    features_PF: np.ndarray,
    target_P: np.ndarray,
    weight_P: np.ndarray,
    *,
    ridge: float = 0.0,
    non_negative: bool = False,
) -> tuple[np.ndarray, float]:
    r"""The coefficients and the intercept of the most likely logistic model.

    Minimises :math:`-\sum_p w_p (t_p \log q_p + (1 - t_p) \log(1 - q_p)) + \frac{r}{2} |c|^2`
    with :math:`q = \mathrm{sigmoid}(c \cdot x + b)`; targets may be anything from 0 to 1, and
    the intercept is not penalised. With ``non_negative`` no coefficient is below 0: those that
    would be are 0 and the others are fitted without them (an active set, left only when the
    gradient of each coefficient at 0 agrees).

    Features should be of about the same size. ValueError when no finite model is the most likely
    one: the targets can be separated, and ``ridge`` is 0.
    """
    feature_count = features_PF.shape[1]
    active_F = np.ones(feature_count, bool)
    seen: set[bytes] = set()
    while True:
        coefficient_F = np.zeros(feature_count)
        coefficient_F[active_F], intercept = _newton(
            features_PF[:, active_F], target_P, weight_P, ridge
        )
        if not non_negative:
            return coefficient_F, intercept
        seen.add(active_F.tobytes())
        if np.any(coefficient_F < 0):
            active_F[np.argmin(coefficient_F)] = False
            continue
        wish_F = _ascent(features_PF, target_P, weight_P, coefficient_F, intercept)
        wish_F[active_F] = 0
        active_F[np.argmax(wish_F)] |= wish_F.max(initial=0.0) > 1e-7 * weight_P.sum()
        if active_F.tobytes() in seen:
            return coefficient_F, intercept


def fit_listwise(features_PF: np.ndarray, same_P: np.ndarray, list_P: np.ndarray) -> np.ndarray:
    r"""The coefficients, none below 0, by which the first of each list is most likely right.

    Minimises :math:`-\frac{1}{L} \sum_l \log \sum_{p \in l, same} q_p + r |c|^2` over the L lists
    (pairs with one code) that have both answers; :math:`q` is the softmax of :math:`c \cdot x` over
    the list: the conditional logit of McFadden 1974, ListNet's loss for the first place (Cao et al.
    2007). What is alike in all of a list, as a query that is like everything, tells nothing. The
    ridge r, `LISTWISE_RIDGE`, is on features whose spread within lists is 1; the coefficients that
    are returned are those of the features as they are.

    ValueError without a list that has both answers.
    """
    _, list_P = np.unique(list_P, return_inverse=True)
    both_L = (np.bincount(list_P, same_P) > 0) & (np.bincount(list_P, ~same_P) > 0)
    rows_P = both_L[list_P]
    if not rows_P.any():
        raise ValueError("no list has pairs of one animal and of two.")
    _, list_P = np.unique(list_P[rows_P], return_inverse=True)
    same_P, size_L = same_P[rows_P], np.bincount(list_P)
    within_PF = np.stack(
        [x_P - (np.bincount(list_P, x_P) / size_L)[list_P] for x_P in features_PF[rows_P].T], axis=1
    )
    spread_F = within_PF.std(axis=0)
    spread_F[spread_F == 0] = 1.0
    within_PF /= spread_F

    def loss(coefficient_F: np.ndarray) -> tuple[float, np.ndarray]:
        logit_P = within_PF @ coefficient_F
        highest_L = np.full(len(size_L), -np.inf)
        np.maximum.at(highest_L, list_P, logit_P)
        part_P = np.exp(logit_P - highest_L[list_P])
        of_all_L, of_same_L = np.bincount(list_P, part_P), np.bincount(list_P, part_P * same_P)
        # A pair of one animal that is far behind may count as nothing in float64.
        of_same_L = np.maximum(of_same_L, np.finfo(np.float64).tiny)
        pull_P = part_P / of_all_L[list_P] - part_P * same_P / of_same_L[list_P]
        value = np.log(of_all_L / of_same_L).mean() + LISTWISE_RIDGE * (coefficient_F**2).sum()
        slope_F = within_PF.T @ pull_P / len(size_L) + 2 * LISTWISE_RIDGE * coefficient_F
        return float(value), slope_F

    bounds = [(0.0, None)] * len(spread_F)
    start_F = np.full(len(spread_F), 0.5)
    found = scipy.optimize.minimize(loss, start_F, jac=True, method="L-BFGS-B", bounds=bounds)
    return np.asarray(found.x / spread_F)


def _newton(
    features_PF: np.ndarray, target_P: np.ndarray, weight_P: np.ndarray, ridge: float
) -> tuple[np.ndarray, float]:
    """Damped Newton steps from the model that knows only the mean of the targets."""
    design_PF = np.column_stack([features_PF, np.ones(len(features_PF))])
    penalty_F = np.full(design_PF.shape[1], ridge)
    penalty_F[-1] = 0.0
    mean = np.average(target_P, weights=weight_P)
    theta_F = np.zeros(design_PF.shape[1])
    theta_F[-1] = np.log(mean / (1 - mean)) if 0 < mean < 1 else 0.0
    loss = _loss(design_PF, theta_F, target_P, weight_P, penalty_F)
    for _ in range(MAX_STEPS):
        prob_P = sigmoid(design_PF @ theta_F)
        slope_F = design_PF.T @ (weight_P * (prob_P - target_P)) + penalty_F * theta_F
        curve_FF = (design_PF.T * (weight_P * prob_P * (1 - prob_P))) @ design_PF
        curve_FF += np.diag(penalty_F)
        step_F = np.linalg.lstsq(curve_FF, slope_F, rcond=1e-14)[0]
        separated = loss <= SEPARATED * weight_P.sum()
        if separated or not np.all(np.isfinite(step_F)) or np.abs(theta_F).max() > 1e6:
            break
        size = 1.0
        while size > 1e-10:
            tried_F = theta_F - size * step_F
            tried = _loss(design_PF, tried_F, target_P, weight_P, penalty_F)
            if tried <= loss:
                break
            size /= 2
        else:
            return theta_F[:-1], float(theta_F[-1])
        moved, gained = np.abs(tried_F - theta_F).max(), loss - tried
        theta_F, loss = tried_F, tried
        # Where features hardly differ, steps never end, but gain nothing any more.
        settled = gained <= 1e-15 * loss
        if settled or moved <= TOLERANCE * max(1.0, np.abs(theta_F).max()):
            return theta_F[:-1], float(theta_F[-1])
    raise ValueError(
        "no finite logistic model is the most likely one: the scores separate the targets "
        "perfectly. Use more pairs, or a ridge above 0."
    )


def _loss(
    design_PF: np.ndarray,
    theta_F: np.ndarray,
    target_P: np.ndarray,
    weight_P: np.ndarray,
    penalty_F: np.ndarray,
) -> float:
    logit_P = design_PF @ theta_F
    loss_P = np.logaddexp(0.0, logit_P) - target_P * logit_P
    return float(weight_P @ loss_P + 0.5 * penalty_F @ theta_F**2)


def _ascent(
    features_PF: np.ndarray,
    target_P: np.ndarray,
    weight_P: np.ndarray,
    coefficient_F: np.ndarray,
    intercept: float,
) -> np.ndarray:
    """How fast the likelihood rises with each coefficient."""
    prob_P = sigmoid(features_PF @ coefficient_F + intercept)
    return np.asarray(features_PF.T @ (weight_P * (target_P - prob_P)))
