"""Looking at patches without training."""

import json

import pytest
from typer.testing import CliRunner

from medseg.apps.cli import app
from medseg.core.errors import UsageError
from medseg.core.settings import TrainSettings
from medseg.data.store import Store, open_store
from medseg.workflows import preview as previewing
from medseg.workflows.preview import preview


def test_the_command_writes_a_page_of_training_cases_and_trains_nothing(workspace, tmp_path):
    before = sorted(workspace.runs.rglob("*"))
    done = CliRunner().invoke(app, ["train", "-w", str(workspace.folder), "--preview", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    page = (workspace.reports / "preview" / "index.html").read_text()
    assert told["page"] == str(workspace.reports / "preview" / "index.html")
    assert all(case in page for case in told["cases"])
    assert page.count("<figure") == 6 * len(told["cases"])
    assert "lesion_type: " in page
    assert sorted(workspace.runs.rglob("*")) == before


def test_without_augmentation_there_is_nothing_to_vary(workspace):
    made = preview(workspace, TrainSettings(augment=False))
    assert made.page.read_text().count("<figure") == len(made.cases)


def test_elastic_deformation_is_shown_where_it_is_asked_for(workspace):
    pages = [preview(workspace, TrainSettings(elastic=on)).page.read_text() for on in (False, True)]
    figures = [[part.split("</figure>")[0] for part in page.split("<figure")[1:]] for page in pages]
    assert figures[0][0] == figures[1][0]  # as stored
    assert figures[0] != figures[1]


def test_cases_without_anything_to_teach_are_left_out(workspace, monkeypatch):
    store = open_store(workspace.store)
    mute = [
        case.model_copy(update={"known": (False,) * len(case.known), "classes": dict.fromkeys(case.classes, -1)})
        for case in store.index.cases
    ]
    index = store.index.model_copy(update={"cases": tuple(mute)})
    monkeypatch.setattr(previewing, "open_store", lambda _: Store(store.folder, store.plan, store.dataset, index))
    with pytest.raises(UsageError) as caught:
        preview(workspace, TrainSettings())
    assert caught.value.code == "E-NOTHING-TO-LEARN"
