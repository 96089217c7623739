"""How good a classification head is over a cohort: from probabilities and reference classes to numbers and curves.

Definitions and formulas are printed in docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from medseg.core.errors import InputError
from medseg.core.findings import ClassArea, ClassSummary, ReliabilityBin, RocCurve

_COLLAPSED = 0.95


class Interval(NamedTuple):
    """An area under the ROC curve; the bounds are None when a side has one case only."""

    value: float
    low: float | None
    high: float | None


def classification_summary(
    head: str, classes: Sequence[str], probabilities: NDArray[np.floating[Any]], reference: NDArray[np.integer[Any]]
) -> ClassSummary:
    """All numbers of one head.

    With two classes AUROC, AUPRC and Brier are those of the second (the positive) one; with more, AUROC and AUPRC are
    means over the classes that can be told apart from the rest. A rate without cases (nobody was called so, nobody is
    so) is 0; the macro F1 averages over the classes that occur in references or answers, the balanced accuracy over
    those that occur in the references.

    Args:
        head: Name of the head.
        classes: C names, in the order of the columns.
        probabilities: (n, C), each row summing to 1; ties are answered with the first class.
        reference: (n,) index of the right class.

    Raises:
        InputError: `E-SCORE-INPUT`, no case, shapes that do not fit, probabilities that are none, an unknown class.
    """
    _require_scores(head, classes, probabilities, reference)
    num_cases, num_classes = probabilities.shape
    answers = probabilities.argmax(axis=1)
    confusion = np.bincount(reference * num_classes + answers, minlength=num_classes**2)
    confusion = confusion.reshape(num_classes, num_classes)
    right, referred, answered = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    recall, precision = _ratio(right, referred), _ratio(right, answered)
    f1 = _ratio(2 * right, referred + answered)
    area = auroc(probabilities, reference)
    favourite = int(answered.argmax())
    return ClassSummary(
        head=head,
        classes=tuple(classes),
        n=num_cases,
        accuracy=float(right.sum() / num_cases),
        balanced_accuracy=float(recall[referred > 0].mean()),
        macro_f1=float(f1[referred + answered > 0].mean()),
        auroc=None if area is None else area.value,
        auroc_low=None if area is None else area.low,
        auroc_high=None if area is None else area.high,
        auprc=auprc(probabilities, reference),
        brier=brier_score(probabilities, reference),
        ece=expected_calibration_error(probabilities, reference),
        precision=dict(zip(classes, precision.tolist(), strict=True)),
        recall=dict(zip(classes, recall.tolist(), strict=True)),
        f1=dict(zip(classes, f1.tolist(), strict=True)),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        collapsed=bool(
            answered[favourite] >= _COLLAPSED * num_cases
            and referred[favourite] < _COLLAPSED * num_cases
            and referred.max() < num_cases  # references of one class cannot show that classes are not told apart
        ),
        areas={name: class_area(probabilities[:, n], reference == n) for n, name in enumerate(classes)},
        roc=tuple(
            roc_curve_points(probabilities[:, n], reference == n, name=classes[n])
            for n in _scorable(num_classes, reference)
        ),
        reliability=reliability_points(probabilities, reference),
    )


def class_area(scores: NDArray[np.floating[Any]], positive: NDArray[np.bool_]) -> ClassArea:
    """One class against the rest: (n,) its probabilities, and (n,) who has it."""
    pair, answer = np.stack([1 - scores, scores], axis=1), positive.astype(np.int64)
    value, low, high = auroc(pair, answer) or (None, None, None)
    return ClassArea(auroc=value, auroc_low=low, auroc_high=high, auprc=auprc(pair, answer))


def auroc(probabilities: NDArray[np.floating[Any]], reference: NDArray[np.integer[Any]]) -> Interval | None:
    """Area under the ROC curve with its 95 % interval by DeLong, DeLong and Clarke-Pearson (Biometrics 1988, 44:837).

    Two classes: of the second one. More: mean of one-versus-rest over the classes that occur and are not alone; its
    variance sums each case's influence over the classes first, so that their correlation counts.

    Args:
        probabilities: (n, C).
        reference: (n,) index of the right class.

    Returns:
        None when only one class occurs.
    """
    found = auroc_influence(probabilities, reference)
    if found is None:
        return None
    value, influence = found
    deviation = float(np.linalg.norm(influence))
    if not np.isfinite(deviation):
        return Interval(value, None, None)
    margin = float(ndtri(0.975)) * deviation
    return Interval(value, max(0.0, value - margin), min(1.0, value + margin))


def auroc_influence(
    probabilities: NDArray[np.floating[Any]], reference: NDArray[np.integer[Any]]
) -> tuple[float, NDArray[np.float64]] | None:
    """The area of `auroc`, and each case's influence on it: (n,), not finite when a side has one case only."""
    columns = _scorable(probabilities.shape[1], reference)
    if not columns:
        return None
    areas, influences = [], []
    for column in columns:
        positive = reference == column
        area, influence = _delong(probabilities[positive, column], probabilities[~positive, column])
        spread = np.empty(reference.size)
        spread[positive], spread[~positive] = influence
        areas.append(area)
        influences.append(spread)
    return float(np.mean(areas)), np.asarray(np.mean(influences, axis=0), dtype=np.float64)


def auprc(probabilities: NDArray[np.floating[Any]], reference: NDArray[np.integer[Any]]) -> float | None:
    """Average precision: the precision at each distinct score, weighted by the recall gained there; classes as `auroc`.

    Returns:
        None when only one class occurs.
    """
    columns = _scorable(probabilities.shape[1], reference)
    values = []
    for column in columns:
        found, wrong, _ = _cumulated(probabilities[:, column], reference == column)
        values.append(float(np.diff(found, prepend=0) @ (found / (found + wrong)) / found[-1]))
    return float(np.mean(values)) if values else None


def brier_score(probabilities: NDArray[np.floating[Any]], reference: NDArray[np.integer[Any]]) -> float:
    """Mean squared error of the probabilities: of the second class when there are two, else summed over the classes.

    Brier, Monthly Weather Review 1950, 78:1. 0 is perfect.
    """
    num_classes = probabilities.shape[1]
    errors = (probabilities - np.eye(num_classes)[reference]) ** 2
    return float(errors[:, 1].mean() if num_classes == 2 else errors.sum(axis=1).mean())


def expected_calibration_error(
    probabilities: NDArray[np.floating[Any]], reference: NDArray[np.integer[Any]], *, num_bins: int = 15
) -> float:
    """Mean gap between confidence and accuracy over the bins of the reliability curve, weighted by their cases."""
    points = reliability_points(probabilities, reference, num_bins=num_bins)
    return sum(abs(point.accuracy - point.confidence) * point.num_cases for point in points) / reference.size


def reliability_points(
    probabilities: NDArray[np.floating[Any]], reference: NDArray[np.integer[Any]], *, num_bins: int = 15
) -> tuple[ReliabilityBin, ...]:
    """The reliability curve: confidence against accuracy in equal bins of (0, 1], empty ones left out.

    Confidence is the probability of the answered class (Guo et al., ICML 2017).
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == reference
    bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    return tuple(
        ReliabilityBin(
            confidence=float(confidence[here].mean()), accuracy=float(right[here].mean()), num_cases=int(here.sum())
        )
        for here in (bins == index for index in np.unique(bins))
    )


def roc_curve_points(scores: NDArray[np.floating[Any]], positive: NDArray[np.bool_], *, name: str = "") -> RocCurve:
    """The ROC curve of one class.

    Args:
        scores: (n,) its probabilities.
        positive: (n,) who has it; both kinds must occur.
        name: Of the class.

    Raises:
        InputError: `E-SCORE-INPUT`, only one kind occurs.
    """
    if positive.all() or not positive.any():
        message = f"an ROC curve needs cases with and without the class, got {int(positive.sum())} of {positive.size}"
        raise InputError(message, code="E-SCORE-INPUT", remedy="Draw it for the classes that occur beside others.")
    found, wrong, thresholds = _cumulated(scores, positive)
    return RocCurve(
        name=name,
        false_positive_rate=(0.0, *(wrong / wrong[-1]).tolist()),
        true_positive_rate=(0.0, *(found / found[-1]).tolist()),
        thresholds=(None, *thresholds.tolist()),
    )


def _scorable(num_classes: int, reference: NDArray[np.integer[Any]]) -> list[int]:
    """The classes whose ROC curve exists; of two classes the second stands for both."""
    counts = np.bincount(reference, minlength=num_classes)
    columns = [column for column in range(num_classes) if 0 < counts[column] < reference.size]
    return columns[-1:] if num_classes == 2 else columns


def _delong(
    positives: NDArray[np.floating[Any]], negatives: NDArray[np.floating[Any]]
) -> tuple[float, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """The area and each case's influence on it, positives then negatives; their squares sum to DeLong's variance.

    Midranks give the structural components in O(n log n) (Sun and Xu, IEEE Signal Processing Letters 2014, 21:1389).
    """
    from scipy.stats import rankdata  # half a second to load

    num_positive, num_negative = positives.size, negatives.size
    ranks = rankdata(np.concatenate([positives, negatives]))
    beaten = (ranks[:num_positive] - rankdata(positives)) / num_negative
    beating = 1 - (ranks[num_positive:] - rankdata(negatives)) / num_positive
    area = float(beaten.mean())
    with np.errstate(divide="ignore", invalid="ignore"):  # a single case has no variance: not finite, seen by auroc
        scales = [1 / np.sqrt(np.float64(size) * (size - 1)) for size in (num_positive, num_negative)]
        return area, ((beaten - area) * scales[0], (beating - area) * scales[1])


def _cumulated(
    scores: NDArray[np.floating[Any]], positive: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Positives and negatives at or above each distinct score, highest first, and the scores."""
    order = np.argsort(-scores, kind="stable")
    scores, positive = scores[order], positive[order]
    last = np.flatnonzero(np.append(np.diff(scores) != 0, True))
    found = np.cumsum(positive)[last].astype(np.float64)
    return found, last + 1 - found, scores[last].astype(np.float64)


def _ratio(part: NDArray[np.integer[Any]], whole: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    ratio = np.zeros(part.shape)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio


def _require_scores(head: str, classes: Sequence[str], probabilities: NDArray[Any], reference: NDArray[Any]) -> None:
    expected = (reference.size, len(classes))
    if probabilities.shape != expected or not reference.size or len(classes) < 2:
        found = f"got probabilities of shape {probabilities.shape} for {reference.size} cases, {len(classes)} classes"
        problem = f"head {head!r} needs cases x classes probabilities of at least one case and two classes; {found}"
    elif not np.isfinite(probabilities).all() or np.abs(probabilities.sum(axis=1) - 1).max() > 1e-3:
        problem = f"the probabilities of head {head!r} must sum to 1 in every case"
    elif reference.min() < 0 or reference.max() >= len(classes):
        problem = f"reference classes of head {head!r} must be 0 to {len(classes) - 1}, got {np.unique(reference)}"
    else:
        return
    raise InputError(problem, code="E-SCORE-INPUT", remedy="Check the class names and the predictions of this head.")
