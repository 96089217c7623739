"""The words: types, settings, errors."""
