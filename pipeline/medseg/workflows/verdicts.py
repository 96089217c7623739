"""What a difference means, as a verdict and as a sentence a person can quote."""

from __future__ import annotations

from medseg.core.comparison import Contrast, Verdict
from medseg.ops.paired import LEAST_PATIENTS, LEVEL
from medseg.report.comparison import METRIC_TITLES

MOST_PATIENTS = 9999  # who needs more will not count them

_MINUS = "\N{MINUS SIGN}"
_METRIC_WORDS = METRIC_TITLES | {"accuracy": "accuracy"}  # in the middle of a sentence


def verdict_of(contrast: Contrast) -> Verdict:
    """Better only when both hold: the interval leaves out zero, and the corrected p lies below 5 %."""
    if contrast.num_patients < LEAST_PATIENTS:
        return "too_few"
    if contrast.difference == 0 and contrast.low == contrast.high == 0:
        return "identical"
    low, high = contrast.low, contrast.high
    apart = low is not None and high is not None and (low > 0 or high < 0)
    significant = contrast.p_holm < LEVEL
    if not (apart and significant):
        return "undecided" if significant else "not_distinguishable"
    return "second_better" if (contrast.difference > 0) == (contrast.better == "higher") else "first_better"


def sentence_of(contrast: Contrast, *, first: str, second: str) -> str:
    """Whether the difference means anything, how large it is, and what it would take to know.

    Args:
        contrast: With its verdict.
        first: Name of the first model.
        second: Name of the second model.
    """
    what, people = _what(contrast), _people(contrast)
    if contrast.verdict == "identical":
        return f"{first} and {second} are the same in {what} in all {contrast.num_cases} cases."
    digits = _digits(contrast)
    seen = f"{second} {_MINUS} {first} = {_signed(contrast.difference, digits)}{_unit(contrast)}"
    if contrast.verdict == "too_few":
        return (
            f"Nothing can be concluded from {people} about {what} ({seen}): "
            f"at least {LEAST_PATIENTS} are needed before any test can say more than chance."
        )
    several = f" by Holm over {contrast.num_tests} tests" if contrast.num_tests > 1 else ""
    test = f"{people}, {_p(contrast.p_holm)}{several}"
    if contrast.verdict == "not_distinguishable":
        span = f"{seen} ({_interval(contrast, digits)}, {test})"
        return f"{first} and {second} cannot be told apart in {what}: {span}.{_outlook(contrast, digits)}"
    if contrast.verdict == "undecided":
        return (
            f"It is undecided which of {first} and {second} is better in {what}: more cases change one way than chance "
            f"explains ({contrast.num_better} better, {contrast.num_worse} worse with {second}, {test}), but few large "
            f"changes decide the mean, {seen} ({_interval(contrast, digits)}). Look at these cases."
        )
    winner, loser = (second, first) if contrast.verdict == "second_better" else (first, second)
    ends = sorted(abs(bound) for bound in (contrast.low, contrast.high) if bound is not None)
    interval = f"95 % interval {' to '.join(f'{end:.{digits}f}' for end in ends)}"
    size = f"{abs(contrast.difference):.{digits}f}{_unit(contrast)}"
    return (
        f"{winner} is better than {loser} in {what}: {contrast.better} by {size} "
        f"({interval}, {test}).{_share(contrast, winner, second)}"
    )


def headline_of(contrasts: tuple[Contrast, ...], *, first: str, second: str) -> tuple[str, ...]:
    """The sentence on the mean over the labels (or the only label), then who is better at what else."""
    leading = [one for one in contrasts if one.metric == "dice" and one.kind == "case"]
    leading = leading or [one for one in contrasts if one.metric == "dice"][:1]
    heads = [one for one in contrasts if one.kind == "head" and one.metric in ("auroc", "accuracy")]
    told = leading + list({one.subject: one for one in heads}.values())  # the area where there is one
    labels = [one for one in contrasts if one.kind == "label" and one.metric == "dice" and one not in leading]
    parts = [one.sentence for one in told]
    if labels:
        named = [
            (f"{second} is better for", [one.subject for one in labels if one.verdict == "second_better"]),
            (f"{first} is better for", [one.subject for one in labels if one.verdict == "first_better"]),
            ("no difference shown for", [one.subject for one in labels if not one.verdict.endswith("_better")]),
        ]
        words = "; ".join(f"{lead} {', '.join(subjects)}" for lead, subjects in named if subjects)
        parts.append(f"Dice label by label: {words}.")
    return tuple(parts)


def _what(contrast: Contrast) -> str:
    return "mean Dice" if contrast.kind == "case" else f"{_METRIC_WORDS[contrast.metric]} of {contrast.subject}"


def _people(contrast: Contrast) -> str:
    return f"{contrast.num_patients} patient{'s' if contrast.num_patients > 1 else ''}"


def _outlook(contrast: Contrast, digits: int) -> str:
    if contrast.detectable_difference is None:
        return ""
    reach = f" A true difference of {contrast.detectable_difference:.{digits}f}{_unit(contrast)} or more would show"
    if contrast.patients_needed is None:
        return f"{reach} four times in five."
    many = contrast.patients_needed > MOST_PATIENTS
    count = f"more than {MOST_PATIENTS}" if many else f"about {contrast.patients_needed}"
    return f"{reach} four times in five; one as small as this takes {count} patients."


def _share(contrast: Contrast, winner: str, second: str) -> str:
    if contrast.num_better is None:
        return ""
    gained = (contrast.num_better, contrast.num_worse)
    ahead, behind = gained if winner == second else gained[::-1]
    return f" {winner} is ahead in {ahead} cases, behind in {behind}."


def _interval(contrast: Contrast, digits: int) -> str:
    if contrast.low is None or contrast.high is None:
        return "no interval"
    return f"95 % interval {_signed(contrast.low, digits)} to {_signed(contrast.high, digits)}"


def _unit(contrast: Contrast) -> str:
    return f" {contrast.unit}" if contrast.unit else ""


def _digits(contrast: Contrast) -> int:
    """Enough decimals for the difference to show: three, two for lengths, more for what is smaller than these."""
    digits = 2 if contrast.unit else 3
    while 0 < abs(contrast.difference) < 2 * 10.0**-digits and digits < 6:
        digits += 1
    return digits


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", _MINUS)


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
