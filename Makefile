# make report   install, pre-train three small models, probe them, render the report, print where it is
# make check    in two minutes: in step, lint, types, the tests that are not slow
# make format   write notebooks, tests and tools in the one format of the project, and export
# make test     everything that CI runs           make soak      what repeats tests at length
# make coverage  which lines the quick tests reach
# make docs     the documentation site in _docs/        make lab     JupyterLab on the notebooks
# make readme   README.md, index.qmd from their notebook  make clean   remove what these made, but the models' cache
SHELL := /bin/bash
PYTHON ?= python3
PORT ?= 8888
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export HF_HUB_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := 1

.PHONY: report check quick lint format test docs lab readme clean help install hooks step types example notebooks studies pytest soak repeats tutorials coverage cluster package
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# //p' Makefile

# ---------------------------------------------------------------- environments

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and f"taskspace needs Python 3.11 to 3.13, this is {sys.version.split()[0]}: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv

.venv/user: .venv/bin/python settings.ini setup.py constraints.txt
	python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

.venv/dev: .venv/user
	python -m pip install --quiet --constraint constraints.txt --editable '.[dev,dask,gguf,peers]'
	@if [ -d .git ] && [ -z "$$CI" ]; then $(MAKE) --no-print-directory hooks; fi
	@touch $@

install: .venv/dev

# Notebooks are cleaned when they are committed, and Jupyter's conflicts in them merge as notebooks
hooks:
	@git config core.hooksPath tools/hooks

# ---------------------------------------------------------------- what people want

report: .venv/user
	taskspace demo --out report

# JupyterLab brings a check of web addresses that slows every import of Altair by a second, so it comes only when wanted.
.venv/lab: .venv/user
	python -m pip install --quiet --constraint constraints.txt --editable '.[lab]'
	@touch $@

lab: .venv/lab
	jupyter lab --notebook-dir=nbs --port=$(PORT)

# Pages are made before rendering as well, since Quarto 1.4 would not see those that it makes itself.
docs: .venv/dev
	python tools/docs.py pages
	@if command -v quarto >/dev/null; then quarto render; else smalldocs render --strict .; fi
	python tools/docs.py links _docs
	@echo "_docs/index.html"

readme: .venv/dev
	python tools/docs.py readme

# ---------------------------------------------------------------- everything that CI runs

check: .venv/dev step
	OMP_NUM_THREADS=1 $(MAKE) --no-print-directory --jobs=3 --output-sync=target lint types quick

# What needs one core goes beside something else, so that two cores are busy all the time.
test: .venv/dev step
	OMP_NUM_THREADS=1 $(MAKE) --no-print-directory --jobs=4 --output-sync=target example lint types cluster studies
	OMP_NUM_THREADS=1 $(MAKE) --no-print-directory --jobs=3 --output-sync=target pytest notebooks package
	@echo; grep -E '^=* ?[0-9]+ (passed|failed)' .pytest.out

# Notebooks and tests have one format, which nobody needs to think about.
format: .venv/dev
	ruff format
	nbdev_export

step:
	python tools/in_step.py
	python tools/docs.py readme --check

lint:
	ruff check
	ruff check --config 'lint.exclude = []' --select E501,E731,E741,B905,I nbs
	ruff format --check

types:
	mypy

quick: .venv/dev
	OMP_NUM_THREADS=1 python -m pytest -n auto --dist worksteal -m "not slow and not soak"

# The studies that train models of their own run at a fraction of their size; their saved outputs are of the full one.
STUDIES := "generalisation:-p seeds 4 -p end_seeds 1 -p base_steps 30 -p steps 30 -p test_sentences 60 -p permutations 99" \
           "inside_outside:-p seeds 2 -p steps 6 -p early 3 -p sentences 1000 -p test_sentences 40 -p tasks 4 -p pairs 4 -p permutations 49" \
           "activations:-p seeds 2 -p steps 40 -p stitch_steps 5 -p sentences 2000 -p stitch_sentences 100 -p test_sentences 80" \
           "width_depth:-p seeds 2 -p steps 10 -p sentences 1000 -p test_sentences 40"

# The example study that many notebooks and tests look at, with the built-in models that it needs
example: .venv/dev
	python -c "from taskspace.runs.execute import example_run; example_run()"

# The example is made in the recipe, so that nothing else is begun in its place while it is looked for.
notebooks: .venv/dev
	$(MAKE) --no-print-directory example
	OMP_NUM_THREADS=1 nbdev_test --n_workers 1 --skip_file_re '^[_.]|^(activations|generalisation|inside_outside|width_depth|planted_structure|babylm_training)'

studies: .venv/dev
	printf '%s\n' $(STUDIES) | OMP_NUM_THREADS=1 xargs -P 1 -d '\n' -I{} bash -c 'study="{}"; papermill --no-progress-bar "nbs/studies/$${study%%:*}.ipynb" /dev/null $${study#*:}'

# One run for quick and slow tests: what waits stands beside what computes.
pytest: .venv/dev
	set -o pipefail; OMP_NUM_THREADS=1 python -m pytest -n 2 --dist worksteal -m "not soak" --ignore=tests/cluster --durations=20 2>&1 | tee .pytest.out

# What repeats others at length: before a release, and after a change of what it repeats. tests/README.md names it.
soak: .venv/dev
	OMP_NUM_THREADS=1 $(MAKE) --no-print-directory --jobs=2 --output-sync=target repeats tutorials

repeats: .venv/dev
	OMP_NUM_THREADS=1 python -m pytest -n 2 --dist worksteal -m soak --durations=10

# Two tutorials have the largest and the masked built-in model, which nothing else needs and which take minutes to train.
tutorials: .venv/dev
	OMP_NUM_THREADS=1 nbdev_test --n_workers 1 --path nbs/tutorials --file_re '^(planted_structure|babylm_training)'

# Measured by the quick tests, and apart from everything else: it slows them down by a half, and the slow ones reach few lines more.
coverage: .venv/dev
	OMP_NUM_THREADS=1 coverage run --parallel-mode -m pytest -n 2 --dist worksteal -m "not slow and not soak"
	coverage combine --quiet
	coverage report

# A SLURM of one node, where it is installed: most of the time it waits for a limit to pass.
cluster: .venv/dev
	OMP_NUM_THREADS=1 python -m pytest -q -m slow tests/cluster

package: .venv/dev
	python tools/package.py

clean:
	rm -rf _docs _proc pages build dist report .coverage .coverage.* .pytest.out .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
