"""How to run an exported model, in words: what its files do not hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medseg.core.answering import Answering
    from medseg.core.export import Format
    from medseg.core.plan import Normalisation, Plan


def how_to_run(plan: Plan, name: Format, *, num_members: int, answering: Answering) -> tuple[str, ...]:
    """The steps from a file to a mask and a diagnosis, in their order."""
    if name == "monai-bundle":
        return ("docs/README.md has the command; configs/inference.json holds every step",)
    steps = [*_before(plan)]
    if plan.num_outputs:
        steps.append(
            f"segmentation: slide windows of {_size(plan.patch_size)} voxels one at a time, half of each repeated "
            "by its neighbour; blend their logits weighted with a Gaussian of sigma 1/8 of the window, at least 1/1000"
        )
    if num_members > 1:
        averaged = "logits" if answering.combine == "logits" else "probabilities, and its logarithm as logits"
        steps.append(
            f"ensemble: take the mean of the {num_members} members' {averaged}, and of their class probabilities"
        )
    if plan.num_outputs:
        steps.append(
            "interpolate the blended logits linearly to the grid of the image; "
            + (_painting(plan) if plan.regions else f"the largest one wins: {_values(plan)}")
        )
    if plan.classification is not None:
        steps.append(
            "classification: give the view (and the probabilities under it) that the part's inputs describe; "
            "a softmax over each head's output gives its class probabilities"
        )
    steps += [
        f"calibration: raise the class probabilities of {head} to the power 1/{temperature:.4f} and make them sum to 1"
        for head, temperature in answering.temperatures.items()
    ]
    steps += [f"mask: of {label}, {rule} (26-connected)" for label, rule in answering.cleanup.items()]
    return tuple(steps)


def left_out(plan: Plan, name: Format, *, answering: Answering) -> tuple[str, ...]:
    """What medseg does and the files do not."""
    missing = ["mirroring (--tta)", "medseg's checks of the input and its flags"]
    if plan.skip_constant_windows:
        missing.append("leaving out windows that hold nothing but air: run them, or answer them with background")
    if name == "monai-bundle":
        missing += ["DICOM: convert the series to NIfTI first"]
        if plan.nearest_slices:
            missing.append("nearest slices along a coarse axis: MONAI interpolates there")
        if plan.within_range:
            missing.append("cutting off what the spline overshoots the image's range by")
        missing += [f"cleaning of {label}: {rule} (26-connected)" for label, rule in answering.cleanup.items()]
    if name == "monai-bundle" and plan.classification is not None:
        missing.append(
            "the classification head: it reads one view of the case under the stitched mask, for which a MONAI "
            "inferer has no place; the other formats hold it"
        )
    return tuple(missing)


def _before(plan: Plan) -> list[str]:
    steps = []
    if plan.orientation == "RAS":
        steps.append("turn the axes to right, anterior, superior")
    else:
        steps.append("leave the axes as the file stores them")
    if plan.crop == "nonzero":
        steps.append("crop to the box of voxels that are not zero in any channel")
    steps += [f"{channel}: {_words(rule)}" for channel, rule in zip(plan.channels, plan.normalisation, strict=True)]
    how = "cubic spline"
    if plan.coarse_axis is not None:
        how += f", linear along axis {plan.coarse_axis}"
    if plan.nearest_slices:
        how += ", nearest along an axis whose voxels are more than 3 times longer"
    if plan.within_range:
        how += ", values cut off at the image's range; at the slice's, where slices are taken one by one"
    steps.append(f"resample to {_size(plan.spacing_mm)} mm, keeping the extent ({how})")
    steps.append("pad with zeros on both sides where the image is smaller than the window")
    return steps


def _words(rule: Normalisation) -> str:
    parts = []
    if rule.correct_bias_field:
        parts.append("correct the bias field (N4)")
    if rule.equalise:
        parts.append("equalise the histogram adaptively")
    if rule.lower is not None or rule.upper is not None:
        parts.append(f"clip to [{_bound(rule.lower)}, {_bound(rule.upper)}]")
    if rule.scheme == "fixed":
        parts.append(f"subtract {rule.mean:.6g}, divide by {rule.std:.6g}")
    elif rule.scheme == "range":
        parts.append("map its minimum and maximum to 0 and 1")
    else:
        inside = " over the body (nonzero in any channel, holes filled), zero outside" if rule.nonzero else ""
        parts.append(f"subtract its mean, divide by its standard deviation{inside}")
    return "; ".join(parts)


def _bound(value: float | None) -> str:
    return "open" if value is None else f"{value:.6g}"


def _size(values: tuple[float, ...]) -> str:
    return " x ".join(f"{value:g}" for value in values)


def _values(plan: Plan) -> str:
    return ", ".join(
        f"channel {index} = {name} ({plan.labels[name]})" for index, name in enumerate(plan.label_names, start=1)
    )


def _painting(plan: Plan) -> str:
    order = [plan.labels[plan.label_names[index - 1]] for index in plan.paint_order]
    return f"where channel n is above zero paint the value {order} at n, later channels over earlier ones"
