.DEFAULT_GOAL := help
SHELL := bash
MAKEFLAGS += --no-print-directory
BIN := .venv/bin

.PHONY: audit help env run test coverage test-fast check format bench quality flink flink-check kill-check platforms reference docs site lock clean image image-push image-check kfp-check

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

env:  ## make .venv, or bring it up to date
	@scripts/make-env

run: env  ## simulate a few days of logs and run the pipeline on them
	@$(BIN)/steadyrank demo

# Worker processes of the tests; each takes up to 6 GB. A file stays in one worker, because its
# tests share what they made; those that take longest come first (tests/conftest.py).
JOBS ?= 2
PYTEST = $(BIN)/pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder --durations 25

# In two runs: TensorFlow keeps what it has compiled for as long as its process lives, 80 MB for
# each training.
test: env  ## every test, whole pipeline runs included (JOBS=2)
	@failed=0; for part in 'tests/trainer_module' 'tests --ignore tests/trainer_module'; do \
	  echo "== $$part"; $(PYTEST) $$part || failed=1; done; exit $$failed

coverage: env  ## every test, and which lines of the project no test reaches
	$(PYTEST) --cov --cov-report=term:skip-covered

test-fast: env  ## the tests that are not slow (at most 3 CPU seconds each): no whole pipeline
	$(PYTEST) -m "not slow" --most-cpu 3

check: env  ## lint, format, types, spelling and style of the documents, and their site
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/python scripts/check_prose.py
	$(MAKE) site

# NO_MKDOCS_2_WARNING: mkdocs-material announces a version that nothing here uses.
site: env  ## build the documents as a site, build/site (warnings are errors)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open build/site/index.html; for its search: python3 -m http.server --directory build/site"

audit: env  ## known weaknesses of the locked packages (asks the network; see SECURITY.md)
	$(BIN)/python -m venv build/audit
	build/audit/bin/pip install --quiet 'pip-audit>=2.10,<3'
	@set -e; for lock in locks/tfx-*.txt; do echo "== $$lock"; \
	  build/audit/bin/pip-audit --strict --no-deps --disable-pip --requirement $$lock; done

format: env  ## rewrite the code as `check` wants it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: env  ## measure ingestion, training and optimizers against named peers
	@set -e; for name in ingest train optimizers; do echo "== $$name"; $(BIN)/python -m benchmarks.$$name; done

quality: env  ## AUC of a default model on a small simulated world, held to the record (minutes)
	$(BIN)/python -m benchmarks.quality --short

WORKERS ?= 2
flink: env  ## run two days on a Flink cluster here and compare with one machine (WORKERS=2; Java, mvn)
	$(BIN)/python -m benchmarks.flink --workers $(WORKERS)

flink-check: env  ## the short form: a day on Flink, a worker killed in it (minutes; Java, mvn)
	FLINK_CHECK=1 $(BIN)/pytest tests/benchmarks/test_flink.py -k killed_worker -rs

kill-check: env  ## kill a day in each of its components and run it again (8 minutes)
	KILL_CHECK=1 $(BIN)/pytest tests/pipeline/test_end_to_end.py -k killed

platforms: env  ## write, on this platform, what tests/platforms reads on every platform
	PYTHONPATH=. $(BIN)/python tests/platforms/written.py

reference: env  ## make the tables of docs/spec.md and the JSON Schema from the spec's docstrings
	@$(BIN)/python -m schemas.reference

docs: env  ## check the documents: links, and the spec's reference against the code
	$(BIN)/pytest tests/test_docs.py tests/schemas/test_spec_docs.py

ENGINE ?= docker
VERSION := $(shell sed -n 's/^    version="\(.*\)",$$/\1/p' setup.py)
IMAGE ?= steadyrank:$(VERSION)
image:  ## build the container image (IMAGE=, BASE=, ENGINE=, BUILD_FLAGS=)
	$(ENGINE) build $(BUILD_FLAGS) --file kubeflow/Dockerfile --tag $(IMAGE) \
	  --build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse HEAD) $(if $(BASE),--build-arg BASE=$(BASE)) .

image-push:  ## push the container image
	$(ENGINE) push $(IMAGE)

image-check: env  ## build the image, or take IMAGE_CHECK, and run days in its containers (needs podman)
	IMAGE_CHECK=$${IMAGE_CHECK:-1} $(BIN)/pytest tests/kubeflow/test_image.py tests/kubeflow/test_containers.py

kfp-check: env  ## run a day by the KFP SDK's own local runner, in the image's containers (needs podman)
	IMAGE_CHECK=$${IMAGE_CHECK:-1} $(BIN)/pytest tests/kubeflow/test_containers.py -k kfps_own -rs

# uv keeps the versions that a lock holds; UPGRADE=1 takes the newest that resolve.
COMPILE = uv pip compile --quiet --no-header --no-annotate --generate-hashes $(if $(UPGRADE),--upgrade)
lock:  ## regenerate locks/ from setup.py (needs uv; UPGRADE=1 takes newer versions)
	$(COMPILE) --universal --python-version 3.10 locks/build.in --output-file locks/build.txt
	$(COMPILE) --python-version 3.10 --python-platform x86_64-manylinux_2_28 setup.py \
	  --extra test --extra bench --output-file locks/tfx-1.16.txt
	$(COMPILE) --universal --python-version 3.11 setup.py \
	  --extra test --extra bench --output-file locks/tfx-1.21.txt
	$(COMPILE) --universal --python-version 3.13 --constraint locks/tfx-1.21.txt setup.py \
	  --output-file locks/image.txt

clean:  ## delete what the tools and `make run` leave; .venv and other workspaces stay
	rm -rf work/demo build dist *.egg-info .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
