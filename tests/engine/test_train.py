from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
import torch

from medseg.core.errors import MedsegError, ModelError, UsageError
from medseg.core.settings import TrainSettings
from medseg.data.store import LoadedCase, Store, open_store
from medseg.engine import checkpoint, step, train
from medseg.engine.checkpoint import CHECKPOINT
from medseg.engine.clock import Status
from medseg.engine.machine import Machine
from medseg.engine.train import Fitted, Run, fit
from medseg.io.weights import load_tensors
from medseg.workflows.workspace import Workspace

SETTINGS = TrainSettings(epochs=3, warmup_steps=2, seed=5)


@pytest.fixture(scope="module")
def store(workspace: Workspace) -> Store:
    opened = open_store(workspace.store)
    plan = opened.plan.model_copy(update={"patch_size": (16, 16, 8), "batch_size": 2})
    return Store(opened.folder, plan, opened.dataset, opened.index)


@pytest.fixture(scope="module")
def cases(store: Store) -> list[LoadedCase]:
    return [store.load(entry.id) for entry in store.index.cases[:4]]


def run(
    store: Store,
    cases: list[LoadedCase],
    folder: Path,
    *,
    settings: TrainSettings = SETTINGS,
    stop_at: int | None = None,
    identity: dict[str, str] | None = None,
) -> Fitted:
    def on_step(status: Status) -> None:
        if status.step == stop_at:
            (folder / "stop").touch()

    folder.mkdir(parents=True, exist_ok=True)
    return fit(
        store.plan,
        cases,
        cases[:1],
        settings=settings,
        run=Run(folder, identity or {"plan": "a"}, on_step, lambda *_: None),
    )


def difference(first: Fitted, second: Fitted) -> float:
    return max(float((first.weights[name] - second.weights[name]).abs().max()) for name in first.weights)


@pytest.fixture(scope="module")
def uninterrupted(store: Store, cases: list[LoadedCase], tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    return run(store, cases, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("stop_at", [1, 4])
def test_a_resumed_training_equals_the_uninterrupted_one_bitwise(store, cases, uninterrupted, tmp_path, stop_at):
    stopped = run(store, cases, tmp_path, stop_at=stop_at)
    assert not stopped.finished
    assert stopped.progress.step == stop_at
    resumed = run(store, cases, tmp_path)
    assert resumed.finished
    assert resumed.progress.step == uninterrupted.progress.step
    assert difference(resumed, uninterrupted) == 0


@pytest.mark.parametrize("lost", ["optimizer", "averaged", "network", "head statistics", "step", "schedule"])
def test_resuming_without_a_part_of_the_state_shows(store, cases, uninterrupted, tmp_path, monkeypatch, lost):
    """The negative control of the test above: what it compares does depend on every part that is saved."""
    run(store, cases, tmp_path, stop_at=3)
    whole = checkpoint.load_tensors

    def partly(path: Path) -> dict[str, torch.Tensor]:
        tensors = whole(path)
        if lost == "optimizer":
            return {name: value for name, value in tensors.items() if not name.startswith("optimizer.")}
        if lost == "head statistics":
            return {
                name: torch.zeros_like(value) if "standardise" in name else value for name, value in tensors.items()
            }
        return {
            name: torch.zeros_like(value) if name.startswith(f"{lost}.") and "norm" not in name else value
            for name, value in tensors.items()
        }

    monkeypatch.setattr(checkpoint, "load_tensors", partly)
    kept = {"step": ('"step":3', '"step":2'), "schedule": ('"samples":6', '"samples":4')}.get(lost)
    if kept is not None:
        metadata = checkpoint.load_metadata
        assert all(kept[0] in value for value in metadata(tmp_path / CHECKPOINT).values())
        monkeypatch.setattr(
            checkpoint,
            "load_metadata",
            lambda path: {key: value.replace(*kept) for key, value in metadata(path).items()},
        )
    assert difference(run(store, cases, tmp_path), uninterrupted) > 0


@pytest.fixture
def scaled(monkeypatch) -> None:
    """The scaler of a GPU without bf16, one that grows within a few steps; a CPU would take minutes for fp16 itself."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**6, growth_interval=4)
    monkeypatch.setattr(torch.amp, "GradScaler", lambda *_, **__: copy.deepcopy(scaler))


@pytest.mark.usefixtures("scaled")
@pytest.mark.parametrize("recipe", ["adamw", "sgd"])
def test_all_that_a_checkpoint_holds_comes_back_and_is_needed(store, cases, tmp_path, monkeypatch, recipe):
    """Every tensor of the last checkpoint is that of the uninterrupted training, and depends on each kind of them."""
    settings = SETTINGS.model_copy(update={"recipe": recipe, "warmup_steps": 1})
    monkeypatch.setattr(train, "validate", lambda *_, **__: {})  # what follows the last checkpoint
    monkeypatch.setattr(train, "refit_heads", lambda *_, **__: None)
    run(store, cases, tmp_path / "whole", settings=settings)
    run(store, cases, tmp_path / "first", settings=settings, stop_at=3)
    whole = checkpoint.load_tensors(tmp_path / "whole" / CHECKPOINT)
    scales = [checkpoint.load_tensors(tmp_path / name / CHECKPOINT)["scaler.scale"] for name in ("first", "whole")]
    assert scales[1] == 2 * scales[0] == 2.0**7

    def resumed(lost: str | None) -> bool:
        folder = tmp_path / f"without {lost}"
        shutil.copytree(tmp_path / "first", folder)
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "load_tensors", lambda path: without(lost, load_tensors(path)))
            run(store, cases, folder, settings=settings)
        found = load_tensors(folder / CHECKPOINT)
        return found.keys() == whole.keys() and all(torch.equal(found[name], whole[name]) for name in whole)

    assert resumed(None)
    kinds = {name.rpartition(".")[2] for name in whole if name.startswith("optimizer.")}
    assert kinds == ({"exp_avg", "exp_avg_sq", "step"} if recipe == "adamw" else {"momentum_buffer"})
    scaler = ("scaler.", "scaler._growth_tracker") if recipe == "adamw" else ()
    assert [lost for lost in (*scaler, *sorted(kinds)) if resumed(lost)] == []


def without(lost: str | None, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A whole part is left out, of its members each is zero."""
    if lost == "scaler.":
        return {name: value for name, value in tensors.items() if not name.startswith(lost)}
    return {
        name: torch.zeros_like(value) if lost is not None and name.endswith(lost) else value
        for name, value in tensors.items()
    }


def test_the_model_holds_the_feature_statistics_that_training_gathered(uninterrupted):
    """They are buffers: averaging the parameters alone would leave a head that standardises with nothing."""
    weights = uninterrupted.weights
    assert weights["head.standardise.count"] == uninterrupted.progress.step
    assert weights["head.standardise.mean"].abs().max() > 0


def test_another_seed_trains_another_network(store, cases, uninterrupted, tmp_path):
    other = run(store, cases, tmp_path, settings=SETTINGS.model_copy(update={"seed": 6}))
    assert difference(other, uninterrupted) > 0


def test_resuming_with_something_changed_names_it(store, cases, tmp_path):
    run(store, cases, tmp_path, stop_at=2, identity={"plan": "a", "train.seed": "5"})
    with pytest.raises(UsageError, match=r"plan was a, is b") as caught:
        run(store, cases, tmp_path, identity={"plan": "b", "train.seed": "5"})
    assert caught.value.code == "E-RESUME"


def test_a_damaged_checkpoint_is_refused(store, cases, tmp_path):
    run(store, cases, tmp_path, stop_at=2)
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ModelError) as caught:
        run(store, cases, tmp_path)
    assert caught.value.code == "E-WEIGHTS"
    assert str(path) in str(caught.value)


def test_a_loss_that_is_not_finite_stops_before_any_weight_changes(store, cases, tmp_path, monkeypatch):
    before: list[torch.Tensor] = []

    def spoiled(*arguments):
        before.extend(value.clone() for value in machine[0].network.state_dict().values())
        return torch.tensor(float("nan"), requires_grad=True)

    machine: list[Machine] = []
    build = train.build_machine
    monkeypatch.setattr(train, "build_machine", lambda *arguments: machine.append(build(*arguments)) or machine[0])
    monkeypatch.setattr(step, "segmentation_loss", spoiled)
    with pytest.raises(MedsegError, match="phantom_") as caught:
        run(store, cases, tmp_path)
    assert caught.value.code == "E-NUMERIC"
    after = list(machine[0].network.state_dict().values())
    assert all(torch.equal(first, second) for first, second in zip(before, after, strict=True))


def test_it_learns(store, cases, tmp_path):
    """Thirty epochs on four cases bring the loss well below that of the first step."""
    losses: list[float] = []
    settings = TrainSettings(epochs=30, warmup_steps=5, seed=1, augment=False)
    fit(
        store.plan,
        cases,
        cases[:1],
        settings=settings,
        run=Run(tmp_path, {}, lambda status: losses.append(status.losses["segmentation"]), lambda *_: None),
    )
    assert losses[-1] < 0.7 * losses[0]


def test_a_budget_is_kept_and_early_models_are_offered(store, cases, tmp_path):
    offered: list[dict[str, float]] = []
    settings = TrainSettings(budget="6s", warmup_steps=2)
    fitted = fit(
        store.plan,
        cases,
        cases[:1],
        settings=settings,
        run=Run(tmp_path, {}, lambda _: None, lambda _, scores: offered.append(scores)),
    )
    assert fitted.finished
    assert offered
    assert set(offered[0]) >= {"dice", "dice/organ", "dice/lesion"}
    assert fitted.progress.elapsed_s < 12


def test_the_board_shows_curves_use_and_pictures_of_patches(store, cases, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(store, cases, tmp_path, settings=SETTINGS.model_copy(update={"epochs": 6}))
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(board.Tags()["scalars"]) >= {
        "train/segmentation",
        "train/classification",
        "train/gradient_norm",
        "train/learning_rate",
        "use/patches_per_s",
        "use/cpu_percent",
        "validation/dice",
        "validation/dice/organ",
    }
    assert board.Tags()["images"] == ["patches"]
