"""Other people's ways to lay out a dataset, turned into a manifest."""

from medseg.data.importers.detect import import_dataset

__all__ = ["import_dataset"]
