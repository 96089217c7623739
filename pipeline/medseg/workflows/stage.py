"""`medseg stage`: measured lesions to categories by size, from rule tables that name their edition and source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from medseg.clinical.rule_tables import RuleTable, parse_table
from medseg.clinical.staging import stage_lesions
from medseg.core.document import suggest
from medseg.core.errors import InputError, MedsegError, UsageError, case_context
from medseg.core.findings import CaseFailure
from medseg.core.measurements import CaseMeasurements
from medseg.core.progress import Progress, silent
from medseg.core.staging import CaseStaging
from medseg.io.documents import read_document
from medseg.io.files import require_file, require_path, require_writable, write_text
from medseg.report.measurements import render_measurements
from medseg.workflows.config import packaged, read_yaml
from medseg.workflows.measure import measure
from medseg.workflows.provenance import make_provenance

if TYPE_CHECKING:
    from medseg.workflows.mask_inputs import MaskRequest

_MEASURED = ".measurements.json"
_MOST_BYTES = 1 << 16


@dataclass(frozen=True)
class StageRequest:
    """Which tables, and what they are told.

    Attributes:
        tables: Read and checked.
        given: Answers to what the tables ask, by name; every table takes those that it asks for.
        lesions: Labels of the lesions to judge; None: all.
    """

    tables: tuple[RuleTable, ...]
    given: Mapping[str, str]
    lesions: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        asked = {name for table in self.tables for name in table.inputs}
        for name in self.given:
            if name not in asked:
                remedy = f"They ask for: {suggest(name, sorted(asked))}" if asked else "They ask for nothing."
                raise UsageError(f"no chosen table asks for {name!r}", code="E-STAGE-INPUT", remedy=remedy)


@dataclass(frozen=True)
class Staged:
    """What came of a batch: every case is in one of the two lists."""

    out: Path
    cases: tuple[CaseStaging, ...]
    failures: tuple[CaseFailure, ...]


def stage(source: Path, out: Path, request: StageRequest, masks: MaskRequest, *, progress: Progress = silent) -> Staged:
    """Apply tables to measurements, or measure masks first.

    Args:
        source: A `CASE.measurements.json`, a folder of them, a mask or a folder of masks.
        out: `CASE.staging.json` goes here, and a page: `CASE.staging.html` of measurements, the page of `measure`
            with a section more of masks.
        request: Tables and answers.
        masks: How masks are measured.
        progress: Wraps the loop over cases.

    Raises:
        MedsegError: When the input as a whole, or the only case, cannot be used.
    """
    require_path(source)
    files = _measured_files(source)
    if not files:
        staged: list[CaseStaging] = []

        def judge(report: CaseMeasurements) -> CaseStaging:
            staged.append(_stage_case(report, request))
            write_text(out / f"{report.case}.staging.json", staged[-1].to_json())
            return staged[-1]

        made = measure(source, out, masks, judge=judge, progress=progress)
        return Staged(out, tuple(staged), made.failures)
    require_writable(out)
    done, failures = [], []
    for path in progress(files, "staging", len(files)):
        case = path.name.removesuffix(_MEASURED)
        try:
            with case_context(case):
                done.append(_stage_file(path, request, out))
        except MedsegError as error:
            if len(files) == 1:
                raise
            failures.append(CaseFailure.of(case, error))
    return Staged(out, tuple(done), tuple(failures))


def known_tables() -> dict[str, Path]:
    """The tables that come with the package, by id."""
    return {path.stem: path for path in sorted(packaged("configs", "staging").glob("*.yaml"))}


def read_tables(names: Sequence[str]) -> tuple[RuleTable, ...]:
    """Tables by id, or by path.

    Raises:
        UsageError: `E-STAGE-TABLE` for an unknown name, or as `parse_table`.
        InputError: As the reader, or `E-YAML` for a file that is too large or uses aliases.
    """
    known = known_tables()
    if not names:
        remedy = f"Name one with --table: {', '.join(known)}."
        raise UsageError("no rule table was chosen", code="E-STAGE-TABLE", remedy=remedy)
    return tuple(_read_table(known.get(name), name, list(known)) for name in names)


def _read_table(path: Path | None, name: str, known: list[str]) -> RuleTable:
    if path is None:
        if not name.lower().endswith((".yaml", ".yml")):
            remedy = f"Name one of them or a YAML file: {suggest(name, known)}"
            raise UsageError(f"no rule table is called {name!r}", code="E-STAGE-TABLE", remedy=remedy)
        path = Path(name)
    if require_file(path).stat().st_size > _MOST_BYTES:
        message = f"a rule table has at most {_MOST_BYTES} bytes"
        raise InputError(message, code="E-YAML", file=path, remedy="See configs/staging.")
    _refuse_aliases(path)
    return parse_table(read_yaml(path), file=path)


def _refuse_aliases(path: Path) -> None:
    """A few lines of aliases can stand for more values than any memory holds."""
    try:
        has_alias = any(isinstance(token, yaml.AliasToken) for token in yaml.scan(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        message = f"not valid YAML: {' '.join(str(error).split())}"
        raise InputError(message, code="E-YAML", file=path, remedy="Mend the file.") from error
    if has_alias:
        raise InputError("a rule table has no aliases", code="E-YAML", file=path, remedy="Write every value out.")


def _measured_files(source: Path) -> list[Path]:
    if source.is_file():
        return [source] if source.suffix.lower() == ".json" else []
    return sorted(source.glob(f"*{_MEASURED}"))


def _stage_file(path: Path, request: StageRequest, out: Path) -> CaseStaging:
    report = read_document(path, CaseMeasurements)
    staging = _stage_case(report, request)
    write_text(out / f"{report.case}.staging.json", staging.to_json())
    write_text(out / f"{report.case}.staging.html", render_measurements(report, {}, staging=staging))
    return staging


def _stage_case(report: CaseMeasurements, request: StageRequest) -> CaseStaging:
    chosen = [one for one in report.measurements if request.lesions is None or one.label in request.lesions]
    results = (
        result
        for table in request.tables
        for result in stage_lesions(
            chosen, table, given={name: text for name, text in request.given.items() if name in table.inputs}
        )
    )
    return CaseStaging(case=report.case, results=tuple(results), provenance=make_provenance(""))
