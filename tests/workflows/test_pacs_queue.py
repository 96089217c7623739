"""The queue without a network: what is kept, recognised, refused and taken up again."""

from __future__ import annotations

import dataclasses

import pytest

from medseg.core.errors import BatchError, InputError, ResourceError
from medseg.core.listening import ListenSettings
from medseg.io.dicom_network import Arrival
from medseg.io.lock import locked
from medseg.workflows.pacs_queue import Queue, read_queue

NOW = ListenSettings(settle_s=1e-9, reserve_gib=0)


def arrival(number=1, *, series="../../etc/passwd", body=b"data", association=1):
    return Arrival(association, b"head", memoryview(body), "1.2", series, f"\0CON/{number}" * 60)


def opened(folder, settings=NOW):
    queue = Queue(folder / "pacs", settings)
    queue.prepare()
    queue.open()
    return queue


def settled(queue):
    (job,) = queue.settle(())
    return job


def test_hostile_uids_become_hashes_in_a_private_folder(tmp_path):
    queue = opened(tmp_path)
    queue.store(arrival())
    (path,) = queue.folder.rglob("*.dcm")
    assert path.read_bytes() == b"headdata"
    assert path.parent.parent.parent == queue.folder / "jobs"
    assert set(path.stem) <= set("0123456789abcdef")
    assert queue.folder.stat().st_mode & 0o777 == 0o700
    assert sorted(one.name for one in tmp_path.iterdir()) == ["pacs"]


def test_a_series_settles_when_its_association_has_closed(tmp_path):
    queue = opened(tmp_path)
    queue.store(arrival(association=7))
    assert queue.settle({7}) == []
    job = settled(queue)
    assert (job.state, len(job.instances)) == ("waiting", 1)
    assert queue.next_job() == job


def test_a_second_copy_is_recognised_and_a_changed_one_refused(tmp_path):
    queue = opened(tmp_path)
    queue.store(arrival())
    queue.store(arrival())
    queue.store(dataclasses.replace(arrival(body=b"packed in another way"), head=b"other syntax"))
    with pytest.raises(InputError) as caught:
        queue.store(arrival(body=b"forged"))
    assert caught.value.code == "E-PACS-DUPLICATE"
    (path,) = queue.folder.rglob("*.dcm")
    assert path.read_bytes() == b"headdata"


def test_what_comes_during_the_work_starts_the_series_again(tmp_path):
    queue = opened(tmp_path)
    queue.store(arrival(1))
    working = queue.change(settled(queue), state="working")
    queue.store(arrival(1))
    assert queue.change(working, tries=2) is not None
    queue.store(arrival(2))
    assert queue.change(working, state="sending") is None
    assert len(settled(queue).instances) == 2


def test_a_done_series_is_not_done_again_and_a_late_object_asks_for_the_whole(tmp_path):
    queue = opened(tmp_path)
    for number in (1, 2):
        queue.store(arrival(number))
    queue.change(settled(queue), state="done", finished=True)
    queue.clear(queue.jobs()[0].id)
    for number in (1, 2):
        queue.store(arrival(number))
    assert settled(queue).state == "done"
    assert not list(queue.folder.rglob("*.dcm"))
    queue.store(arrival(3))
    assert (settled(queue).code, queue.jobs()[0].state) == ("E-PACS-LATE", "failed")
    for number in (1, 2, 3):
        queue.store(arrival(number))
    assert (settled(queue).state, len(queue.jobs()[0].instances)) == ("waiting", 3)


@pytest.mark.parametrize("limits", [{"max_series": 1}, {"max_objects": 1}, {"reserve_gib": 1e9}])
def test_no_room_is_said(tmp_path, limits):
    queue = opened(tmp_path, ListenSettings(**{"reserve_gib": 0, **limits}))
    if "reserve_gib" not in limits:
        queue.store(arrival(1, series="1"))
    with pytest.raises(ResourceError) as caught:
        queue.store(arrival(2, series="1" if "max_objects" in limits else "2"))
    assert caught.value.code == "E-PACS-FULL"


def test_a_later_process_takes_up_what_an_earlier_one_left(tmp_path):
    queue = opened(tmp_path)
    queue.store(arrival())
    (tmp_path / "pacs/jobs/series-0/objects").mkdir(parents=True)
    left = queue.objects(queue.jobs()[0].id) / ".tmp-1.dcm"
    left.write_bytes(b"half")
    again = opened(tmp_path)
    assert [job.state for job in again.jobs()] == ["receiving", "receiving"]
    assert not left.exists()
    jobs = again.settle(())
    busy = again.change(jobs[0], state="working", tries=1)
    assert next(job for job in opened(tmp_path).jobs() if job.id == busy.id).state == "waiting"
    busy = again.change(busy, state="working", tries=3)
    assert next(job for job in opened(tmp_path).jobs() if job.id == busy.id).code == "E-PACS-CRASH"


def test_tries_have_pauses_and_an_end(tmp_path):
    queue = opened(tmp_path, ListenSettings(settle_s=1e-9, reserve_gib=0, max_tries=2, retry_s=60))
    queue.store(arrival())
    error = InputError("down", code="E-PACS-DESTINATION")
    job = queue.put_off(queue.change(settled(queue), tries=1), error, back="sending", reason="down")
    assert job.due - job.changed == pytest.approx(60, abs=1)
    assert queue.next_job() is None
    job = queue.put_off(queue.change(job, tries=2), error, back="sending", reason="down")
    assert (job.state, job.code) == ("failed", "E-PACS-DESTINATION")
    queue.retry_failed()
    assert settled(queue).state == "waiting"


def test_the_state_is_read_without_the_queue(tmp_path):
    queue = opened(tmp_path)
    queue.store(arrival())
    assert read_queue(queue.folder) == (queue.jobs(), False)
    with locked(queue.lock):
        assert read_queue(queue.folder)[1]
        with pytest.raises(BatchError), locked(queue.lock):
            pass
    assert read_queue(tmp_path / "none") == ((), False)
