# Everything runs in .venv, which the first target that needs it makes. `make help` lists the targets.

PYTHON   ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
              $$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
              && echo $$p && break; done)
PROFILE  ?= embedded
FRESH    ?= 0
QUICK    ?= 0
SLOW     ?= 0
JOBS     ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
WORD     ?= LoftUp
DATASET  ?= voc21
CHAPTERS ?=
OPTIONS  ?=
BENCH    ?= $(sort $(basename $(notdir $(wildcard bench/*.py))))

VENV      := .venv
RUN       := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
NOTEBOOKS := $(wildcard notebooks/*.ipynb)
SHORT     := $(if $(filter 1,$(SLOW)),,-m "not slow")
# From Python 3.12 on lines are counted for next to nothing; tracing them before costs two minutes of `make test`.
CHEAP_COVERAGE = $(shell $(RUN) -c 'import sys; print("yes" if sys.version_info >= (3, 12) else "")' 2>/dev/null)

# One thread per process: the targets below run several processes at once.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM = false
export PYDEVD_DISABLE_FILE_VALIDATION = 1

.DEFAULT_GOAL := help
.PHONY: help install book notebooks quick test coverage check-book rehearsal lab bench clean clean-all

help:  ## list the targets
	@echo "make TARGET [NAME=value ...]"
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1|/' \
		| awk -F'|' '{printf "%-13s %s\n", $$1, $$2}'

install: $(INSTALLED)  ## make .venv with every package at its pinned version
book: $(INSTALLED)  ## run the notebooks and build the book: QUICK=1 takes 60 pictures, FRESH=1 measures again, PROFILE=a name or own.yaml
	@$(RUN) scripts/build_book.py --profile "$(PROFILE)" --jobs $(JOBS) \
		$(if $(filter 1,$(FRESH)),--fresh) $(if $(filter 1,$(QUICK)),--quick)

notebooks: $(INSTALLED)  ## run every notebook with its defaults and keep the outputs, which the tests compare
	@$(RUN) scripts/run_notebooks.py --store --jobs $(JOBS)

quick: $(INSTALLED)  ## ruff, types, and the unit tests that take no more than a moment: under a minute
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy
	@$(RUN) -m pytest -q -n $(JOBS) --dist loadfile tests/clip tests/text tests/images tests/stages tests/test_methods.py \
		tests/test_recipe.py tests/test_house.py

test: $(INSTALLED)  ## ruff, types, the unit tests, and every notebook against its stored outputs: SLOW=1 adds the long tests
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy
	@$(RUN) -m pytest -q -n $(JOBS) --dist loadfile $(SHORT) $(if $(CHEAP_COVERAGE),--cov --cov-report=) tests
	@$(if $(NOTEBOOKS),$(RUN) -m pytest -q -n $(JOBS) --dist loadfile --nbval --nbval-current-env --nbval-cell-timeout 600 $(NOTEBOOKS))
	@$(if $(CHEAP_COVERAGE),echo "coverage: $$($(RUN) -m coverage report --format=total) % of the lines of ovsslib",echo "coverage: traced for little from Python 3.12 on; here make coverage prints it")

coverage: $(INSTALLED)  ## the unit tests again, with the share of each file's lines that they run
	@$(RUN) -m pytest -q -n $(JOBS) --dist loadfile $(SHORT) --cov --cov-report=term:skip-covered tests

check-book: $(INSTALLED)  ## open every page of the built book in headless Chromium: WORD=LoftUp is searched for
	@$(RUN) scripts/check_book.py --word "$(WORD)"

rehearsal: $(INSTALLED)  ## run the notebooks on fake pictures in the layout of DATASET=voc21: CHAPTERS="00 01" for some
	@$(RUN) scripts/rehearse.py $(CHAPTERS) --dataset "$(DATASET)" --jobs $(JOBS)

lab: $(INSTALLED)  ## open the notebooks in JupyterLab
	@$(VENV)/bin/jupyter lab notebooks

bench: $(INSTALLED)  ## time the costly parts against plain versions of themselves: BENCH="flow pamr" for some, OPTIONS="--only sclip" for each
	@for name in $(BENCH); do echo "== $$name"; OMP_NUM_THREADS=$(JOBS) $(RUN) bench/$$name.py $(OPTIONS) || exit 1; done

clean:  ## remove the built book and the tools' caches
	rm -rf build public .pytest_cache .ruff_cache dist

clean-all: clean  ## remove .venv as well
	rm -rf $(VENV)

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "ovsslib needs Python 3.10, 3.11, 3.12 or 3.13: install one," \
		"or name it: make PYTHON=/path/to/python3.12"; exit 1; }
	@command -v $${CC:-cc} >/dev/null || command -v gcc >/dev/null || { echo "ovsslib needs a C and C++ compiler" \
		"(DenseCRF is compiled). Debian, Ubuntu: apt install g++ python3-dev"; exit 1; }
	@echo "installing into $(VENV) with $$($(PYTHON) --version) (once, a few minutes)"
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "cannot make $(VENV). Debian, Ubuntu: apt install python3-venv"; exit 1; }
	@$(RUN) -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[book,dev]"
	@if $(RUN) -c 'import sys; sys.exit(sys.version_info < (3, 13))'; then \
		$(RUN) -m pip install -qq --disable-pip-version-check -c constraints.txt "cython>=3" setuptools wheel && \
		$(RUN) -m pip install -qq --disable-pip-version-check -c constraints.txt --no-build-isolation pydensecrf2; fi
	@touch $@
	@echo "installed $$($(RUN) -m pip list --disable-pip-version-check 2>/dev/null | tail -n +3 | wc -l) packages"
