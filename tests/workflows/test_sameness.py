"""A training goes on with the same cases, and with what these teach; whatever differs is named."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from medseg.core.clinical import ClinicalColumn
from medseg.core.errors import UsageError
from medseg.core.plan import MISSING_CLASS
from medseg.core.settings import TrainSettings
from medseg.core.values import Target
from medseg.data.store import Store, open_store
from medseg.workflows import train as training
from medseg.workflows.sameness import training_identity
from medseg.workflows.train import train, usable_split
from medseg.workflows.workspace import Workspace

SHORT = TrainSettings(epochs=1, warmup_steps=2)
AGE = Target(n=4, mean=60, std=10, low=40, high=80, unit="years")
WEIGHT = ClinicalColumn(name="weight", mean=70, deviation=10)
SEX = ClinicalColumn(name="sex", levels=("F", "M"))


@pytest.fixture(scope="module")
def store(workspace) -> Store:
    """The cohort's, with a value and two clinical columns of each case."""
    found = open_store(workspace.store)
    classification = found.plan.classification.model_copy(update={"targets": {"age": AGE}, "clinical": (WEIGHT, SEX)})
    attributes = {"weight": "63", "sex": "F"}
    cases = tuple(case.model_copy(update={"attributes": attributes}) for case in found.dataset.cases)
    entries = tuple(entry.model_copy(update={"values": {"age": 61.5}}) for entry in found.index.cases)
    return replace(
        found,
        plan=found.plan.model_copy(update={"classification": classification}),
        dataset=found.dataset.model_copy(update={"cases": cases}),
        index=found.index.model_copy(update={"cases": entries}),
    )


def _entry(store: Store, case: str, **change) -> Store:
    cases = tuple(one.model_copy(update=change) if one.id == case else one for one in store.index.cases)
    return replace(store, index=store.index.model_copy(update={"cases": cases}))


def _attribute(store: Store, case: str, **change) -> Store:
    cases = [
        one.model_copy(update={"attributes": {**one.attributes, **change}}) if one.id == case else one
        for one in store.dataset.cases
    ]
    return replace(store, dataset=store.dataset.model_copy(update={"cases": tuple(cases)}))


def _changes(store: Store, changed: Store) -> dict[str, tuple[str | None, str | None]]:
    split = usable_split(store, SHORT)
    before, now = (training_identity(one, split, SHORT, None) for one in (store, changed))
    return {key: (before.get(key), now.get(key)) for key in {**before, **now} if before.get(key) != now.get(key)}


def _class(store: Store, case: str) -> tuple[str, str, int]:
    """A case's class and another, and that one's index."""
    ((head, names),) = store.dataset.heads.items()
    index = next(entry for entry in store.index.cases if entry.id == case).classes[head]
    other = (index + 1) % len(names)
    return names[index], names[other], other


def test_a_class_a_value_an_attribute_and_a_label_that_nobody_drew_are_named(store):
    (head,) = store.dataset.heads
    case = usable_split(store, SHORT).train[0]
    was, now, index = _class(store, case)
    where = f"training case {case}"
    assert _changes(store, _entry(store, case, classes={head: index})) == {f"{head} of {where}": (was, now)}
    assert _changes(store, _entry(store, case, classes={head: MISSING_CLASS})) == {
        f"{head} of {where}": (was, "unknown")
    }
    assert _changes(store, _entry(store, case, classes={})) == {f"{head} of {where}": (was, "unknown")}
    assert _changes(store, _entry(store, case, values={"age": 62.0})) == {f"age of {where}": ("61.5", "62.0")}
    assert _changes(store, _entry(store, case, values={})) == {f"age of {where}": ("61.5", "unknown")}
    assert _changes(store, _attribute(store, case, weight="64")) == {f"attribute weight of {where}": ("63.0", "64.0")}
    assert _changes(store, _attribute(store, case, weight="?")) == {f"attribute weight of {where}": ("63.0", "unknown")}
    assert _changes(store, _attribute(store, case, sex="M")) == {f"attribute sex of {where}": ("F", "M")}
    known = (True, *[False] * len(store.plan.labels))
    gone = _changes(store, _entry(store, case, known=known))
    assert set(gone) == {f"{where} without {name}" for name in store.plan.label_names}


def test_what_teaches_nothing_may_change(store):
    """A number written otherwise, a column that is not read, and what is only validated on or not used at all."""
    split = usable_split(store, SHORT)
    (head,) = store.dataset.heads
    case, held_back = split.train[0], split.val[0]
    tested = next(one.id for one in store.index.cases if one.id not in {*split.train, *split.val})
    assert not _changes(store, _attribute(store, case, weight=" 63.0"))
    assert not _changes(store, _attribute(store, case, height="180"))
    for other in (held_back, tested):
        _, _, index = _class(store, other)
        assert not _changes(store, _entry(store, other, classes={head: index}, values={"age": 9.0}))
    assert not _changes(store, _entry(store, tested, sha256="0" * 64))
    assert list(_changes(store, _entry(store, held_back, sha256="0" * 64))) == [f"validation case {held_back}"]


def test_a_training_does_not_go_on_with_another_class(workspace, tmp_path, monkeypatch):
    place = Workspace(tmp_path)
    shutil.copytree(workspace.store, place.store)
    store = open_store(place.store)
    split = usable_split(store, SHORT)
    (head,) = store.dataset.heads

    def changed(case: str) -> None:
        _, _, index = _class(store, case)
        monkeypatch.setattr(training, "open_store", lambda _: _entry(store, case, classes={head: index}))

    def stop_at_once(status) -> None:
        (place.run("main", None) / "stop").touch()

    assert not train(place, SHORT, watch=stop_at_once).finished
    changed(split.train[1])
    was, now, _ = _class(store, split.train[1])
    with pytest.raises(UsageError, match=f"{head} of training case {split.train[1]} was {was}, is {now}.") as caught:
        train(place, SHORT)
    assert caught.value.code == "E-RESUME"
    changed(split.val[0])
    assert train(place, SHORT).finished
