"""Logistic regression by Newton's method: small, weighted, with coefficients that stay >= 0.

It is for a handful of features and soft targets, which is what calibration and fusion need.

Letters: P pairs, F features.
"""

from __future__ import annotations

import numpy as np

MAX_STEPS = 200
TOLERANCE = 1e-12
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
