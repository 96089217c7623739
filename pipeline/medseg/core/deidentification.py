"""What is done to make data nameless, and the account of it. What lies on disk are these models."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from medseg.core.document import Document
from medseg.core.findings import Provenance

Action = Literal["X", "Z", "D", "U", "X/Z", "X/D", "Z/D", "X/Z/D", "X/Z/U*"]
Part = float


class BurnedInRule(Document):
    """Where images of one kind carry text in their pixels."""

    modality: str
    manufacturer: str = Field(default="", description="what the manufacturer's name holds, in any case")
    rows: int | None = Field(default=None, description="only images of this size")
    columns: int | None = None
    boxes: tuple[tuple[Part, Part, Part, Part], ...] = Field(
        default=(), description="left, top, right, bottom as parts of width and height"
    )
    needs_regions: bool = Field(default=False, description="blank all but the ultrasound regions that the header names")


class ProfileTable(Document):
    """`configs/deidentify.yaml`; its comments say what each section does."""

    schema_version: Literal[1] = 1
    edition: str
    actions: dict[Action, tuple[str, ...]]
    descriptors: tuple[str, ...]
    structure_names: tuple[str, ...]
    additions: dict[str, Literal["Z", "D"]]
    references: tuple[str, ...]
    structured_content: tuple[str, ...]
    never_shifted: tuple[str, ...]
    characteristics: tuple[str, ...]
    clean_characteristics: tuple[str, ...]
    characteristic_columns: tuple[str, ...]
    technical_text: tuple[str, ...]
    binary: tuple[str, ...]
    identifying: tuple[str, ...]
    refused_classes: tuple[str, ...]
    risky_modalities: tuple[str, ...]
    risky_classes: tuple[str, ...]
    risky_image_types: tuple[str, ...]
    burned_in: tuple[BurnedInRule, ...]
    words: tuple[str, ...]


class DeidentifyOptions(Document):
    """The options of the profile that were asked for."""

    shift_dates: bool = Field(default=False, description="keep dates, moved by one number of days per patient")
    keep_uids: bool = Field(default=False, description="keep UIDs; else each is replaced by another one")
    keep_words: bool = Field(default=False, description="keep the known words of descriptions; else remove them")
    keep_characteristics: bool = Field(default=False, description="keep age, sex, size, weight and the like")
    clean_pixels: bool = Field(default=False, description="blank text in the pixels where a rule says where it is")
    deface: bool = Field(default=False, description="cut the face out of head scans; other CT and MR is refused")
    ears: bool = Field(default=False, description="cut the ears too")
    keep_columns: tuple[str, ...] = Field(default=(), description="columns of a manifest that stay, as `site`")


class AttributeCount(Document):
    """How often one attribute was removed, replaced (emptied, shifted, cleaned) or kept."""

    attribute: str = Field(description="its keyword; `private` and `unknown` for all of those together")
    removed: int = 0
    replaced: int = 0
    kept: int = 0


class RefusedFile(Document):
    """A file, or a case of a manifest, of which nothing was written."""

    file: int = Field(
        description="its place among the input's files in order of their names, or among the manifest's cases, from 1"
    )
    code: str


class DeidentifyReport(Document):
    """`deidentify.json`: what was done, without a name, a path or a value of the input."""

    schema_version: Literal[1] = 1
    edition: str
    options: DeidentifyOptions
    num_files: int
    num_written: int
    num_left_out: int = Field(description="neither DICOM objects nor images, and DICOMDIRs")
    num_patients: int
    num_cases: int = Field(default=0, description="of the new manifest")
    num_pixels_cleaned: int
    num_defaced: int = Field(default=0, description="files with a face cut out")
    attributes: tuple[AttributeCount, ...]
    refused: tuple[RefusedFile, ...]
    provenance: Provenance


class Mapping(Document):
    """Who is who: written on request only, and to be kept like the originals."""

    schema_version: Literal[1] = 1
    patients: dict[str, str] = Field(description="pseudonym to the original patient id")
    cases: dict[str, str] = Field(default_factory=dict, description="pseudonym to the original case id of a manifest")
    files: dict[str, str] = Field(description="original file to the new one; empty where it was refused")
