# make help lists the targets. Needs python3 >= 3.11 with pip, make and a C/C++ compiler; the rest is installed here.

PYTHON ?= python3
VENV ?= .venv
# Passed to every `pip install`, for example --extra-index-url with an index of CPU or CUDA builds of torch.
PIP_ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.agenttune-installed
UNFINISHED := $(VENV)/.agenttune-installing
INSTALL = $(BIN)/python -m pip install $(PIP_ARGS) -c constraints.txt
DEMO_MODEL := runs/demo-model

.PHONY: help setup train test cluster check faults layouts bench bench-data bench-start bench-memory bench-checkpoint \
	bench-gpu gpu-wheels format clean distclean

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

setup: $(STAMP) ## virtual environment with agenttune and everything it needs

train: $(STAMP) ## set up, train the demo model and print a reply of it
	@test -d $(DEMO_MODEL) || $(BIN)/agenttune init-model $(DEMO_MODEL) \
		--shape tiny --tokenizer configs/demo/tokenizer --seed 1
	$(BIN)/agenttune train configs/demo.yaml
	@$(BIN)/python launch/reply.py runs/demo configs/demo/agent.jsonl weather_0

test: $(STAMP) cluster ## set up and run the tests (20 minutes on 2 cores); LONG_TESTS=1 adds more cases of the same
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/unit
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not alone" tests/distributed tests/faults
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m alone tests/distributed tests/faults tests/slurm

cluster: ## install Slurm, munge, sshd and pdsh for tests/slurm where that can be done (Debian, as root)
	@tests/slurm/install.sh

check: $(STAMP) ## lint, format, types, direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest -q tests/unit/test_imports_point_down.py

FAULT_TRIALS ?= 1
FAULT_SEED ?= 1

faults: $(STAMP) cluster ## kill ranks, fill disks, damage files, hold up saves, as often as the table at the end says (2 hours, and 2 more for all pairs of layouts)
	FAULT_TRIALS=$(FAULT_TRIALS) FAULT_SEED=$(FAULT_SEED) LONG_TESTS=1 ALL_LAYOUTS=1 RESUME_STOPS=500 DAMAGES=1000 \
		$(BIN)/python -m pytest -q -o faulthandler_timeout=0 tests/faults tests/slurm/test_failing_ranks.py \
		tests/distributed/test_any_layout.py \
		tests/unit/test_stream_resume.py tests/unit/test_manifest.py

layouts: $(STAMP) ## losses and gradient norms of every layout on real rows, as a table (7 minutes)
	$(BIN)/python tests/distributed/layout_table.py

BENCH_TOKENIZER ?= configs/demo/tokenizer
BENCH_DATA ?= configs/demo/agent.jsonl configs/demo/general.jsonl

bench: $(STAMP) ## steps on this CPU: beside transformers' Trainer (installs it) and a bare loop, two stages, growth (45 minutes)
	$(INSTALL) -e '.[bench]'
	$(BIN)/python benchmarks/hf_trainer.py $(BENCH_ARGS)
	$(BIN)/python benchmarks/step_overhead.py $(BENCH_ARGS)
	$(BIN)/python benchmarks/schedules.py --trials 0 --compute $(BENCH_ARGS)
	$(BIN)/python benchmarks/growth.py $(BENCH_ARGS)

bench-gpu: ## tests and benchmarks of one GPU, by PYTHON, which has torch for it (10 minutes); needs `make gpu-wheels` before
	$(PYTHON) benchmarks/gpu.py --wheels build/wheels $(BENCH_ARGS)

# For a machine without a network whose Python has torch, transformers, accelerate and pytest: the rest, 28 MB.
GPU_PYTHON ?= 3.12
GPU_PACKAGES := megatron-core liger-kernel wandb omegaconf pydantic pydantic-core annotated-types typing-inspection \
	hjson py-cpuinfo msgpack einops jsonschema jsonschema-specifications referencing rpds-py attrs xxhash
gpu-wheels: $(STAMP) ## build/wheels: what a GPU machine without a network lacks
	rm -rf build/wheels
	$(BIN)/python -m pip wheel -q --no-deps --no-binary deepspeed -w build/wheels "$$(grep '^deepspeed==' constraints.txt)"
	$(BIN)/python -m pip download -q --no-deps --only-binary=:all: --python-version $(GPU_PYTHON) --implementation cp \
		--platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
		-d build/wheels $(PIP_ARGS) -c constraints.txt $(GPU_PACKAGES)
	@du -sh build/wheels

bench-data: $(STAMP) ## tokenising and the stream beside TRL (installs it); BENCH_DATA and BENCH_TOKENIZER name your own
	$(INSTALL) -e '.[bench]'
	$(BIN)/python benchmarks/tokenise.py $(BENCH_DATA) --tokenizer $(BENCH_TOKENIZER) $(BENCH_ARGS)
	$(BIN)/python benchmarks/stream.py $(BENCH_DATA) --tokenizer $(BENCH_TOKENIZER) $(BENCH_ARGS)

bench-start: $(STAMP) ## command to first step on a million rows, beside TRL (installs it); its first start takes 20 minutes
	$(INSTALL) -e '.[bench]'
	$(BIN)/python benchmarks/first_step.py $(BENCH_ARGS)

bench-memory: $(STAMP) ## first row and memory on a file of 5 GB, which it writes to the temporary folder
	$(BIN)/python benchmarks/memory.py $(BENCH_ARGS)

bench-checkpoint: $(STAMP) ## reading and writing 2.7 GB of weights beside transformers and the bare disk, saving beside training
	$(BIN)/python benchmarks/checkpoint.py $(BENCH_ARGS)

format: $(STAMP) ## rewrite files as `make check` wants them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove caches and build outputs; runs/ and the environment stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean ## remove the environment too
	rm -rf $(VENV)

# The stamp is written last and removed first; the other mark stands while pip works. An environment that was left
# half-done (mark without stamp, or no working pip) is made anew, a complete one is only brought up to date.
# torch goes first and pinned: left to pip's choice it may come with gigabytes of CUDA packages.
$(STAMP): setup.py constraints.txt
	@rm -f $(STAMP)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than 3.11; name another: make setup PYTHON=python3.12" >&2; exit 1; }
	@echo "[1/3] virtual environment $(VENV)"
	@if test -e $(UNFINISHED) || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		$(PYTHON) -m venv --clear $(VENV) || { \
			echo "no ensurepip, so pip installs itself there" && \
			$(PYTHON) -m venv --clear --without-pip $(VENV) && \
			$(PYTHON) -m pip --python $(BIN)/python install $(PIP_ARGS) pip; }; \
	fi
	@touch $(UNFINISHED)
	@echo "[2/3] torch, some 200 MB"
	$(INSTALL) "$$(grep '^torch==' constraints.txt)"
	@echo "[3/3] agenttune and what it needs"
	$(INSTALL) -e '.[dev]'
	@rm -f $(UNFINISHED)
	@touch $(STAMP)
	@echo "ready: $(BIN)/agenttune --help"
