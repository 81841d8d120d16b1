# Everything starts from a machine with Python 3.11+ and nothing else.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := .venv-peers
DOCS := .venv-docs
ROOMS := .venv-rooms
FLOORS := .venv-floors
OLDEST := torch,plot,cli,pandas,demo,testing
comma := ,
# A module's tests stay together, because they share what takes long to make.
PARALLEL := --numprocesses auto --maxprocesses 8 --dist loadfile
ROOM_FILES := $(patsubst %,src/findlr/%*,accelerate fastai huggingface ignite jax keras lightning ray skorch)

.PHONY: help setup demo test test-rooms lint format docs pictures bench bench-memory bench-snapshot bench-growth bench-faults bench-passes bench-workers bench-cost bench-rooms bench-gpu study study-truth prove floors release-check clean

help: ## Show this help
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

setup: $(READY) ## Make the virtual environment

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(RUN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all]' --group dev
	@touch $@

demo: setup ## Find a rate on real data, and show that it is good
	$(RUN)/findlr demo

test: setup ## Run the tests
	$(RUN)/python -m pytest $(PARALLEL) --ignore tests/test_windows.py
	$(RUN)/python -m pytest tests/test_windows.py # a DataLoader's spawned worker hangs below pytest-xdist's

$(ROOMS)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(ROOMS)
	$(ROOMS)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(ROOMS)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[all,accelerate,huggingface,ignite,jax,keras,lightning,ray,skorch]' --group rooms
	$(ROOMS)/bin/python -m pip install --quiet --no-deps fastai==2.8.12
	@touch $@

test-rooms: $(ROOMS)/.ready ## Test the calls for Lightning, Hugging Face and others, with the real packages
	$(ROOMS)/bin/python -m pytest $(PARALLEL) tests/rooms $(wildcard $(ROOM_FILES))

lint: setup ## Check style, types and the layers
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports

format: setup ## Put the code in style
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

$(DOCS)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(DOCS)/bin/python -m pip install --quiet --constraint constraints.txt --group docs
	@touch $@

docs: $(DOCS)/.ready ## Build the site of the documents into build/site; a warning is an error
	$(DOCS)/bin/python scripts/site.py build/pages
	$(DOCS)/bin/zensical build --clean --strict
	rm -f build/site/404.html # it looks for its style at the root of a server
	$(DOCS)/bin/python scripts/check_site.py build/site

pictures: setup ## Make the pictures of the documents anew, in build/pictures
	$(RUN)/python docs/figures.py build/pictures
	$(RUN)/python docs/gallery.py build/pictures
	if command -v chromium; then $(RUN)/python docs/live.py build/pictures; fi

bench: setup ## Time what findlr costs beside what it must cost
	$(RUN)/python bench/imports.py

bench-memory: setup ## Measure what a snapshot adds to the memory, in each of its modes
	$(RUN)/python bench/memory.py

bench-snapshot: setup ## Time a snapshot and a restore beside copying the same tensors once
	$(RUN)/python -m bench.snapshot

bench-growth: setup ## Time the rules, the smoothing and the files on curves of up to a million points, and a search against what it is given
	$(RUN)/python bench/growth.py
	$(RUN)/python -m bench.slopes

bench-faults: setup ## Count the page faults of a search's steps beside a bare loop's
	$(RUN)/python -m bench.faults --steps 30 --rounds 3

bench-passes: setup ## Time runs of a race in one pass beside the same runs one after another
	$(RUN)/python -m bench.passes

bench-workers: setup ## Time a race whose runs two processes make beside the same race one run after another
	$(RUN)/python -m bench.workers

$(PEERS)/.ready: study/peers-requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(PEERS)/bin/python -m pip install --quiet torch==2.13.0
	$(PEERS)/bin/python -m pip install --quiet --requirement study/peers-requirements.txt
	$(PEERS)/bin/python -m pip install --quiet --no-deps fastai==2.8.12
	@touch $@

bench-cost: $(PEERS)/.ready ## Time a search beside a bare loop and the other finders, the parts of a step, and whole processes
	PYTHONPATH=src $(PEERS)/bin/python -m bench.cost
	PYTHONPATH=src $(PEERS)/bin/python -m bench.step
	PYTHONPATH=src $(PEERS)/bin/python -m bench.nothing

bench-rooms: $(ROOMS)/.ready ## Time a search in each framework beside its own steps and its own finder
	$(ROOMS)/bin/python -m bench.rooms
	KERAS_BACKEND=torch $(ROOMS)/bin/python -m bench.keras
	KERAS_BACKEND=jax $(ROOMS)/bin/python -m bench.keras
	JAX_PLATFORMS=cpu $(ROOMS)/bin/python -m bench.jax

bench-gpu: setup ## Time a search on a GPU beside a bare loop, and its copies to the host beside the link
	$(RUN)/python -m bench.gpu

study: setup $(PEERS)/.ready ## Measure the rates beside the other finders': runs what is missing
	PYTHONPATH=src $(PEERS)/bin/python -m study.peers
	PYTHONPATH=src $(PEERS)/bin/python -W ignore -m study.baselines
	$(RUN)/python -m study.suggest
	$(RUN)/python -m study.report --picture docs/img/accuracy.png
	$(RUN)/python -m study.frontier --picture docs/img/frontier.png

study-truth: setup ## Train the grids of the study: hours, resumable
	$(RUN)/python -m study.truth

prove: setup ## Break each restored thing and each term of the default rule in turn, and see a test turn red
	$(RUN)/python scripts/break_restoration.py

$(FLOORS)/.ready: pyproject.toml scripts/floors.py
	$(PYTHON) -m venv $(FLOORS)
	$(FLOORS)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(FLOORS)/bin/python scripts/floors.py $(subst $(comma), ,$(OLDEST)) > $(FLOORS)/floors.txt
	$(FLOORS)/bin/python -m pip install --quiet --requirement $(FLOORS)/floors.txt --editable '.[$(OLDEST)]' --group floors
	@touch $@

floors: $(FLOORS)/.ready ## Test with the oldest versions that pyproject.toml allows; it downloads an old torch
	$(FLOORS)/bin/python -m pytest $(PARALLEL) -W ignore::DeprecationWarning --ignore tests/torch/test_cost.py tests/analysis tests/command tests/finding tests/search tests/testing tests/torch

release-check: ## Build what is published, and try each extra alone in a new environment; what has passed is not tried again
	$(PYTHON) scripts/release_check.py

clean: ## Remove what the other targets made
	rm -rf $(VENV) $(PEERS) $(DOCS) $(ROOMS) $(FLOORS) build findlr-demo
