"""The fleet: what the crashes of many machines have in common.

A collector takes reports and dumps, workers group them, pages and an API show them. The crash's row in the database is
the truth; a queue only wakes workers up. This is the only package that knows a database, and nothing below imports it.
It needs the extra `linux-kdump[fleet]`.
"""
