# GM-Net, or any Caffe net, on PyTorch. `make help` lists what can be done.

MODEL   ?= bua
DATASET ?= cifar10
READING ?= text
WIDTH   ?= 1
BUDGET  ?= full

# A variable that nothing reads would be passed over in silence: `make train model=bua`.
KNOWN   := MODEL DATASET READING WIDTH BUDGET PYTHON ARGS SOURCE OUT TABLE FIGURE CAFFE CV_PY
UNKNOWN := $(filter-out $(KNOWN) SHELL MAKEFLAGS,$(foreach name,$(.VARIABLES),\
	$(if $(filter command,$(firstword $(origin $(name)))),$(name))))
ifneq ($(UNKNOWN),)
MEANT   := $(filter $(KNOWN),$(shell echo '$(UNKNOWN)' | tr '[:lower:]' '[:upper:]'))
$(error no variable $(UNKNOWN) is read here; $(if $(MEANT),did you mean $(MEANT)?,there are $(KNOWN)))
endif

# The first Python that is new enough; `make PYTHON=/path/to/python3.12 …` chooses another.
PYTHON  ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
BIN     := .venv/bin
# Python compiles what it imports.
INSTALL := $(BIN)/pip --disable-pip-version-check install --quiet --no-compile
READY   := .venv/.installed

# Named as the generator names them: VARIANT_DATASET[_table][_w0.25].
WIDTH_G := $(shell LC_ALL=C printf '%g' '$(WIDTH)' 2>/dev/null)
FOLDER  := $(MODEL)_$(DATASET)$(if $(filter table,$(READING)),_table)$(if $(filter-out 1,$(WIDTH_G)),_w$(WIDTH_G))
NET     := prototxt/$(FOLDER)/net.prototxt
GENERATE = $(BIN)/python -m prototxt_gen $(MODEL) --dataset $(DATASET) --reading $(READING) --width $(WIDTH)

.PHONY: help setup prototxt lmdb train demo detector test test-long gpu torture lint bench reproduce clean proto
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "Variables: MODEL=bua DATASET=cifar10 READING=text|table WIDTH=0.25 SOURCE=folder OUT=folder"
	@echo "           ARGS='more options' PYTHON=python3.12; TABLE= FIGURE= BUDGET= for reproduce"

setup: $(READY)  ## create .venv and install the project into it with its extras

# torch first and by version: the extras would otherwise pull in whatever is newest.
$(READY): pyproject.toml
	@test -n '$(PYTHON)' && '$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	|| { echo "error: Python 3.11 or newer is needed ('$(PYTHON)' is not);" \
	"name one: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "installing into .venv (some minutes the first time) …"
	@'$(PYTHON)' -m venv .venv
	@$(INSTALL) torch==2.13.0
	@$(INSTALL) -e '.[images,hdf5,plots,demo,completion,dev]'
	@touch $@

prototxt: $(READY)  ## write prototxt/FOLDER/{net,deploy,solver}.prototxt: MODEL DATASET READING WIDTH ARGS
	@$(GENERATE) $(ARGS)

lmdb: $(READY)  ## build lmdb/DATASET_{train,test}: DATASET, SOURCE=folder with the archives, ARGS
	@$(BIN)/python -m converters lmdb $(DATASET) $(if $(SOURCE),--source '$(SOURCE)') $(ARGS)

# A net that other options made is no net of MODEL DATASET READING WIDTH: an error, not a training.
train: $(READY)  ## train (the prototxt is generated if absent): MODEL DATASET READING WIDTH ARGS
	@$(GENERATE) --keep
	@$(BIN)/python -m gmnet_pt.train $(NET) $(ARGS)

demo: $(READY)  ## train a small GM-Net on handwritten digits, without any download (2 minutes)
	@$(BIN)/python -m gmnet_pt.demo $(ARGS)

SHAPES = lmdb/shapes
FOUND  = runs/shapes_ssd/found

detector: $(READY)  ## train a small SSD on coloured shapes and draw what it finds (docs/detector.md): ARGS
	@test -d $(SHAPES)_test || { $(BIN)/gmnet shapes $(SHAPES) && for split in train test; do \
	$(BIN)/gmnet annotated $(SHAPES) $(SHAPES)/$$split.txt $(SHAPES)_$$split --force \
	--label-map $(SHAPES)/labelmap.prototxt || exit 1; done; }
	@$(BIN)/gmnet train examples/detector/solver.prototxt $(ARGS)
	@$(BIN)/gmnet detect examples/detector/deploy.prototxt runs/shapes_ssd/ssd_iter_800.caffemodel \
	$(SHAPES)/images/test_0000*.png --labels $(SHAPES)/labelmap.prototxt --mean 128,128,128 \
	--scale 0.0078125 --out $(FOUND)/ --json $(FOUND)/found.json

# pytest takes DIR in `--mnist DIR` for a folder of tests; `--mnist=DIR` it understands.
test: $(READY)  ## run the tests: ARGS='--mnist DIR --cifar10-jpeg FILE' adds those on real data
	@$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile $(subst --cifar10-jpeg ,--cifar10-jpeg=,$(subst --mnist ,--mnist=,$(ARGS)))

test-long: $(READY)  ## run the tests that take half a minute each, and are no part of make test
	@$(BIN)/python -m pytest -n auto --maxprocesses 8 -m long $(ARGS)

# With the PYTHON that is given, which needs no environment of ours, or else with ours if it is there.
gpu:  ## try everything that needs a GPU, within 8 minutes: OUT=folder PYTHON= ARGS
	@'$(if $(filter command environment,$(origin PYTHON)),$(PYTHON),$(if $(wildcard $(READY)),$(BIN)/python,$(PYTHON)))' \
	-m tests.gpu --out '$(or $(OUT),build/gpu)' $(ARGS)

# Hundreds of damaged files, kills, full disks: long, and no part of `make test`.
torture: $(READY)  ## attack the commands for long, and print what came of it: ARGS='--scale 0.1 MODULE'
	@$(BIN)/python -m tests.torture $(ARGS)

lint: $(READY)  ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

# 15 minutes on two idle cores; ARGS=--list shows what ARGS can choose.
bench: $(READY)  ## measure speed beside a yardstick: ARGS='train:lenet inference' CAFFE=binary CV_PY=python
	@$(BIN)/python -m bench $(CAFFE:%=--caffe '%') $(CV_PY:%=--cv-python '%') $(ARGS)

reproduce: $(READY)  ## the paper's tables and figures: TABLE=1|2|3 FIGURE=3|4|5 BUDGET=full|short|smoke ARGS
	@$(BIN)/python -m gmnet_pt.reproduce --budget $(BUDGET) $(TABLE:%=--table %) $(FIGURE:%=--figure %) $(ARGS)

build/protoc/.installed: $(READY)
	@$(INSTALL) --upgrade --target build/protoc grpcio-tools==1.62.3
	@touch $@

PROTOC = PYTHONPATH=build/protoc $(BIN)/python -m grpc_tools.protoc

proto: build/protoc/.installed  ## regenerate the classes in converters/proto from caffe.proto and forks.proto
	@$(PROTOC) -I . --include_imports --descriptor_set_out=build/forks.pb converters/proto/forks.proto
	@$(BIN)/python -m converters.proto.merge build/forks.pb build/caffe.pb
	@$(PROTOC) --descriptor_set_in=build/caffe.pb --python_out=. --pyi_out=. converters/proto/caffe.proto

clean:  ## remove .venv, caches and build outputs; prototxt/, lmdb/ and runs/ stay
	@rm -rf .venv build dist ./*.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
