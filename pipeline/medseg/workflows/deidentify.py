"""A folder, an archive, a manifest or a file becomes a nameless folder."""

from __future__ import annotations

from pathlib import Path

from medseg.core.deidentification import DeidentifyOptions, DeidentifyReport
from medseg.core.errors import MedsegError, UsageError
from medseg.core.progress import Progress, silent
from medseg.core.reading import Containment
from medseg.io.archives import unpacked
from medseg.io.contained import contained
from medseg.io.deid_key import Pseudonyms, read_key, throwaway_key, write_secret
from medseg.io.files import require_path, require_writable, write_text
from medseg.workflows.deidentify_account import Account
from medseg.workflows.deidentify_faces import Faces
from medseg.workflows.deidentify_files import made_nameless
from medseg.workflows.deidentify_manifest import deidentify_manifest

REPORT = "deidentify.json"


@contained(Containment())
def deidentify(
    source: Path,
    out: Path,
    options: DeidentifyOptions,
    *,
    key: Path | None,
    mapping: Path | None = None,
    pictures: Path | None = None,
    progress: Progress = silent,
) -> DeidentifyReport:
    """Make every DICOM object and image nameless; a file that is refused leaves no trace.

    Args:
        source: A folder with its subfolders, an archive of one, a manifest, or a file.
        out: Gets pseudonyms as names, and the account `deidentify.json`.
        options: Of the profile.
        key: File of the secret key, made where there is none; None only counts and writes nothing.
        mapping: Where to write who is who.
        pictures: Folder for pictures of each defaced head before and after.
        progress: Wraps the loop over files, or cases of a manifest.

    Raises:
        UsageError: `E-DEID-OUT`, `E-DEID-COLUMN`, or as `read_manifest`.
        InputError: `E-DEID-KEY`, and what concerns the folders as a whole.
    """
    require_path(source)
    _refuse_overlap(source, out, *(path for path in (key, mapping, pictures) if path is not None))
    if key is not None:
        require_writable(out)
    pseudonyms = Pseudonyms(throwaway_key() if key is None else read_key(key))
    faces = Faces(options.ears, None if key is None else pictures) if options.deface else None
    account = Account(None if key is None else out, options, pseudonyms, faces)
    if source.is_file() and source.suffix.lower() == ".json":
        num_files = deidentify_manifest(source, out, account, progress)
    else:
        num_files = _deidentify_files(source, account, progress)
    report = account.report(num_files)
    if key is not None:
        write_text(out / REPORT, report.to_json())
        if mapping is not None:
            write_secret(mapping, account.mapping().to_json())
    return report


def _deidentify_files(source: Path, account: Account, progress: Progress) -> int:
    """Returns how many there are."""
    if account.options.keep_columns:
        message = "only a manifest has columns"
        raise UsageError(message, code="E-DEID-COLUMN", file=source, remedy="Leave --keep-columns out.")
    with unpacked(source) as folder:
        files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else [folder]
        if account.faces is not None:
            account.faces.know(files)
        for number, path in progress(list(enumerate(files, start=1)), "deidentifying", len(files)):
            name = path.relative_to(folder) if path != folder else Path(path.name)
            shown = source / name if path != source else source
            try:
                ready = made_nameless(path, str(name), shown, account)
                if ready is None:
                    account.num_left_out += 1
                else:
                    account.take([ready])
            except MedsegError as error:
                account.refuse(number, str(shown), error.code)
    return len(files)


def _refuse_overlap(source: Path, out: Path, *secret: Path) -> None:
    inside, outside = source.resolve(), out.resolve()
    if inside == outside or inside in outside.parents or outside in inside.parents:
        message = "the output folder and the input lie within one another"
        raise UsageError(message, code="E-DEID-OUT", file=out, remedy="Choose a new folder elsewhere.")
    for path in secret:
        if outside in {path.resolve(), *path.resolve().parents}:
            message = "the key, the mapping or the pictures would lie among the nameless files"
            raise UsageError(message, code="E-DEID-OUT", file=path, remedy="Keep it where only you can read it.")
