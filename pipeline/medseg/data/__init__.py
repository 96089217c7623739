"""A dataset on disk."""
