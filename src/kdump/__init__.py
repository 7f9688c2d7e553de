"""kdump: Linux crash dumps end to end."""

__version__ = "0.2.0"
