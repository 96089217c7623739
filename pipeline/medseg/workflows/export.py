"""`medseg export`: a bundle -> files that other software runs, compared with the original before they are kept."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from medseg.core.errors import ModelError, UsageError
from medseg.core.export import FORMATS, RECORD, Check, ExportRecord, Format, Part, Tolerance
from medseg.core.geometry import Geometry
from medseg.core.settings import InferSettings
from medseg.core.volume import Volume
from medseg.engine.channels import read_for
from medseg.engine.export_formats import OPSET, require_packages
from medseg.engine.exports import (
    OVERLAP,
    Exported,
    compare_case,
    dice,
    export_member,
    export_script,
)
from medseg.engine.predict import Predictor, load_networks
from medseg.io.bundle import read_bundle
from medseg.io.contained import contained
from medseg.io.files import staged_folder, write_text
from medseg.io.memory import volume_from
from medseg.io.monai_bundle import DIFFERENCES, MODEL, run_monai_bundle, write_monai_bundle
from medseg.io.volumes import write_volume
from medseg.ops.prepare import to_network
from medseg.workflows.export_words import how_to_run, left_out
from medseg.workflows.provenance import make_provenance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medseg.core.plan import Plan
    from medseg.io.bundle import Bundle

_SEED = 0
_PACKAGES: dict[Format, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino", "onnx"),
    "torch-export": (),
    "monai-bundle": ("monai",),
}


@dataclass(frozen=True, eq=False)
class _Checked:
    """What was written, and how it answered."""

    parts: tuple[Part, ...]
    checks: tuple[Check, ...]
    pipeline_dice: dict[str, float]


def export(
    bundle: Path,
    out: Path,
    *,
    form: str,
    case: Sequence[Path] = (),
    reading: InferSettings | None = None,
    tolerance: Tolerance | None = None,
) -> ExportRecord:
    """Write, compare with the original on a whole case, and keep it only when both answer alike.

    Args:
        bundle: The model's folder.
        out: Receives the files and `export.json`.
        form: One of `FORMATS`.
        case: One image to compare on, one file per channel; without it, seeded smooth noise on the network grid.
        reading: How the case is read.
        tolerance: What counts as alike.

    Raises:
        UsageError: `E-FORMAT` for an unknown format, `E-EXTRA` when a package is missing.
        ModelError: `E-EXPORT` when the format cannot express the model or what it wrote answers otherwise.
    """
    name = next((known for known in FORMATS if known == form), None)
    if name is None:
        message = f"unknown export format {form!r}"
        raise UsageError(message, code="E-FORMAT", remedy=f"Use one of: {', '.join(FORMATS)}.")
    require_packages(name)
    settings = reading or InferSettings()
    model, tolerance = read_bundle(bundle), tolerance or Tolerance()
    if case:
        with contained(settings), read_for(model.plan.channels):
            volume = volume_from(list(case), reading=settings, channels=len(model.plan.channels))
    else:
        volume = _synthetic(model.plan)
    with staged_folder(out) as folder:
        make = _as_monai_bundle if name == "monai-bundle" else _as_graphs
        made = make(model, volume, name, folder)
        _refuse_differences(made, tolerance, model.folder)
        words = f"case {case[0].name}" if case else f"no real case: seeded smooth noise (seed {_SEED}), network grid"
        record = _record(model, name, made, tolerance, words)
        write_text(folder / RECORD, record.to_json())
    return record


def _as_graphs(model: Bundle, volume: Volume, name: Format, folder: Path) -> _Checked:
    image = to_network(volume, model.plan).image
    parts: list[Part] = []
    checks: list[Check] = []
    for member, network in enumerate(load_networks(model), start=1):
        exported = export_member(network, model.plan, name, folder, member=member)
        checks.append(compare_case([network], exported, image, model.plan, member=member))
        parts += exported.parts
    return _Checked(tuple(parts), tuple(checks), {})


def _as_monai_bundle(model: Bundle, volume: Volume, name: Format, folder: Path) -> _Checked:  # noqa: ARG001
    if not model.plan.num_outputs:
        raise ModelError(
            "a MONAI Bundle holds the segmentation, and this model only classifies",
            code="E-EXPORT",
            file=model.folder,
            remedy="Use --format onnx, openvino or torch-export.",
        )
    plan = model.plan.model_copy(update={"classification": None})
    write_monai_bundle(folder, model.manifest, plan, overlap=OVERLAP)
    (folder / MODEL).parent.mkdir()
    networks = load_networks(model)
    combine = model.manifest.answering.combine
    part, segment = export_script(networks, plan, folder / MODEL, combine=combine)
    exported = Exported((part,), segment, networks[0])
    check = compare_case(networks, exported, to_network(volume, plan).image, plan, member=1, combine=combine)
    part = part.model_copy(update={"files": {MODEL: part.files[Path(MODEL).name]}})
    return _Checked((part,), (check,), _pipeline_dice(model, volume, folder))


def _pipeline_dice(model: Bundle, volume: Volume, folder: Path) -> dict[str, float]:
    """MONAI's mask of the case beside ours, label by label and as one foreground."""
    with tempfile.TemporaryDirectory() as passing:
        place = Path(passing)
        files = [place / f"channel{index}.nii.gz" for index in range(volume.num_channels)]
        for channel, file in zip(volume.array, files, strict=True):
            write_volume(Volume(channel[None], volume.geometry), file)
        theirs = run_monai_bundle(folder, files, place)
    settings = InferSettings(backend="torch", device="cpu", amp=False, overlap=OVERLAP)
    with Predictor(model, settings) as predictor:
        labels = predictor.predict(volume).labels
    ours = np.zeros(volume.geometry.shape) if labels is None else labels.array
    pairs = {"foreground": (ours > 0, theirs > 0)}
    pairs |= {label: (ours == value, theirs == value) for label, value in model.plan.labels.items()}
    return {label: dice((a & b).sum(), a.sum(), b.sum()) for label, (a, b) in pairs.items()}


def _refuse_differences(made: _Checked, tolerance: Tolerance, source: Path) -> None:
    faults = []
    for check in made.checks:
        worst = min(check.dice.values(), default=1.0)
        # not (x <= limit), so that NaN is a fault too
        if not check.relative_difference <= tolerance.relative_difference:
            faults.append(
                f"logits differ by {check.relative_difference:.2g}, at most {tolerance.relative_difference:g}"
            )
        if not worst >= tolerance.dice:
            faults.append(f"mask Dice {worst:.4f}, at least {tolerance.dice:g}")
        if not check.class_difference <= tolerance.class_difference:
            faults.append(
                f"class probabilities differ by {check.class_difference:.2g}, at most {tolerance.class_difference:g}"
            )
    foreground = made.pipeline_dice.get("foreground", 1.0)
    if not foreground >= tolerance.pipeline_dice:
        faults.append(f"Dice of MONAI's whole run {foreground:.4f}, at least {tolerance.pipeline_dice:g}")
    if faults:
        raise ModelError(
            f"what was exported does not answer as the model does: {'; '.join(faults)}; nothing was kept",
            code="E-EXPORT",
            file=source,
            remedy="Use another format, or another case when this one holds little of what the model finds.",
        )


def _record(model: Bundle, name: Format, made: _Checked, tolerance: Tolerance, checked_on: str) -> ExportRecord:
    plan, provenance = model.plan, model.manifest.provenance
    versions = {package: version(package) for package in ("torch", *_PACKAGES[name])}
    if "onnx" in versions:
        versions["onnx opset"] = str(OPSET)
    classification = plan.classification if name != "monai-bundle" else None
    return ExportRecord(
        format=name,
        model=model.manifest.name,
        licence=model.manifest.licence,
        weights_sha256=provenance.weights_sha256,
        plan_sha256=provenance.plan_sha256,
        versions=versions,
        parts=made.parts,
        channels=plan.channels,
        labels=plan.labels,
        outputs=tuple(plan.regions) if plan.regions else (("background", *plan.label_names) if plan.labels else ()),
        heads=classification.heads if classification else {},
        spacing_mm=plan.spacing_mm,
        orientation=plan.orientation,
        crop=plan.crop,
        normalisation=plan.normalisation,
        window=plan.patch_size,
        overlap=OVERLAP,
        how_to_run=how_to_run(plan, name, num_members=len(model.weights), answering=model.manifest.answering),
        left_out=left_out(plan, name, answering=model.manifest.answering),
        differences=DIFFERENCES if name == "monai-bundle" else (),
        checked_on=checked_on,
        checks=made.checks,
        pipeline_dice=made.pipeline_dice,
        tolerance=tolerance,
        provenance=make_provenance(model.manifest.dataset),
    )


def _synthetic(plan: Plan) -> Volume:
    """Smooth noise about the plan's intensities, a little larger than a window, on the network grid."""
    i, j, k = (round(1.25 * size) for size in plan.patch_size)
    noise = torch.randn(1, len(plan.channels), 6, 6, 6, generator=torch.Generator().manual_seed(_SEED))
    smooth = functional.interpolate(noise, (i, j, k), mode="trilinear", align_corners=True)[0]
    array = np.stack(
        [
            rule.mean + rule.std * channel.numpy() if rule.scheme == "fixed" else 100 + 30 * channel.numpy()
            for rule, channel in zip(plan.normalisation, smooth, strict=True)
        ]
    )
    return Volume(array.astype(np.float32), Geometry((i, j, k), np.diag([*plan.spacing_mm, 1.0])))
