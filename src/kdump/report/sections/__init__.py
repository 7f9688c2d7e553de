"""The sections of a report, one module each.

A section module has `TITLE`, `NEEDS_DUMP` (false if the log suffices) and `collect(context, section)`, which fills the
section and may raise: what it has put in so far stays, and the error becomes the section's text.
"""

ALL = ("system", "cpus", "blocked", "tasks", "modules", "log")
SHORT = ("system", "cpus", "blocked")  # what the capture kernel makes before the dump is saved
