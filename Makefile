# The two commands: `make demo` and `make test`. Each target does its set-up (Debian packages, .venv) and says what it installs.
.PHONY: demo fleet-demo check test matrix machines lint sanitize fuzz bench dist release docs clean
SHELL := /bin/bash
PY := .venv/bin/python

# `make demo DEMO="--arch aarch64"` sets up what a machine of that architecture needs besides.
demo: .venv/$(if $(filter aarch64 arm64 --arch=aarch64 --arch=arm64,$(DEMO)),aarch64,demo).stamp
	@.venv/bin/kdump demo $(DEMO)

# Three tiers: `check` while you write (minutes; without machines, servers, attacks and packages), `test` before a change
# lands, `matrix` before a release (hours). Tests of `check` wait a lot: one worker more than there are CPUs. Those of the
# others boot machines, which lose timer interrupts where more of them run than there are CPUs.
check: lint
	@$(PY) -m pytest --numprocesses $$(($$(nproc) + 1)) -q -m "not lab and not system and not kinds and not product and not matrix" \
	  $(addprefix --ignore=tests/,attack fleet packaging assist) $(CHECK)

test: .venv/test.stamp
	@$(PY) -m pytest --numprocesses auto --dist loadscope --no-loadscope-reorder --durations 15 $(TEST)

matrix: .venv/test.stamp
	@$(PY) -m pytest --numprocesses auto --dist loadscope --no-loadscope-reorder -m "matrix or system or kinds or product" $(MATRIX)
	@$(PY) -m tests.matrix $(MACHINES)

fleet-demo: .venv/fleet.stamp
	@.venv/bin/kdump fleet demo $(DEMO)

lint: .venv/test.stamp
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

# The C code under ASan and UBSan: a copy of the sources with a library of its own, and the tests that pass through it.
sanitize: .venv/test.stamp
	@tools/sanitize $(SANITIZE)

# Coverage-guided fuzzing of every parser of foreign bytes, FUZZ_TIME seconds each; what is found stays in tests/fuzz/corpus.
FUZZ_TIME := 60
fuzz: .venv/test.stamp
	@$(PY) -c "import atheris" 2>/dev/null || $(PY) -m pip install -q -e '.[fuzz]'
	@for target in $(or $(FUZZ),$$($(PY) -m tests.fuzz --list)); do \
	  echo "== $$target"; $(PY) -m tests.fuzz $$target -max_total_time=$(FUZZ_TIME) -verbosity=0 || exit 1; done

machines: .venv/test.stamp
	@$(PY) -m tests.matrix $(MACHINES)

bench: .venv/test.stamp
	@$(PY) -m benchmarks $(BENCH)

.venv/demo.stamp: pyproject.toml tools/bootstrap tools/hatch_build.py $(wildcard src/kdump/native/*.[ch])
	@tools/bootstrap demo

.venv/aarch64.stamp: pyproject.toml tools/bootstrap tools/hatch_build.py $(wildcard src/kdump/native/*.[ch])
	@tools/bootstrap aarch64

.venv/fleet.stamp: pyproject.toml tools/bootstrap tools/hatch_build.py $(wildcard src/kdump/native/*.[ch])
	@tools/bootstrap fleet

.venv/test.stamp: pyproject.toml tools/bootstrap tools/hatch_build.py $(wildcard src/kdump/native/*.[ch])
	@tools/bootstrap test

.venv/dist.stamp: pyproject.toml tools/bootstrap tools/hatch_build.py $(wildcard src/kdump/native/*.[ch])
	@tools/bootstrap dist

# sdist, wheel, .deb and rpm in dist/: packaging/README.md. Packages for another architecture take its cross compiler.
dist: .venv/$(if $(filter --arch%,$(DIST)),test,dist).stamp
	@$(PY) tools/dist.py $(DIST)

# A commit, a tag and packages: CONTRIBUTING.md, "Release"
release: .venv/test.stamp
	@$(PY) tools/release.py $(VERSION)

# The documentation as a static site, in site/
docs: .venv/test.stamp
	@$(PY) tools/site.py

clean:
	rm -rf site
	rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
