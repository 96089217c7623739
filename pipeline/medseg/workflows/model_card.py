"""The model card: what a model is for, what it saw, how good it is, where it must not be used."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medseg.core.plan import Plan
    from medseg.io.bundle import BundleManifest

_CARD = """# {name}

Research use only: not a medical device.

| | |
|---|---|
| dataset | {dataset} |
| licence of the data | {licence} |
| input | {channels}, resampled to {spacing} mm |
| labels | {labels} |
| diagnosis | {heads} |{clinical}
| training cases | {num_training} |
| validation cases | {num_validation} |
| network | {network} |
| made with | medseg {version}, {created} |
| state | {state} |

## Scores on the validation cases
{scores}
{warnings}
Measured on the network grid with the averaged weights at the end of the training; no checkpoint was chosen by them.

## Use
    medseg infer --bundle THIS_FOLDER --volume case.nii.gz

Input of another modality, region, age group or scanner than the training cases' is outside what this model has seen.
"""


def model_card(manifest: BundleManifest, plan: Plan) -> str:
    """Markdown."""
    scores = "\n".join(f"- {name}: {value:.4f}" for name, value in sorted(manifest.validation.items()))
    heads = "; ".join(f"{head}: {', '.join(names)}" for head, names in manifest.heads.items())
    columns = ", ".join(column.name for column in plan.clinical)
    targets = plan.classification.targets if plan.classification else {}
    numbers = [f"{name} in {one.unit or 'no unit'}, {one.low:.4g} to {one.high:.4g}" for name, one in targets.items()]
    return _CARD.format(
        name=manifest.name,
        dataset=manifest.dataset,
        licence=manifest.licence or "not stated",
        channels=", ".join(manifest.channels),
        spacing=" x ".join(f"{step:g}" for step in plan.spacing_mm),
        labels=", ".join(f"{name} ({value})" for name, value in manifest.labels.items()) or "none",
        heads="; ".join(filter(None, (heads, *numbers))) or "none",
        clinical=f"\n| clinical columns | {columns} |" if columns else "",
        num_training=manifest.num_training_cases,
        num_validation=manifest.num_validation_cases,
        network=f"{plan.network.kind}, features {list(plan.network.features)}, patch {list(plan.patch_size)}",
        version=manifest.provenance.medseg_version,
        created=manifest.provenance.created,
        state="finished" if manifest.finished else "training still runs",
        warnings="".join(f"\n**{warning}**\n" for warning in manifest.warnings),
        scores=scores or "none: no case was held back from all that this model was made of; metrics.json has more",
    )
