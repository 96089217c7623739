"""The networks of a model as files that other software runs, and how these answer beside the original."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from medseg.core.clinical import encoded_width
from medseg.core.errors import ModelError
from medseg.core.export import Check, Format, Part, Port
from medseg.engine.backends import torch_segment
from medseg.engine.case_run import CaseRun, Classifier
from medseg.engine.export_formats import KINDS, Kind, Run
from medseg.engine.graphs import write_script
from medseg.engine.members import combined
from medseg.engine.segment import Finest, Segment
from medseg.io.files import sha256_of
from medseg.nn.build import region_groups
from medseg.ops.sliding import WindowGrid

if TYPE_CHECKING:
    from collections.abc import Iterable

    from medseg.core.answering import Combination
    from medseg.core.clinical import ClinicalColumn
    from medseg.core.plan import Plan
    from medseg.nn.network import Network

OVERLAP = 0.5


class Diagnosis(nn.Module):
    """The classification half of a network.

    It reads a view, then its segmentation where the head pools under it, then clinical columns if there are any.
    """

    def __init__(self, network: Network, *, pooled: bool) -> None:
        super().__init__()
        self.network, self.pooled = network, pooled

    def forward(self, view: Tensor, second: Tensor | None = None, third: Tensor | None = None) -> tuple[Tensor, ...]:
        probabilities, clinical = (second, third) if self.pooled else (None, second)
        return tuple(self.network.classify([view], probabilities, clinical).values())


class Mean(nn.Module):
    """The members together, as one network."""

    def __init__(self, networks: Sequence[Network], *, combine: Combination = "logits", regions: bool = False) -> None:
        super().__init__()
        self.members = nn.ModuleList(Finest(network.unet) for network in networks)
        self.combine, self.regions = combine, regions

    def forward(self, windows: Tensor) -> Tensor:
        answers = [member(windows) for member in self.members]
        return combined(answers, how=self.combine, regions=self.regions, dim=1)


@dataclass(frozen=True)
class Exported:
    """A member that was written: its description, and what runs it."""

    parts: tuple[Part, ...]
    segment: Segment | None
    classifier: Classifier


def export_member(network: Network, plan: Plan, name: Format, folder: Path, *, member: int) -> Exported:
    """Write one network as one file per half, and open them again.

    Args:
        network: On the CPU, in evaluation mode.
        plan: The model's.
        name: Any format but `monai-bundle`.
        folder: Where the files go.
        member: Which of the ensemble, counted from 1; part of the files' names.

    Raises:
        ModelError: `E-EXPORT` when the format cannot express the network.
    """
    if plan.classification is not None and plan.classification.gathers:
        raise ModelError(
            "this model's diagnosis gathers by attention what it reads all over a case, in as many tiles as the case "
            "is large: that is no graph of one size",
            code="E-EXPORT",
            remedy="Export its masks with --format monai-bundle, or train with --set preprocess.pooling=foreground.",
        )
    kind, parts = KINDS[name], []
    segment: Segment | None = None
    classifier: Classifier = network
    if plan.num_outputs:
        part, run = _export(Finest(network.unet), kind, folder, _segmentation_part(plan, member))
        parts.append(part)
        segment = _one_by_one(run)
    if plan.classification is not None:
        part, run = _export(
            Diagnosis(network, pooled=bool(region_groups(plan))), kind, folder, _classification_part(plan, member)
        )
        parts.append(part)
        answered = (*plan.classification.heads, *plan.classification.targets)
        classifier = _Graph(run, answered, pooled=bool(region_groups(plan)))
    return Exported(tuple(parts), segment, classifier)


def export_script(
    networks: Sequence[Network], plan: Plan, path: Path, *, combine: Combination = "logits"
) -> tuple[Part, Segment]:
    """Write the mean of all members' segmentations as TorchScript, which MONAI loads without code of ours."""
    part, example = _segmentation_part(plan, 1), torch.zeros(1, len(plan.channels), *plan.patch_size)
    mean = Mean(networks, combine=combine, regions=bool(plan.regions)).eval()
    script = write_script(mean.requires_grad_(requires_grad=False), [example], path)
    return part.model_copy(update={"files": {path.name: sha256_of(path)}}), _one_by_one(lambda x: [script(x)])


def compare_case(
    network: Sequence[Network],
    exported: Exported,
    image: Tensor,
    plan: Plan,
    *,
    member: int,
    combine: Combination = "logits",
) -> Check:
    """Run one case through the original and through what was exported, side by side and slab by slab.

    Args:
        network: The original; several when one file holds them all, which then answer together window by window.
        exported: From `export_member`.
        image: (C, I, J, K) on the network grid.
        plan: The model's.
        member: For the record.
        combine: What several are averaged in.
    """
    plan = plan.model_copy(update={"skip_constant_windows": False})  # every window is compared
    originals: list[Segment] = [torch_segment(one, None) for one in network] if plan.num_outputs else []
    if len(originals) > 1:
        originals = [_together(originals, combine, regions=bool(plan.regions))]
    segments = [exported.segment] if exported.segment else []
    windows = WindowGrid.over(image.shape[1:], plan.patch_size, OVERLAP)
    # one deviation above the mean, and the first level: not zero, as what is missing would be
    clinical = torch.tensor([float(not n) for column in plan.clinical for n in range(column.width)])
    expected = CaseRun(network, image, plan, segments=originals, grid=windows, clinical=clinical)
    found = CaseRun([exported.classifier], image, plan, segments=segments, grid=windows, clinical=clinical)
    largest, squares, overlaps = 0.0, np.zeros(2), np.zeros((3, len(plan.labels)))
    with torch.inference_mode():
        pairs: Iterable[tuple[Tensor, Tensor]] = zip(expected.slabs(), found.slabs(), strict=True) if segments else ()
        for ours, theirs in pairs:
            difference = (theirs - ours).double()
            largest = max(largest, float(difference.abs().max()))
            squares += [float(difference.square().sum()), float(ours.double().square().sum())]
            overlaps += _overlaps(_masks(ours, plan), _masks(theirs, plan))
        classes = [run.classes() for run in (expected, found)]
        values = [run.values() for run in (expected, found)]
    changes = [abs(value - classes[1][head][one]) for head, said in classes[0].items() for one, value in said.items()]
    targets = plan.classification.targets if plan.classification else {}
    changes += [abs(values[0][name] - values[1][name]) / target.std for name, target in targets.items()]
    names = plan.regions or plan.label_names
    return Check(
        member=member,
        largest_difference=largest,
        relative_difference=float(np.sqrt(squares[0] / max(squares[1], 1e-16))),
        dice={name: dice(*column) for name, column in zip(names, overlaps.T, strict=True)},
        class_difference=max(changes, default=0.0),
    )


def _together(segments: Sequence[Segment], combine: Combination, *, regions: bool) -> Segment:
    def segment(windows: Tensor) -> Tensor:
        return combined([one(windows) for one in segments], how=combine, regions=regions, dim=1)

    return segment


def dice(common: float, first: float, second: float) -> float:
    """Of voxel counts; 1 where both are empty."""
    return float(2 * common / (first + second)) if first + second else 1.0


def _masks(logits: Tensor, plan: Plan) -> Tensor:
    """(labels or regions, rows, J, K) bool."""
    if plan.regions:
        return logits > 0
    winner = logits.argmax(0)
    return torch.stack([winner == index for index in range(1, plan.num_outputs)])


def _overlaps(ours: Tensor, theirs: Tensor) -> np.ndarray[Any, Any]:
    """(3, labels): voxels in common, in the first, in the second."""
    return torch.stack([mask.flatten(1).sum(1) for mask in (ours & theirs, ours, theirs)]).double().numpy()


@dataclass(frozen=True)
class _Graph:
    """An exported classification half, called like a network's."""

    run: Run
    answered: tuple[str, ...]  # heads, then targets
    pooled: bool

    def classify(
        self, views: Iterable[Tensor], probabilities: Tensor | None, clinical: Tensor | None = None
    ) -> dict[str, Tensor]:
        inputs = [*views, *([probabilities] if self.pooled else []), *([] if clinical is None else [clinical])]
        return dict(zip(self.answered, self.run(*inputs), strict=True))


def _export(module: nn.Module, kind: Kind, folder: Path, part: Part) -> tuple[Part, Run]:
    number = "" if part.member == 1 else f"-{part.member}"
    path = folder / f"{part.what}{number}{kind.suffix}"
    examples = [torch.zeros(port.shape) for port in part.inputs]
    try:
        kind.write(module.eval(), examples, path, part)
    except RuntimeError as error:
        raise ModelError(
            f"the {part.what} of this model cannot be expressed in this format ({str(error).splitlines()[0]})",
            code="E-EXPORT",
            remedy="Use --format torch-export.",
        ) from error
    run = kind.load(path)
    files = sorted(folder.glob(f"{path.stem}.*"), key=lambda file: file != path)
    return part.model_copy(update={"files": {file.name: sha256_of(file) for file in files}}), run


def _segmentation_part(plan: Plan, member: int) -> Part:
    outputs = "one logit per region" if plan.regions else "one logit per class, background first"
    window = Port(name="windows", shape=(1, len(plan.channels), *plan.patch_size), meaning="one prepared window")
    logits = Port(name="logits", shape=(1, plan.num_outputs, *plan.patch_size), meaning=outputs)
    return Part(what="segmentation", member=member, files={}, inputs=(window,), outputs=(logits,))


def _classification_part(plan: Plan, member: int) -> Part:
    classification = plan.classification
    heads = {} if classification is None else classification.heads
    targets = {} if classification is None else classification.targets
    centred = classification is not None and classification.view == "foreground" and bool(plan.num_outputs)
    centred = centred and bool(classification.pool_labels if classification else ())
    pooled = bool(region_groups(plan))
    meaning = "crop of the prepared case around the centre of the predicted pooled labels"
    view = Port(
        name="view",
        shape=(1, len(plan.channels), *plan.patch_size),
        meaning=meaning if centred else "the whole prepared case, shrunk to fit a window and padded",
    )
    under = Port(
        name="probabilities",
        shape=(1, plan.num_outputs, *plan.patch_size),
        meaning="softmax of the stitched logits in that crop; channels of labels that are not pooled are zero",
    )
    beside = Port(
        name="clinical",
        shape=(1, encoded_width(plan.clinical)),
        meaning="; ".join(map(_in_words, plan.clinical)),
    )
    return Part(
        what="classification",
        member=member,
        files={},
        inputs=(view, *([under] if pooled else []), *([beside] if plan.clinical else [])),
        outputs=(
            *(Port(name=head, shape=(1, len(names)), meaning=" ".join(names)) for head, names in heads.items()),
            *(
                Port(name=name, shape=(1, 1), meaning=f"times {one.std:.9g} plus {one.mean:.9g} {one.unit}".strip())
                for name, one in targets.items()
            ),
        ),
    )


def _in_words(column: ClinicalColumn) -> str:
    places = (
        ", ".join(f"1 if it is {level}" for level in column.levels)
        or f"(value - {column.mean:.6g}) / {column.deviation:.6g} within 5"
    )
    return f"{column.name}: {places}, then 0; or all 0, then 1 if it is not known"


def _one_by_one(run: Run) -> Segment:
    def segment(windows: Tensor) -> Tensor:
        return torch.cat([run(window[None])[0] for window in windows])

    return segment
