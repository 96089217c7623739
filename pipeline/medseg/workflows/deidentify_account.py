"""What has become of the files so far; files that belong together are written all, or none of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medseg.core.deidentification import DeidentifyOptions, DeidentifyReport, Mapping, RefusedFile
from medseg.core.errors import InputError
from medseg.io.deid_key import Pseudonyms
from medseg.io.deid_rules import read_profile
from medseg.io.deid_tally import Tally
from medseg.workflows.deidentify_faces import Faces
from medseg.workflows.provenance import make_provenance


@dataclass(frozen=True)
class Ready:
    """One file that was made nameless and is not written yet.

    Attributes:
        source: What it was, for a mapping only.
        place: Where it goes, relative to the output folder.
        write: Writes it there, given the output folder.
        identity: The original patient id, for a mapping only.
        patient: The pseudonym, where the file says whose it is.
    """

    source: Path = field(repr=False)
    place: Path
    write: Callable[[Path], None] = field(repr=False)
    tally: Tally = field(default_factory=Tally)
    identity: str = field(default="", repr=False)
    patient: str = ""
    pixels_cleaned: bool = False
    defaced: bool = False


@dataclass
class Account:
    """Counts and places.

    Attributes:
        out: None where nothing is written and all is counted.
        faces: None where they stay.
        places: Source to place.
        cases: Case id of a manifest to its pseudonym.
    """

    out: Path | None
    options: DeidentifyOptions
    pseudonyms: Pseudonyms
    faces: Faces | None = None
    tally: Tally = field(default_factory=Tally)
    patients: dict[str, str] = field(default_factory=dict)
    cases: dict[str, str] = field(default_factory=dict)
    places: dict[Path, Path] = field(default_factory=dict)
    refused: list[RefusedFile] = field(default_factory=list)
    refused_names: list[str] = field(default_factory=list)
    num_left_out: int = 0
    num_pixels_cleaned: int = 0
    num_defaced: int = 0

    def take(self, ready: Sequence[Ready]) -> None:
        """Write and count; what two cases share is written once.

        Raises:
            InputError: `E-DEID-DUPLICATE`, or as the writers; nothing of `ready` is then left behind.
        """
        ready = [one for one in ready if self.places.get(one.source) != one.place]
        self._require_new(ready)
        if self.out is not None:
            _write(ready, self.out)
        for one in ready:
            self.tally.add(one.tally)
            self.places[one.source] = one.place
            if one.patient:
                self.patients[one.patient] = one.identity
            self.num_pixels_cleaned += one.pixels_cleaned
            self.num_defaced += one.defaced

    def refuse(self, number: int, name: str, code: str) -> None:
        self.refused.append(RefusedFile(file=number, code=code))
        self.refused_names.append(name)

    def report(self, num_files: int) -> DeidentifyReport:
        return DeidentifyReport(
            edition=read_profile().table.edition,
            options=self.options,
            num_files=num_files,
            num_written=len(self.places),
            num_left_out=self.num_left_out,
            num_patients=len(self.patients),
            num_cases=len(self.cases),
            num_pixels_cleaned=self.num_pixels_cleaned,
            num_defaced=self.num_defaced,
            attributes=self.tally.counts(),
            refused=tuple(self.refused),
            provenance=make_provenance(""),
        )

    def mapping(self) -> Mapping:
        files = {str(path): str(place) for path, place in self.places.items()}
        return Mapping(
            patients=self.patients,
            cases={pseudonym: case for case, pseudonym in self.cases.items()},
            files=files | dict.fromkeys(self.refused_names, ""),
        )

    def _require_new(self, ready: Sequence[Ready]) -> None:
        taken = set(self.places.values())
        for one in ready:
            if one.place in taken:
                raise InputError(
                    "another object of this input has the same identity",
                    code="E-DEID-DUPLICATE",
                    file=one.source,
                    remedy="Leave one of the two out.",
                )
            taken.add(one.place)


def _write(ready: Sequence[Ready], out: Path) -> None:
    written: list[Path] = []
    try:
        for one in ready:
            written.append(out / one.place)
            one.write(out)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
