"""The faces of an input, each found once: a series of DICOM objects is one head."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from medseg.core.errors import MedsegError
from medseg.core.reading import Reading
from medseg.core.volume import Volume
from medseg.io.deid_faces import series_key
from medseg.io.volumes import read_volume
from medseg.ops.deface import FaceCut, find_face


@dataclass
class Faces:
    """What `--deface` has found so far.

    Attributes:
        ears: Whether they are cut too.
        pictures: Folder of pictures before and after, which show the face.
    """

    ears: bool
    pictures: Path | None
    _files: dict[tuple[str, ...], list[Path]] = field(default_factory=dict)
    _found: dict[tuple[str, ...], FaceCut | MedsegError] = field(default_factory=dict)

    def know(self, files: Iterable[Path]) -> None:
        """Note which of the files are slices of one series; what cannot be read is refused later."""
        for path in files:
            with suppress(MedsegError):
                if key := series_key(path):
                    self._files.setdefault(key, []).append(path)

    def of_object(self, path: Path, name: str) -> FaceCut | None:
        """The face in the series of one known DICOM object; None where the object is no CT or MR image.

        Args:
            path: The object.
            name: Of the picture, without the patient's.

        Raises:
            GeometryError: `E-DEFACE`.
            InputError: As `read_volume` of the series.
        """
        key = series_key(path)
        if not key:
            return None
        if key not in self._found:
            try:
                self._found[key] = self.of_image(_read_series(self._files[key]), name)
            except MedsegError as error:
                self._found[key] = error
        found = self._found[key]
        if isinstance(found, MedsegError):
            raise found
        return found

    def of_image(self, volume: Volume, name: str) -> FaceCut:
        """The face in an image.

        Raises:
            GeometryError: `E-DEFACE`.
        """
        cut = find_face(volume, ears=self.ears)
        if self.pictures is not None:
            from medseg.report.defaced import draw_defaced

            draw_defaced(volume, cut.removed_from(volume), self.pictures / f"{name}.png")
        return cut


def _read_series(files: list[Path]) -> Volume:
    """One series out of a folder of many, repaired where its slices are uneven: only its place matters."""
    with tempfile.TemporaryDirectory(prefix="medseg-") as folder:
        for number, path in enumerate(files):
            (Path(folder) / f"{number:06d}.dcm").symlink_to(path.resolve())
        return read_volume(folder, Reading(fix_geometry=True))
