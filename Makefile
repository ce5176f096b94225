# make help lists the targets. EXPERIMENT is a file of configs/experiment, ARGS are command-line overrides, e.g.
#   make train EXPERIMENT=cifar10_vgg7_cpu ARGS="--trainer.max_epochs=5 --sparsity.end_value=0.5"
EXPERIMENT ?= digits
ARGS ?=
# PYTHON makes the environment in .venv; VENV=none uses PYTHON as it is.
PYTHON ?= python3
VENV ?= .venv

ifeq ($(VENV),none)
RUN := $(PYTHON)
READY :=
export PYTHONPATH := $(CURDIR)/src$(if $(PYTHONPATH),:$(PYTHONPATH))
else
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
endif
# A training step allocates and frees tensors of tens of megabytes. By default glibc gives each of them back to the
# system, which then has to clear every page anew; these keep them, for about a tenth of the time on a CPU.
export MALLOC_ARENA_MAX ?= 1
export MALLOC_MMAP_THRESHOLD_ ?= 8589934592
export MALLOC_TRIM_THRESHOLD_ ?= 17179869184
CONFIG := --config configs/experiment/$(EXPERIMENT).yaml

.DEFAULT_GOAL := help
.PHONY: help setup train compare pareto test test-slow test-all lint format types docs docs-serve campaign mutate \
  tensorboard report clean
.PHONY: crosscheck overhead peers benchmark fuzz soak reproduce kill # template only

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

setup: $(READY) ## make the environment in .venv (the other targets do it when needed)

# Made anew when a dependency changes. lightning-bolts goes in without its dependencies: they exclude Lightning 2.
$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	@echo "Making the environment in $(VENV): a few minutes and about 6 GB, once."
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps lightning-bolts==0.7.0
	@touch $@

WORKERS ?= 1
TRIALS ?= 24
OVER_SEEDS = $(if $(SEEDS),--seeds=$(SEEDS) --workers=$(WORKERS))

train: $(READY) ## train and test EXPERIMENT (default: digits) with ARGS; goes on if stopped, FRESH=1 begins anew, SEEDS=5 averages
	@$(RUN) -m spikesparse train $(CONFIG) $(ARGS) $(if $(FRESH),--fresh) $(OVER_SEEDS)

compare: $(READY) ## train EXPERIMENT and its accuracy-only twin, and compare spikes and accuracy (SEEDS=5: with intervals)
	@$(RUN) -m spikesparse compare $(CONFIG) $(ARGS) $(if $(FRESH),--fresh) $(OVER_SEEDS)

pareto: $(READY) ## search EXPERIMENT for accurate and quiet networks: TRIALS in all, WORKERS at once; goes on if stopped
	@$(RUN) -m spikesparse pareto $(CONFIG) --trials=$(TRIALS) --workers=$(WORKERS) $(ARGS)

# One test on each core, on four at most, where pytest-xdist is there. The slow ones that launch several processes run one
# after the other (tests/conftest.py): they find each other by a port, and have a time by which they must be done.
AT_ONCE = $(shell $(RUN) -c "import xdist" 2> /dev/null && echo --numprocesses auto --maxprocesses 4 --dist worksteal)

test: $(READY) ## the tests, without the slow ones
	$(RUN) -m pytest $(AT_ONCE) $(ARGS)

test-slow: $(READY) ## the slow ones
	$(RUN) -m pytest -m "slow and launches" $(ARGS) || test $$? -eq 5 # 5: ARGS pick none of them
	$(RUN) -m pytest -m "slow and not launches" $(AT_ONCE) $(ARGS) || test $$? -eq 5

test-all: $(READY) ## all tests
	$(RUN) -m pytest -m "slow or not slow" $(ARGS)

CODE := src tests tools examples
CODE += benchmarks # template only

lint: $(READY) ## ruff's checks
	$(RUN) -m ruff check $(CODE) $(ARGS)

format: $(READY) ## format the code (CHECK=1 only looks)
	$(RUN) -m ruff format $(if $(CHECK),--check) $(CODE)

types: $(READY) ## mypy, strict
	$(RUN) -m mypy

docs: $(READY) ## build the documentation's site in site/, warnings as errors
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

docs-serve: $(READY) ## the same on http://localhost:8000, rebuilt at every change
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs serve

# template only
# Each witness gets an environment of its own: their dependencies contradict each other.
WITNESSES := neurobench spikingjelly sinabs
neurobench_VERSION := 2.3.0
spikingjelly_VERSION := 2.0.0
sinabs_VERSION := 3.1.3

.crosscheck/%/.ready:
	@echo "Making the environment of $*: a few minutes and about 6 GB, once."
	$(PYTHON) -m venv .crosscheck/$*
	.crosscheck/$*/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $*==$($*_VERSION)
	@touch $@

crosscheck: $(READY) $(WITNESSES:%=.crosscheck/%/.ready) ## count frozen networks beside NeuroBench, SpikingJelly, sinabs
	$(RUN) benchmarks/crosscheck/compare.py $(foreach w,$(WITNESSES),--$(w) .crosscheck/$(w)/bin/python) $(ARGS)

overhead: $(READY) ## time and memory of a training step with and without counting
	$(RUN) benchmarks/counting_overhead.py $(ARGS)

# Peers need no environments: they are plain Python, and all run on the torch at hand. Each gets a folder of its own,
# with the few packages that it cannot be imported without.
PEERS := spikingjelly snntorch norse sinabs

.peers/%/.ready: benchmarks/train_step/peers/%.txt | $(READY)
	rm -rf .peers/$*
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --target .peers/$* -r $<
	@touch $@

peers: $(PEERS:%=.peers/%/.ready) ## install SpikingJelly, snnTorch, norse and sinabs in .peers/ for the benchmark

benchmark: $(READY) peers ## time and memory of a training step beside the peers and the limit
	$(RUN) benchmarks/train_step.py $(ARGS)

fuzz: $(READY) ## 10,000 mutated configurations through the command line, none of which may do harm
	rm -f results/fuzz_configs.csv
	$(RUN) benchmarks/fuzz_configs.py --csv results/fuzz_configs.csv $(ARGS)

soak: $(READY) ## 6,000 short epochs in one process: does memory, a file or a thread stay behind? (25 minutes)
	$(RUN) benchmarks/soak.py --csv results/soak.csv $(ARGS)
# end

campaign: $(READY) ## run PLAN of configs/campaign, WORKERS at once, and compare; goes on if stopped (without PLAN: list them)
	@$(RUN) -m spikesparse campaign $(PLAN) --workers=$(WORKERS) $(ARGS)

# template only
reproduce: $(READY)
	@echo "make reproduce is now make campaign PLAN=all, or of one plan: make campaign PLAN=vgg7_iso"
	@$(RUN) -m spikesparse campaign all --workers=$(WORKERS) $(ARGS)

kill: $(READY) ## kill a run 20 times at random moments, and compare it with the one that was not (minutes)
	@$(RUN) benchmarks/kill.py $(ARGS)
# end

mutate: $(READY) ## change FILES in one place at a time: what does no test notice? (ARGS: --minutes 30, --whole-runs, --csv FILE)
	@$(if $(strip $(FILES)),,$(error Which files? make mutate FILES="sparsity/budget.py resume.py:120"))
	@OMP_NUM_THREADS=1 nice -n 19 $(RUN) tools/mutate.py $(FILES) $(ARGS)

tensorboard: $(READY) ## TensorBoard on all runs: pages, pictures, hyper-parameters
	@echo "dashboard: http://localhost:6006/#custom_scalars"
	$(RUN) -m tensorboard.main --logdir runs --samples_per_plugin images=100,scalars=10000 --port 6006 $(ARGS)

.PHONY: rename
rename: ## make a fresh clone your own project: NAME=my_project (KEEP=all: with the template's results and benchmarks)
	@$(PYTHON) tools/rename.py -- "$(NAME)"

# All that are finished, without those that a later run of the same command set aside.
RUNS ?= $(foreach file,$(sort $(wildcard runs/*/seed*/result.json)),$(if $(findstring -earlier,$(file)),,$(dir $(file))))

report: $(READY) ## RUNS (default: all finished ones) side by side in report.html, to send to a colleague
	@$(if $(strip $(RUNS)),,$(error No run in runs/ is finished yet: make train first, or name run folders as RUNS))
	@$(RUN) -m spikesparse report $(RUNS) $(ARGS)

clean: ## remove caches; runs, data and .venv stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist site
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
