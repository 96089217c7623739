"""The options that several commands share, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Workspace = Annotated[
    Path, typer.Option("--workspace", "-w", help="Folder where the commands find each other's results.")
]
Manifest = Annotated[
    Path | None,
    typer.Option("--manifest", "-m", help="Dataset made by `medseg import`; without it, the embedded phantom cohort."),
]
Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML with one section per verb; see configs/default.yaml.")
]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", help="Any setting, as section.key=value; may be repeated.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON to standard output.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done and what it costs; change nothing.")]
AssumeOrientation = Annotated[
    bool | None, typer.Option("--assume-orientation", help="Accept files that do not state their orientation.")
]
Prefer = Annotated[
    str | None, typer.Option("--prefer", help="Which NIfTI transform to believe where two contradict: sform or qform.")
]
Series = Annotated[
    str | None, typer.Option("--series", help="Which DICOM series: its number in `medseg series`, or its UID.")
]
Phase = Annotated[str | None, typer.Option("--phase", help="Which phase or echo of a DICOM series: number or text.")]
FixGeometry = Annotated[
    bool | None,
    typer.Option("--fix-geometry", help="Resample a DICOM series with gaps, uneven steps or gantry tilt."),
]
Suv = Annotated[bool | None, typer.Option("--suv", help="Read DICOM PET as SUV by body weight.")]
Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        help="nifti, nrrd, seg-nrrd, mha, dicom-seg, dicom-rtstruct, dicom-sr; comma list or repeated. Default: nifti.",
    ),
]
Terminology = Annotated[
    Path | None, typer.Option("--terminology", help="YAML with SNOMED codes of labels; see configs/terminology.yaml.")
]
PrivateCodes = Annotated[
    bool | None, typer.Option("--private-codes", help="Write labels without a SNOMED code under medseg's own scheme.")
]
Device = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
Amp = Annotated[bool | None, typer.Option("--amp/--no-amp", help="Mixed precision where the device gains from it.")]
Engine = Annotated[str | None, typer.Option(help="local, or ray: several workers, here or on a cluster.")]
Workers = Annotated[int | None, typer.Option(help="With --engine ray: how many work at a time.")]
Address = Annotated[str | None, typer.Option(help="With --engine ray: HOST:PORT of a running cluster.")]
DEFAULT_WORKSPACE = Path("medseg-work")
