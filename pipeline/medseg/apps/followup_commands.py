"""The command about change over time: follow-up."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medseg.apps import options as o
from medseg.apps import show, show_followup
from medseg.apps.terminal import TERMINAL


def follow_up(
    images: Annotated[
        list[Path] | None,
        typer.Argument(metavar="BASELINE CURRENT [MORE...]", help="Image files or DICOM folders, in order of time."),
    ] = None,
    mask: Annotated[
        list[Path] | None,
        typer.Option("--mask", help="One per image, in order; else CASE.* in --predictions, named after the images."),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option("--predictions", "-p", help="Folder of masks that `medseg infer` wrote; else the workspace's."),
    ] = None,
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--manifest", "-m", help="Follow every patient of a dataset, by its `patient` and `date` or `timepoint`."
        ),
    ] = None,
    patient: Annotated[str | None, typer.Option(help="Only this patient of the manifest.")] = None,
    dates: Annotated[
        str | None, typer.Option(help="One per image: 2026-01-31,2026-04-30; else as DICOM headers say.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Names of the masks' values: liver=1,tumour=2; else as known.")
    ] = None,
    lesions: Annotated[
        str | None, typer.Option(help="Labels that are lesions: tumour,node; else those whose names say so.")
    ] = None,
    criterion: Annotated[
        list[str] | None,
        typer.Option(
            help="recist11, rano_hgg, volumetric_recist, volumetric_macdonald or a YAML file; may be repeated."
        ),
    ] = None,
    rules: Annotated[Path | None, typer.Option(help="A copy of configs/follow_up.yaml: what is a change.")] = None,
    register: Annotated[
        bool, typer.Option("--register/--no-register", help="Align the images; not needed on one grid.")
    ] = True,
    deformable: Annotated[bool, typer.Option("--deformable", help="Align with a B-spline at the end.")] = False,
    allow_unregistered: Annotated[
        bool, typer.Option("--allow-unregistered", help="Go on in the scanner's coordinates where aligning fails.")
    ] = False,
    allow_other_patient: Annotated[
        bool, typer.Option("--allow-other-patient", help="Compare although headers name different patients.")
    ] = False,
    unit: Annotated[str | None, typer.Option(help="Of the images: HU, SUV ...; else as the files say.")] = None,
    pictures: Annotated[bool, typer.Option("--pictures/--no-pictures", help="Draw the lesions.")] = True,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Default: followup/ in the workspace.")] = None,
    workspace: o.Workspace = o.DEFAULT_WORKSPACE,
    dry_run: o.DryRun = False,
    json: o.Json = False,
) -> None:
    """Follow lesions over time: aligned, matched, measured; new, vanished, grown, shrunk, split, merged; the response.

    The same lesion keeps its id, its number in the written masks and its DICOM tracking UID.

    Example: `medseg follow-up january.nii.gz april.nii.gz --dates 2026-01-10,2026-04-12 --criterion recist11`
    """
    from medseg.workflows.follow_up import follow_up as run
    from medseg.workflows.follow_up_open import FollowUpSettings
    from medseg.workflows.follow_up_studies import StudyRequest, collect_patients

    patients = collect_patients(
        images or (),
        StudyRequest(
            masks=tuple(mask or ()),
            predictions=predictions,
            manifest=manifest,
            patient=patient,
            dates=show.split_names(dates),
            labels=show.parse_labels(labels),
            allow_other_patient=allow_other_patient,
            workspace=workspace,
        ),
    )
    settings = FollowUpSettings(
        criteria=tuple(criterion or ("recist11",)),
        rules=rules,
        lesions=None if lesions is None else show.split_names(lesions),
        unit=unit,
        register_images=register,
        deformable=deformable,
        allow_unregistered=allow_unregistered,
        pictures=pictures,
    )
    target = out or workspace / "followup"
    if dry_run:
        show_followup.planned(TERMINAL, patients, target, as_json=json)
        return
    followed = run(patients, target, settings, progress=TERMINAL.progress)
    show_followup.followed(TERMINAL, followed, as_json=json)
    show.fail_for(TERMINAL, followed.failures, len(followed.reports))
