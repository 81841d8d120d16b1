# Everything starts from a machine with Python 3.11+ and nothing else.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup demo test lint format bench clean

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
	$(RUN)/python -m pytest

lint: setup ## Check style, types and the layers
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports

format: setup ## Put the code in style
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

bench: setup ## Time what findlr costs beside what it must cost
	$(RUN)/python bench/imports.py

clean: ## Remove what the other targets made
	rm -rf $(VENV) findlr-demo
