"""The command that lists DICOM series."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medseg.apps import options as o
from medseg.apps.terminal import TERMINAL

if TYPE_CHECKING:
    from medseg.io.dicom_listing import SeriesSummary


def series(
    path: Annotated[Path, typer.Argument(help="A folder, zip, DICOMDIR or file with DICOM objects.")],
    json: o.Json = False,
) -> None:
    """List the DICOM series of a folder: number, modality, size, spacing, phases, and what would refuse them.

    The number or UID goes to --series, the number or text of a phase to --phase.

    Example: `medseg series ct_folder`
    """
    from json import dumps

    from medseg.core.reading import Containment
    from medseg.io.contained import contained
    from medseg.io.dicom_series import list_series

    with contained(Containment()):
        found = list_series(path)
    if json:
        TERMINAL.json(dumps([one.model_dump() for one in found], indent=2))
        return
    for one in found:
        TERMINAL.result(_described(one))


def _described(one: SeriesSummary) -> str:
    """A line to choose by, then what else there is to know."""
    size = f"{one.columns} x {one.rows} x {one.num_slices or '?'}"
    spacing = "" if one.spacing_mm is None else f", {' x '.join(f'{edge:.4g}' for edge in one.spacing_mm)} mm"
    kind = ", localizer" if one.is_localizer else ""
    return "\n    ".join(
        (
            f"{one.number:>2}  {one.modality}  {one.description or '(no description)'}{kind}",
            f"{size}{spacing}, {one.num_files} file(s)",
            one.uid or "(no SeriesInstanceUID)",
            *([f"refused as it is: [{one.fault}]"] if one.fault else []),
            *(f"--phase {phase}" for phase in one.phases),
        )
    )
