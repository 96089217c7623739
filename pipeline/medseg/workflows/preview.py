"""`medseg train --preview`: patches as the training will see them, or the batch of a failed step, on one page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from medseg.core.plan import MISSING_CLASS
from medseg.core.progress import Progress, silent
from medseg.data.batch import Batch
from medseg.data.patches import PatchSampler
from medseg.data.store import open_store
from medseg.engine.evidence import read_evidence
from medseg.engine.step import as_seen
from medseg.io.files import require_writable, write_text
from medseg.ops.augment import Augmentation
from medseg.report.preview import Patch, PatchRow, Preview, render_preview
from medseg.workflows.provenance import make_provenance
from medseg.workflows.train import usable_split

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from medseg.core.plan import Plan
    from medseg.core.settings import TrainSettings
    from medseg.data.store import LoadedCase
    from medseg.workflows.workspace import Workspace

_MOST_CASES = 6
_VARIANTS = 5


@dataclass(frozen=True)
class Previewed:
    """The page and the cases on it."""

    page: Path
    cases: tuple[str, ...]


def preview(workspace: Workspace, settings: TrainSettings, *, progress: Progress = silent) -> Previewed:
    """Draw a patch of each of some training cases, as it lies in the store and varied; nothing is trained.

    Args:
        workspace: With a store from `preprocess`.
        settings: Split, seed, augmentation.
        progress: Wraps the loading of cases.

    Raises:
        ModelError: E-NO-STORE without preprocessed data.
        UsageError: E-SPLIT; E-NOTHING-TO-LEARN when no case has a reference or a class.
    """
    store = open_store(workspace.store)
    teach = {case.id for case in store.index.cases if case.known[0] or case.teaches_case}
    chosen = [case for case in usable_split(store, settings).train if case in teach]
    chosen = chosen[:: max(1, len(chosen) // _MOST_CASES)][:_MOST_CASES]
    cases = [store.load(case) for case in progress(chosen, "loading cases", len(chosen))]
    PatchSampler(cases, store.plan, seed=settings.seed)  # refuses what cannot be learnt from
    rows = [_row(number, case, store.plan, settings) for number, case in enumerate(cases)]
    heading = f"One patch of each of {len(rows)} training cases: as stored, then as the network is shown it."
    return _write(workspace, store.plan, settings, rows, heading=heading)


def preview_batch(workspace: Workspace, settings: TrainSettings, file: Path) -> Previewed:
    """Draw the batch that a failed step left behind.

    Raises:
        InputError: E-NOT-FOUND, E-NOT-EVIDENCE.
        ModelError: E-NO-STORE, E-WEIGHTS.
    """
    evidence, tensors = read_evidence(file)
    rows = [
        PatchRow(
            case,
            f"sample {number + 1} of step {evidence.step}",
            (
                _patch("as stored", tensors["drawn_image"][number], tensors["drawn_labels"][number]),
                _patch("as seen by the network", tensors["image"][number], tensors["labels"][number]),
            ),
        )
        for number, case in enumerate(evidence.cases)
    ]
    plan = open_store(workspace.store).plan
    return _write(workspace, plan, settings, rows, heading=f"The batch of step {evidence.step}: {evidence.reason}.")


def _row(number: int, case: LoadedCase, plan: Plan, settings: TrainSettings) -> PatchRow:
    """A patch of one case and its variants; every second one is what the classification head is shown."""
    sampler = PatchSampler([case], plan, seed=settings.seed, channel_dropout=settings.channel_dropout)
    slot = number % 2 if plan.classification is not None else 0
    drawn = sampler.batch(number, [slot])
    how = Augmentation.from_plan(plan, elastic=settings.elastic)
    patches = [_patch("as stored", drawn.image[0], drawn.labels[0])]
    for variant in range(_VARIANTS if settings.augment else 0):
        seen, _ = as_seen(drawn, how, seed=(settings.seed, number * _VARIANTS + variant), augmented=True)
        patches.append(_patch(f"variant {variant + 1}", seen.image[0], seen.labels[0]))
    return PatchRow(case.entry.id, _note(drawn, plan), tuple(patches))


def _patch(title: str, image: Tensor, labels: Tensor) -> Patch:
    return Patch(title, image[0].float().cpu().numpy(), labels.to(torch.uint8).cpu().numpy())


def _note(drawn: Batch, plan: Plan) -> str:
    """The classes and values that the patch teaches."""
    heads = plan.classification.heads if plan.classification else {}
    taught = {head: int(drawn.classes[head][0]) for head in heads}
    words = [f"{head}: {heads[head][value]}" for head, value in taught.items() if value != MISSING_CLASS]
    targets = plan.classification.targets if plan.classification else {}
    numbers = {name: float(drawn.values[name][0]) for name in targets}
    words += [
        f"{name}: {targets[name].in_unit(value):.4g} {targets[name].unit}".strip()
        for name, value in numbers.items()
        if math.isfinite(value)
    ]
    return "; ".join(words) or ("teaches no class" if heads or targets else "")


def _write(
    workspace: Workspace, plan: Plan, settings: TrainSettings, rows: Sequence[PatchRow], *, heading: str
) -> Previewed:
    page = workspace.reports / "preview" / "index.html"
    require_writable(page.parent)
    how = Augmentation.from_plan(plan)
    facts = {
        "Patch, voxels": " × ".join(map(str, plan.patch_size)),
        "Patch, mm": " × ".join(
            f"{size * step:.0f}" for size, step in zip(plan.patch_size, plan.spacing_mm, strict=True)
        ),
        "Patches a step": str(settings.batch_size or plan.batch_size),
        "Channel shown": plan.channels[0],
        "Mirrored along": ", ".join(["left-right", "back-front", "feet-head"][axis] for axis in how.mirror_axes)
        or "no axis",
    }
    told = Preview(
        plan.dataset, heading, facts, plan.label_names, plan.spacing_mm, make_provenance(plan.dataset, settings)
    )
    write_text(page, render_preview(told, rows))
    return Previewed(page, tuple(row.case for row in rows))
