# Everything a person types. `make setup` is a prerequisite of all but `status`: it takes a moment when there is nothing
# to do.

PYTHON ?= python3
# the environment's programs start processes of their own name: theirs, not the machine's
bin := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo study status test test-all test-arithmetic lint lock
pytest := OMP_NUM_THREADS=1 $(bin)/python -m pytest --dist loadfile --no-loadscope-reorder

help:
	@echo "make demo    set everything up, then build results/figures/fig2.pdf (the demo study)"
	@echo "make study   write a study of your own model and data from five answers (NAME=mine)"
	@echo "make status  say what is made, runs, waits, failed, and what the rest costs (STUDY=paper for another study,"
	@echo "             TARGET=fig2 for a figure alone)"
	@echo "make test    set everything up, then run the tests of minutes: every part, and one figure made for real"
	@echo "make test-all  all tests but the slow ones (ARGS=\"-m slow\" for those)"
	@echo "make test-arithmetic  the tests that round as the CPU does, with the kernels that any CPU can run"
	@echo "make lint    set everything up, then check style, types and the workflow"
	@echo "make setup   only set everything up, in .venv (PYTHON=python3.12 for another interpreter)"
	@echo "make lock    make envs/requirements.lock anew from envs/requirements.in"

setup:
	@$(PYTHON) envs/setup.py

demo: setup
	$(bin)/snakemake results/figures/fig2.pdf --quiet host reason

study: setup
	@$(bin)/python -m scripts.study.new $(or $(NAME),mine) $(ARGS)

# Not after setup: that makes .venv anew where the lock changed, and what runs elsewhere uses it.
status:
	@$(bin)/python -m scripts.planning.status $(if $(STUDY),--study $(STUDY)) $(if $(STORE),--store $(STORE)) \
	    $(if $(TARGET),--target $(TARGET))

# Two processes, a file at a time, in order: with reordering, the files of a few long tests would come last.
test: setup
	$(pytest) -n 2 $(ARGS)

# A third, since clusters and Snakemakes wait more than a third of their time.
test-all: setup
	$(pytest) -n 3 -m "not slow and not gpu" $(ARGS)

# torch, MKL, oneDNN, numpy and OpenBLAS each take the kernels of an old CPU: sums come in another order.
test-arithmetic: setup
	ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE ONEDNN_MAX_CPU_ISA=SSE41 \
	    NPY_DISABLE_CPU_FEATURES="X86_V3 X86_V4 AVX512_ICL AVX512_SPR" OPENBLAS_CORETYPE=Nehalem \
	    $(pytest) -n 2 -m "arithmetic and not slow" $(ARGS)

lint: setup
	$(bin)/ruff check
	$(bin)/ruff format --check
	$(bin)/mypy
	$(bin)/snakefmt --check Snakefile rules
	$(bin)/snakemake --lint

# The CUDA packages are dropped: torch's Linux build pins them exactly itself, and its CPU build has none.
# Versions that stand in the lock are kept where they still fit; delete the lock first to take the newest.
lock: setup
	$(bin)/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest --no-annotate \
	    --custom-compile-command "make lock" --output-file envs/requirements.lock envs/requirements.in
	sed -i.old -E '/^(nvidia-|cuda-|triton)/d' envs/requirements.lock
	rm envs/requirements.lock.old
