"""The version of this code, whatever distribution of it is installed."""

__version__ = "0.1.0"
