"""Facts of an architecture, as data."""
