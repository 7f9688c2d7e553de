# The two commands: `make demo` and `make test`. Both do all their set-up (Debian packages, .venv) and say what they install.
.PHONY: demo test lint bench dist clean
SHELL := /bin/bash
PY := .venv/bin/python

demo: .venv/demo.stamp
	@.venv/bin/kdump demo $(DEMO)

test: .venv/test.stamp
	@$(PY) -m pytest --numprocesses auto --dist loadscope --no-loadscope-reorder $(TEST)

lint: .venv/test.stamp
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

bench: .venv/test.stamp
	@$(PY) -m benchmarks $(BENCH)

.venv/demo.stamp: pyproject.toml tools/bootstrap tools/hatch_build.py $(wildcard src/kdump/native/*.[ch])
	@tools/bootstrap demo

.venv/test.stamp: pyproject.toml tools/bootstrap tools/hatch_build.py $(wildcard src/kdump/native/*.[ch])
	@tools/bootstrap test

# sdist, wheel, .deb and rpm in dist/: packaging/README.md
dist: .venv/test.stamp
	@$(PY) tools/dist.py $(DIST)

clean:
	rm -rf .venv dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
