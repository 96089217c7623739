"""Several volumes in one series: refused with a list, and chosen by number or by text."""

from __future__ import annotations

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medseg.core.errors import InputError
from medseg.core.reading import Reading
from medseg.io.dicom_source import source_slices
from medseg.io.volumes import read_volume


def numbered(number, **values):
    """Change a slice's attributes, and add the phase's number to its pixels."""

    def change(_index, data):
        for name, value in values.items():
            setattr(data, name, value)
        data.PixelData = (np.frombuffer(data.PixelData, np.uint16) + number).astype(np.uint16).tobytes()

    return change


def volumes(slices, *phases):
    for number, values in enumerate(phases):
        slices.series(numbered(number, **values), folder=f"phase{number}")
    return slices.folder


MARKS = {
    "temporal": [{"TemporalPositionIdentifier": 10}, {"TemporalPositionIdentifier": 9}],
    "echo": [{"EchoTime": 11.5}, {"EchoTime": 4.6}],
    "trigger": [{"TriggerTime": 500}, {"TriggerTime": 0.5}],
    "diffusion": [{"DiffusionBValue": 1000.0}, {"DiffusionBValue": 0.0}],
    "image-type": [{"ImageType": ["ORIGINAL", "PRIMARY", "WATER"]}, {"ImageType": ["ORIGINAL", "PRIMARY", "FAT"]}],
    "acquisition": [{"AcquisitionNumber": 12}, {"AcquisitionNumber": 7}],
}


@pytest.mark.parametrize("mark", MARKS)
def test_phases_are_listed_in_order_and_chosen(slices, mark):
    folder = volumes(slices, *MARKS[mark])
    name = next(iter(MARKS[mark][0]))
    with pytest.raises(InputError, match=rf"each place was imaged 2 times, told apart by {name}.*--phase") as caught:
        read_volume(folder)
    assert caught.value.code == "E-SERIES-4D"
    first, second = (read_volume(folder, Reading(phase=number)) for number in "12")
    np.testing.assert_array_equal(first.array[0], slices.volume() + 1)
    np.testing.assert_array_equal(second.array[0], slices.volume())


def test_a_phase_is_chosen_by_its_text_or_a_part_of_it(slices):
    folder = volumes(slices, {"EchoTime": 4.6}, {"EchoTime": 11.5})
    for text in ("EchoTime 11.5", "11.5", "time 11"):
        assert read_volume(folder, Reading(phase=text)).array.max() == 3001


@pytest.mark.parametrize("wanted", ["3", "EchoTime", "late"])
def test_an_unknown_or_ambiguous_phase_is_refused(slices, wanted):
    with pytest.raises(InputError, match="among 2, told apart by EchoTime") as caught:
        read_volume(volumes(slices, {"EchoTime": 4.6}, {"EchoTime": 11.5}), Reading(phase=wanted))
    assert caught.value.code == "E-PHASE"


def test_two_attributes_together_may_tell_four_volumes_apart(slices):
    pairs = [{"EchoTime": echo, "TriggerTime": trigger} for echo in (2, 4) for trigger in (0.5, 500)]
    folder = volumes(slices, *pairs)
    assert read_volume(folder, Reading(phase="EchoTime 4.0, TriggerTime 0.5")).array.max() == 3002


def test_attributes_that_change_from_slice_to_slice_tell_nothing_apart(slices):
    for number in range(2):
        slices.series(
            lambda index, data, number=number: numbered(number, AcquisitionTime=f"1000{index:02d}.{number}")(
                index, data
            ),
            folder=f"phase{number}",
        )
    with pytest.raises(InputError) as caught:
        read_volume(slices.folder)
    assert caught.value.code == "E-SERIES-DUP"


def test_a_series_with_one_volume_has_its_first_phase_only(slices):
    folder = slices.series()
    np.testing.assert_array_equal(read_volume(folder, Reading(phase="1")).array[0], slices.volume())
    with pytest.raises(InputError) as caught:
        read_volume(folder, Reading(phase="2"))
    assert caught.value.code == "E-PHASE"


def test_the_slices_of_one_phase_are_the_source(slices):
    folder = volumes(slices, {"EchoTime": 4.6}, {"EchoTime": 11.5})
    chosen = {piece.sop_instance_uid for piece in source_slices(folder, phase="11.5").slices}
    assert len(chosen) == 16
    assert not chosen & {piece.sop_instance_uid for piece in source_slices(folder, phase="4.6").slices}


def test_phases_of_a_multi_frame_file(slices):
    """Two temporal positions of four slices, frame by frame in one object."""
    volume = slices.volume(4)
    data = slices.slice(1, volume[:, :, 0].T, -50)
    del data.ImagePositionPatient
    data.NumberOfFrames = 8
    frames = np.concatenate([volume.transpose(2, 1, 0) + number for number in range(2)]).astype(int) + 1024
    data.PixelData = frames.astype(np.uint16).tobytes()
    groups = []
    for index in range(8):
        group, position, content = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [-30, -20, -50 + 2.5 * (index % 4)]
        content.TemporalPositionIndex = 1 + index // 4
        group.PlanePositionSequence, group.FrameContentSequence = Sequence([position]), Sequence([content])
        groups.append(group)
    data.PerFrameFunctionalGroupsSequence = Sequence(groups)
    data.SharedFunctionalGroupsSequence = Sequence([Dataset()])
    path = slices.save(data, slices.folder / "x.dcm")
    np.testing.assert_array_equal(read_volume(path, Reading(phase="2")).array[0], volume + 1)
    assert [piece.frame_number for piece in source_slices(path, phase="2").slices] == [5, 6, 7, 8]
