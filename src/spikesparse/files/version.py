"""The version of the package: read here by the build, and shown by ``--version``."""

__version__ = "0.1.0"
