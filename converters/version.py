"""The one place that holds the version; pyproject.toml reads it, and so does `gmnet --version`."""

__version__ = "0.1.0"
