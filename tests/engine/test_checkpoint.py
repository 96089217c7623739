"""What may not change between two sessions of one training, and how it is named."""

import pytest
import torch

from medseg.core.errors import UsageError
from medseg.engine.checkpoint import TrainingProgress, TrainingState, differences, load_checkpoint, save_checkpoint

HASH = "a" * 64
BEFORE = {
    "plan.patch_size": "[48, 48, 48]",
    "train.seed": "3",
    "label liver": "1",
    "training case a": HASH,
    "training case b": HASH,
}


@pytest.mark.parametrize(
    ("now", "named"),
    [
        ({**BEFORE, "plan.patch_size": "[64, 64, 64]"}, ["plan.patch_size was [48, 48, 48], is [64, 64, 64]"]),
        ({**BEFORE, "training case b": "b" * 64}, ["training case b was changed"]),
        ({**BEFORE, "training case c": HASH}, ["training case c was added"]),
        ({key: value for key, value in BEFORE.items() if key != "training case a"}, ["training case a was removed"]),
        ({key: value for key, value in BEFORE.items() if key != "train.seed"}, ["train.seed was 3, is its default"]),
        ({**BEFORE, "train.augment": "false"}, ["train.augment was its default, is false"]),
        ({**BEFORE, "label liver": "2"}, ["label liver was 1, is 2"]),
        ({**BEFORE, "label tumour": "2"}, ["label tumour was added"]),
        (dict(reversed(BEFORE.items())), []),
    ],
)
def test_every_change_is_named(now, named):
    assert [change for kind in differences(BEFORE, now) for change in kind] == named


def test_settings_are_named_before_the_cases_that_they_moved(tmp_path):
    many = {f"training case {number}": HASH for number in range(20)}
    with pytest.raises(
        UsageError, match=r"train\.fold was 1, is 2; training case 0 was removed;.*\(and 16 more\)"
    ) as e:
        TrainingProgress(identity={"train.fold": "1", **many}).require({"train.fold": "2"}, tmp_path)
    assert e.value.code == "E-RESUME"


def test_one_age_is_named_beside_all_that_follows_from_it(tmp_path):
    """The plan's mean, and the hash of every file, in which ages lie encoded."""
    plan = {f"plan.classification.targets.age.{name}": "1.0" for name in ("high", "low", "mean", "std")}
    before = {**plan, **{f"training case {number}": HASH for number in range(20)}, "age of training case 7": "61.0"}
    now = {key: "b" * 64 if value == HASH else "2.0" for key, value in before.items()}
    with pytest.raises(UsageError, match=r"age\.std was 1\.0, is 2\.0; age of training case 7 was 61\.0, is 2\.0") as e:
        TrainingProgress(identity=before).require(now, tmp_path)
    assert "; training case 0 was changed; " in e.value.message
    assert e.value.message.endswith("(and 16 more)")


def test_the_scale_of_a_reduced_precision_comes_back(tmp_path):
    first, second, third = (torch.amp.GradScaler("cpu", enabled=True, init_scale=1024.0) for _ in range(3))
    first.load_state_dict({**first.state_dict(), "scale": 8.0, "_growth_tracker": 77})
    save_checkpoint(tmp_path / "checkpoint.safetensors", TrainingProgress(), state(first))
    load_checkpoint(tmp_path / "checkpoint.safetensors", {}, state(second))
    assert second.state_dict() == first.state_dict()
    kinds = [{key: type(value) for key, value in one.state_dict().items()} for one in (first, second)]
    assert kinds[0] == kinds[1]  # torch refuses a growth interval of 2000.0
    assert third.state_dict() != first.state_dict()


def state(scaler: torch.amp.GradScaler) -> TrainingState:
    network = torch.nn.Linear(2, 1)
    return TrainingState(network, torch.nn.Linear(2, 1), torch.optim.AdamW(network.parameters()), scaler)
