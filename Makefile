# Needs Python 3.11, pip, make and git. `make run` and `make test` set everything up in .venv; nothing else is touched.
# What uv itself is installed into, so that no machine needs to have it.
UV := .uv/bin/uv
BIN := .venv/bin
HOME_DIR ?= .tfline
# Without .pyc files importing TFX takes 48 s instead of 12 s.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: run test check fuzz format setup picture

run: .venv/.ready
	$(BIN)/tfline run pipelines/digits --home $(HOME_DIR)
	@echo
	@echo "What to type next:"
	@echo "  . .venv/bin/activate               puts tfline on the path"
	@echo "  tfline show last                   the stages of this run and what each found"
	@echo "  tfline ui                          MLflow: parameters, curves, tables, the registered model"
	@echo "  tfline run pipelines/digits        again: everything comes from the cache"
	@echo "  tfline run pipelines/digits --set model.hyperparameters.filters=16    a smaller model, against the champion"
	@echo "  tfline serve digits                serve it by gRPC and REST"
	@echo "  tfline new my_pipeline             a pipeline to make your own"
	@echo "Everything lies in $(HOME_DIR)/; README.md says where."

test: .venv/.ready check
	$(BIN)/pytest -m slow

check: .venv/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -m "not slow" -n 2

# 100,000 mutated requests, REST and gRPC, from a seed; a minute or two. A short slice of them is in the suite.
fuzz: .venv/.ready
	$(BIN)/python -m tests.serving.fuzz --inputs 100000

format: .venv/.ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The picture in README.md: a real run, in a home of its own, drawn as a terminal shows it.
picture: .venv/.ready
	$(BIN)/python -m benchmarks.picture benchmarks/run.svg

setup: .venv/.ready

.venv/.ready: pyproject.toml uv.lock $(UV)
	$(UV) sync --frozen --compile-bytecode
	touch $@

$(UV):
	python3 -m venv .uv
	.uv/bin/pip install --quiet uv==0.13.9
