"""CT, MRI, PET and ultrasound volumes into segmentations, a case-level diagnosis and per-case reports.

The command line and this module offer the same verbs; heavy libraries load when a verb first needs them.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medseg.apps.api import check as check
    from medseg.apps.api import evaluate as evaluate
    from medseg.apps.api import infer as infer
    from medseg.apps.api import preprocess as preprocess
    from medseg.apps.api import train as train
    from medseg.core.errors import MedsegError as MedsegError
    from medseg.core.geometry import Geometry as Geometry
    from medseg.core.volume import LabelMap as LabelMap
    from medseg.core.volume import Volume as Volume
    from medseg.data.importers import import_dataset as import_dataset
    from medseg.engine.predict import Predictor as Predictor
    from medseg.io.volumes import read_labels as read_labels
    from medseg.io.volumes import read_volume as read_volume
    from medseg.io.volumes import write_labels as write_labels
    from medseg.io.volumes import write_volume as write_volume
    from medseg.ops.metrics import segmentation_metrics as segmentation_metrics

__version__ = version("medseg")

_HOMES = {
    "Geometry": "medseg.core.geometry",
    "LabelMap": "medseg.core.volume",
    "MedsegError": "medseg.core.errors",
    "Predictor": "medseg.engine.predict",
    "Volume": "medseg.core.volume",
    "check": "medseg.apps.api",
    "evaluate": "medseg.apps.api",
    "import_dataset": "medseg.data.importers",
    "infer": "medseg.apps.api",
    "preprocess": "medseg.apps.api",
    "read_labels": "medseg.io.volumes",
    "read_volume": "medseg.io.volumes",
    "segmentation_metrics": "medseg.ops.metrics",
    "train": "medseg.apps.api",
    "write_labels": "medseg.io.volumes",
    "write_volume": "medseg.io.volumes",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        message = f"module 'medseg' has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
