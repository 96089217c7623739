"""The command that makes data nameless: deidentify."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medseg.apps import options as o
from medseg.apps.terminal import TERMINAL
from medseg.core.errors import BatchError

if TYPE_CHECKING:
    from medseg.core.deidentification import DeidentifyReport

_MOST_ROWS = 12


def deidentify(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT", help="A folder of DICOM objects and images, a zip or tar of one, a manifest, or a file."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder; everything in it is named by pseudonyms.")],
    key: Annotated[
        Path,
        typer.Option(
            "--key", help="File of the secret key; made where there is none. The same key gives the same names."
        ),
    ] = Path("deidentify.key"),
    shift_dates: Annotated[
        bool, typer.Option("--shift-dates", help="Keep dates, each patient's moved by one number of days.")
    ] = False,
    keep_uids: Annotated[
        bool, typer.Option("--keep-uids", help="Keep UIDs instead of replacing each by another.")
    ] = False,
    keep_words: Annotated[
        bool, typer.Option("--keep-words", help="Keep known words of descriptions (anatomy, sequences).")
    ] = False,
    keep_characteristics: Annotated[
        bool, typer.Option("--keep-characteristics", help="Keep age, sex, size, weight.")
    ] = False,
    clean_pixels: Annotated[
        bool, typer.Option("--clean-pixels", help="Blank text in the pixels where a rule says where.")
    ] = False,
    deface: Annotated[
        bool, typer.Option("--deface", help="Cut the face out of head scans (CT, MR, NIfTI); refuse what is no head.")
    ] = False,
    ears: Annotated[bool, typer.Option("--ears", help="With --deface: the ears too.")] = False,
    pictures: Annotated[
        Path | None, typer.Option("--pictures", help="Folder for pictures before and after; they show the face.")
    ] = None,
    keep_columns: Annotated[
        str | None, typer.Option("--keep-columns", help="Columns of a manifest that stay: site,scanner.")
    ] = None,
    mapping: Annotated[
        Path | None, typer.Option("--mapping", help="Write who is who there, for your eyes only.")
    ] = None,
    dry_run: o.DryRun = False,
    json: o.Json = False,
) -> None:
    """Make DICOM objects, images and datasets nameless by DICOM PS3.15 Annex E; look at what was written.

    Exit code 7 when files were refused; nothing of them is written.

    Example: `medseg deidentify scans --out nameless --shift-dates --keep-characteristics`
    """
    from medseg.core.deidentification import DeidentifyOptions
    from medseg.workflows.deidentify import deidentify as run

    chosen = DeidentifyOptions(
        shift_dates=shift_dates,
        keep_uids=keep_uids,
        keep_words=keep_words,
        keep_characteristics=keep_characteristics,
        clean_pixels=clean_pixels,
        deface=deface,
        ears=ears,
        keep_columns=tuple(word.strip() for word in (keep_columns or "").split(",") if word.strip()),
    )
    report = run(
        source,
        out,
        chosen,
        key=None if dry_run else key,
        mapping=mapping,
        pictures=pictures,
        progress=TERMINAL.progress,
    )
    if json:
        TERMINAL.json(report.to_json())
    else:
        _show(report, out, is_dry=dry_run)
    for one in report.refused:
        TERMINAL.warning(f"[{one.code}] {one.file} of {report.num_files} in the order of the input was refused")
    if report.refused:
        raise BatchError(f"{len(report.refused)} file(s) refused, {report.num_written} done", code="E-BATCH")


def _show(report: DeidentifyReport, out: Path, *, is_dry: bool) -> None:
    changed = sorted(report.attributes, key=lambda one: -(one.removed + one.replaced))[:_MOST_ROWS]
    rows = [(one.attribute, str(one.removed), str(one.replaced), str(one.kept)) for one in changed]
    if rows:
        TERMINAL.table(("attribute", "removed", "replaced", "kept"), rows, title=report.edition)
    total = [sum(getattr(one, kind) for one in report.attributes) for kind in ("removed", "replaced", "kept")]
    TERMINAL.result(
        f"{len(report.attributes)} attributes: {total[0]} values removed, {total[1]} replaced, {total[2]} kept; "
        f"{report.num_patients} patient(s)"
        + (f"; {report.num_defaced} file(s) lost a face" if report.options.deface else "")
    )
    verb = "would be written to" if is_dry else "written to"
    TERMINAL.result(f"{report.num_written} of {report.num_files} files {verb} {out}, {report.num_left_out} left out")
