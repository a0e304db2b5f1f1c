# Development entry points. `make demo` and `make test` do all the set-up themselves:
# with the sourced ROS 2 where there is one, with ROS 2 from PyPI otherwise.

PYTHON ?= python3

# A virtual environment's Python stands for the one that it was made from.
WHICH_PYTHON := import os, sys; print(os.path.realpath(sys._base_executable))
BASE_PYTHON := $(shell $(PYTHON) -c '$(WHICH_PYTHON)' 2>/dev/null)
ifeq ($(BASE_PYTHON),)
  $(error $(PYTHON) does not run; install Python 3.10 or newer, or name one: make PYTHON=/path/to/python3)
endif

# ROS 2 wheels mark the environment of their processes, and children of another virtual
# environment (an IDE, an activated shell) would load its libraries.
ifdef _ROS_WHEELS_BOOTSTRAP_COMPLETE
  unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE LD_LIBRARY_PATH
endif
unexport PYTHONHOME

# rclpy of the sourced ROS 2 must be the one that this Python imports.
ifneq ($(ROS_DISTRO),)
  SOURCED := $(shell $(BASE_PYTHON) -c 'import rclpy' 2>/dev/null && echo $(ROS_DISTRO))
  ifeq ($(SOURCED),)
    $(info ROS 2 $(ROS_DISTRO) is sourced, but $(BASE_PYTHON) cannot import its rclpy: using ROS 2 from PyPI.)
  endif
endif

ifneq ($(SOURCED),)
  VENV := $(CURDIR)/.venv-$(SOURCED)
  VENV_OPTIONS := --system-site-packages
  ROS_REQUIREMENTS :=
  # Its compiled messages work with the NumPy that it was built for.
  NUMPY := $(shell $(BASE_PYTHON) -c 'import numpy; print("numpy==%s.*" % numpy.__version__.split(".")[0])')
  # What the machine has stays: OpenCV from apt, and the vendor's PyTorch.
  EXTRAS := $(shell $(BASE_PYTHON) -c 'import cv2' 2>/dev/null && echo test,docs || echo test,docs,opencv)
  CONSTRAINTS := $(shell $(BASE_PYTHON) -c 'import torch' 2>/dev/null || echo --constraint requirements/constraints.txt)
  export AMENT_PREFIX_PATH := $(VENV):$(AMENT_PREFIX_PATH)
  export LD_LIBRARY_PATH := $(VENV)/lib:$(LD_LIBRARY_PATH)
else
  VENV := $(CURDIR)/.venv
  VENV_OPTIONS :=
  ROS_REQUIREMENTS := requirements/ros-pypi.txt
  EXTRAS := test,docs,opencv
  CONSTRAINTS := --constraint requirements/constraints.txt
  export AMENT_PREFIX_PATH := $(VENV)
  unexport PYTHONPATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH RMW_IMPLEMENTATION ROS_DISTRO
endif

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check
# pip's progress bars on a terminal, its closing lines elsewhere.
QUIET := $$(test -t 1 || echo --quiet)

# Two processes, a module of tests in one of them: some tests start several processes themselves.
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# A module that comes or goes brings or takes families, which are entry points.
FAMILIES := semanom_ros/core/embedding/encoders semanom_ros/core/embedding/segmenters
PACKAGE_FILES := setup.py requirements/python.txt requirements/constraints.txt setup.cfg pyproject.toml package.xml \
  semanom_ros/__init__.py msg $(wildcard msg/*) $(FAMILIES)

.PHONY: help setup demo test test-fast test-distros lint docs reliability audit bench clean distclean
.DELETE_ON_ERROR:

help:
	@echo 'make demo       set up, then simulate, record, detect live and evaluate; see out/demo/report.html'
	@echo '                (CAMERAS=3: front, left and right)'
	@echo 'make test       set up, then lint and all tests'
	@echo 'make test-fast  the tests that take little time, without lint'
	@echo 'make test-distros  the tests with each ROS 2 that PyPI has, and each Python that is here; see out/distros/'
	@echo 'make lint       ruff and mypy'
	@echo 'make docs       the documentation as pages; see out/docs/docs/index.html'
	@echo 'make bench      measure speed; see out/bench/bench.json'
	@echo 'make reliability  the tests of faults, at length; writes docs/reliability.md'
	@echo 'make audit      known vulnerabilities of what is installed; asks a service in the internet'
	@echo 'make setup      only the set-up, in $(notdir $(VENV)); activate: . $(notdir $(VENV))/bin/activate'
	@echo 'make clean      remove what was built and made; distclean: the virtual environment too'

setup: $(VENV)/.package

CAMERAS ?= 1

demo: setup
	$(BIN)/semanom demo --output out/demo --cameras $(CAMERAS)

test: lint
	$(PYTEST)

test-fast: setup
	$(PYTEST) -m 'not slow'

# DISTROS='jazzy --fast' runs a part.
test-distros:
	$(BASE_PYTHON) tools/distros.py $(DISTROS)

lint: setup
	$(BIN)/ruff check
	$(BIN)/mypy

docs: setup
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --conf-dir docs . out/docs

reliability: setup
	$(PYTEST) --long --timeout 3600 --reliability out/reliability.jsonl test; tests=$$?; \
	  $(BIN)/python -m tools.reliability out/reliability.jsonl && exit $$tests  # what was not survived is told too

# pip-audit lives in an environment of its own: what it needs is not what is audited.
audit: setup
	@test -x out/audit/bin/pip-audit || { $(BASE_PYTHON) -m venv --clear out/audit && \
	  out/audit/bin/python -m pip install --quiet --disable-pip-version-check 'pip-audit>=2.7'; }
	out/audit/bin/python tools/audit.py "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

bench: setup
	$(BIN)/semanom bench --output out/bench

# Each stamp is newer than what it was made from, so a second run installs nothing.
$(VENV)/.ros: $(ROS_REQUIREMENTS)
	@$(BASE_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python %d.%d found, 3.10 or newer needed: make PYTHON=python3.12" % sys.version_info[:2])'
	@for tool in cmake c++; do command -v $$tool >/dev/null || { \
	  echo "$$tool not found, needed to compile the messages: apt install cmake g++" >&2; exit 1; }; done
	@echo 'Setting up $(notdir $(VENV)), with ROS 2 $(or $(SOURCED),from PyPI)'
	@test "$$($(BIN)/python -c '$(WHICH_PYTHON)' 2>/dev/null)" = '$(BASE_PYTHON)' \
	  || $(BASE_PYTHON) -m venv --clear $(VENV_OPTIONS) $(VENV)
	$(if $(ROS_REQUIREMENTS),$(PIP) $(QUIET) -r $(ROS_REQUIREMENTS))
	@touch $@

$(VENV)/.package: $(VENV)/.ros $(PACKAGE_FILES)
	@echo 'Installing semanom_ros and what it needs (the first time about 6 GB, mostly PyTorch)'
	$(PIP) $(QUIET) --editable '.[$(EXTRAS)]' $(CONSTRAINTS) $(NUMPY)
	@$(BIN)/python -m compileall -q $(FAMILIES)  # a cache folder that came later would make them newer than the stamp
	@touch $@

clean:
	rm -rf build install log out dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf .venv .venv-*
