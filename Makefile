# make demo, make test and make docs need only Python (3.11 or newer) and make; each sets up .venv by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo

.PHONY: demo test lint docs clean

demo: $(VENV)/.installed
	$(BIN)/python train.py --config configs/shapes.py --workdir $(DEMO)
	$(BIN)/python eval.py --workdir $(DEMO)

test: lint
	$(BIN)/python -m pytest

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Not data.builders: it inherits from TFDS, whose annotations cannot be resolved.
docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	$(BIN)/pdoc --math --docformat google --output-directory site jaxseg jaxseg/[a-z]*.py jaxseg/[a-z]*/ '!jaxseg.data.builders'

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
# The official scripts without what they ask for: a backport of typing among it that shadows Python's own.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps cityscapesscripts==2.3.0
	touch $@

clean:
	rm -rf $(VENV) runs site
