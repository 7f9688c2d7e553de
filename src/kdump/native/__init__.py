"""The compiled loops: C sources, the library made of them, and `engine`, which everything else calls.

`interface` says what an engine does; `compiled` does it in C, `plain` in Python where the library was not built, and
tests compare the two. `engine` is the only place that chooses.
"""
