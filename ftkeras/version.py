"""The version, on its own: nothing else of the package is imported to read it."""

__version__ = "0.2.0"
