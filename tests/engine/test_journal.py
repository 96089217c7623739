"""The log of a run that was killed."""

import json

from medseg.engine.journal import LOG, Journal, read_log


def test_a_resumed_run_takes_back_what_it_will_tell_again(tmp_path):
    with Journal(tmp_path) as journal:
        for step in (10, 20, 30):
            journal.record("train", step, {"segmentation": step / 10})
        journal.record("validation", 20, {"dice": 0.5})
    with (tmp_path / LOG).open("a") as log:
        log.write('{"kind": "train", "st')  # killed while writing
    with Journal(tmp_path, step=20) as journal:
        journal.record("train", 30, {"segmentation": 9.0})
    lines = (tmp_path / LOG).read_text().splitlines()
    assert [(json.loads(line)["step"], json.loads(line)["segmentation"]) for line in lines] == [
        (10, 1.0),
        (20, 2.0),
        (30, 9.0),
    ]


def test_a_torn_last_line_is_left_out(tmp_path):
    (tmp_path / LOG).write_text('{"kind": "train", "step": 1}\n{"kind": "tra')
    assert read_log(tmp_path / LOG) == [{"kind": "train", "step": 1}]
    assert read_log(tmp_path / "none") == []
