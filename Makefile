# `make` lists the targets. Nothing is installed outside .venv; variables can be given on the command line: make quickstart ASK="…"

PYTHON ?= python3
BIN := .venv/bin
#: Index to take PyTorch from. Empty: what pip is configured for, which on Linux usually means a CUDA build of several GB.
TORCH_INDEX ?=
ASK ?= What is the capital of France?
PYTEST_ARGS ?=

OPERATOR_IMAGE ?= modelyard-operator:dev
RUNTIME_IMAGE ?= modelyard-runtime:dev
#: builtin:// models whose weights are put into the runtime's image, so that pods need no network.
BUILTIN_MODELS ?= smollm2-135m-instruct all-minilm-l6-v2
#: How images are built and how they get into the cluster.
E2E_BUILD ?= docker build
E2E_LOAD ?= kind load docker-image
CLUSTER := ../shared/cluster/cluster
CHART_CRDS := charts/modelyard/files/crds

.DEFAULT_GOAL := help
.PHONY: help venv quickstart check test conformance equality soak crds images load install e2e kind-up kind-down cluster-up cluster-down bench-quickstart bench-gateway bench-runtime bench-embeddings bench-engine bench-operator bench-transcription bench-json-schema clean

help: ## This list
	@if [ -t 1 ]; then on='\033[1m' off='\033[0m'; fi; awk -v on="$$on" -v off="$$off" -F ':.*## ' '/^[a-z0-9-]+:.*## / {name[++n] = $$1; told[n] = $$2; if (length($$1) > wide) wide = length($$1)} \
	  END {for (i = 1; i <= n; i++) printf "  %smake %-" wide "s%s  %s\n", on, name[i], off, told[i]}' $(MAKEFILE_LIST)
	@echo
	@echo "  TORCH_INDEX=URL takes PyTorch from that index; PyTorch's own index for processors saves gigabytes on a machine without a GPU."

# ---------------------------------------------------------------- the virtual environment

TORCH := $(shell grep '^torch==' constraints.txt)
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install -q --no-compile -c constraints.txt
# Of 19,000 modules a fifth is ever imported: Python compiles those when they are, and keeps them, whatever the environment says.
unexport PYTHONDONTWRITEBYTECODE
MANIFESTS := pyproject.toml constraints.txt Makefile

venv: .venv/dev.stamp ## Make .venv with everything that development needs

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Modelyard needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1): name another one by make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; echo "no virtual environment could be made: on Debian and Ubuntu, apt install python3-venv" >&2; exit 1; }

# PyTorch first and alone: indexes offer several builds of one version, and the choice must not depend on what else is installed.
.venv/torch.stamp: constraints.txt | .venv/bin/python
	@[ -n "$(TORCH_INDEX)" ] || [ "$$(uname -s)" != Linux ] || command -v nvidia-smi >/dev/null || \
	  echo "No NVIDIA device was found: should pip begin to fetch CUDA packages, stop it and give TORCH_INDEX, the index of PyTorch's builds for processors."
	$(INSTALL) $(if $(TORCH_INDEX),--no-deps --index-url $(TORCH_INDEX)) $(TORCH)
	@touch $@

.venv/run.stamp: $(MANIFESTS) .venv/torch.stamp
	$(INSTALL) -e '.[runtime,audio,local]'
	@touch $@

.venv/dev.stamp: $(MANIFESTS) .venv/torch.stamp
	$(INSTALL) -e '.[runtime,audio,otel,s3,gcs,local,dev]'
	@touch $@ .venv/run.stamp

# ---------------------------------------------------------------- without a cluster

quickstart: .venv/run.stamp ## Serve a small chat model on this machine and ask it something
	$(BIN)/modelyard up examples/quickstart.yaml --ask "$(ASK)"

check: .venv/dev.stamp ## Lint, format, types, import rules, generated files, the chart
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	@new=$$(mktemp -d) && trap 'rm -rf "$$new"' EXIT && $(BIN)/python -m modelyard.api.crd "$$new/crds" "$$new/reference" && \
	  diff -r "$$new/crds" crds && diff -r "$$new/reference" docs/reference && diff -r crds $(CHART_CRDS) || \
	  { echo "generated files differ from the types: run make crds and commit what it writes" >&2; exit 1; }
	@if command -v helm >/dev/null; then helm lint --strict charts/modelyard; else echo "helm is not here: the chart is linted by make e2e"; fi

# A worker more than there are cores: many tests wait for a process that starts.
WORKERS = $(shell $(BIN)/python -c "import os; print(os.cpu_count() + 1)")

test: .venv/dev.stamp ## Unit and integration tests; no cluster needed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

equality: .venv/dev.stamp ## Greedy equality with `model.generate` on real weights: 64 requests that come and go
	MODELYARD_EQUALITY_REQUESTS=64 $(BIN)/pytest -n 0 tests/engine/test_equality.py $(PYTEST_ARGS)

soak: .venv/dev.stamp ## 20,000 requests to the engine, and as many over HTTP, that come, go and break off: nothing may be left of them
	MODELYARD_SOAK_REQUESTS=20000 $(BIN)/pytest -n 0 --timeout 3600 tests/engine/test_soak.py tests/runtime/test_soak.py $(PYTEST_ARGS)

conformance: .venv/dev.stamp ## Other people's clients and tools against a server of tiny models (CASES=10000 requests made up)
	$(BIN)/python conformance/run.py --cases $(or $(CASES),10000)

crds: .venv/dev.stamp ## Generate the custom resource definitions, the chart's copy and the field reference
	$(BIN)/python -m modelyard.api.crd crds docs/reference
	mkdir -p $(CHART_CRDS)
	cp crds/*.yaml $(CHART_CRDS)/

# ---------------------------------------------------------------- on a cluster

# docker and the test cluster's builder take the context and further arguments in different places.
build_image = $(E2E_BUILD) -t $(1) -f $(2) $(if $(findstring cluster,$(E2E_BUILD)),--context . -- $(3),$(3) .)
BUILD_ARGS = --build-arg "BUILTIN_MODELS=$(BUILTIN_MODELS)" $(if $(TORCH_INDEX),--build-arg "TORCH_INDEX=$(TORCH_INDEX)")

images: ## Build both images (E2E_BUILD says with what)
	$(call build_image,$(OPERATOR_IMAGE),Dockerfile.operator,)
	$(call build_image,$(RUNTIME_IMAGE),Dockerfile.runtime,$(BUILD_ARGS))

# Twice at most: a node's containerd may remove a layer that it holds unused just while the import counts on it ("parent snapshot does not exist").
load_image = $(E2E_LOAD) $(1) || $(E2E_LOAD) $(1)

load: ## Hand the images to the cluster's nodes (E2E_LOAD says how)
	$(call load_image,$(OPERATOR_IMAGE))
	$(call load_image,$(RUNTIME_IMAGE))

e2e: .venv/dev.stamp images load ## End-to-end tests on the cluster that KUBECONFIG names
	OPERATOR_IMAGE=$(OPERATOR_IMAGE) RUNTIME_IMAGE=$(RUNTIME_IMAGE) E2E_FREEZE="$(if $(findstring cluster,$(E2E_LOAD)),$(CLUSTER))" \
	  $(BIN)/pytest e2e $(PYTEST_ARGS)

install: ## Install the chart, or upgrade it, in the cluster that KUBECONFIG names
	helm upgrade --install modelyard charts/modelyard -n modelyard-system --create-namespace --wait \
	  --set operator.image=$(OPERATOR_IMAGE),runtime.image=$(RUNTIME_IMAGE)

kind-up: ## Make a cluster with kind and install Modelyard in it (needs docker, kind, kubectl, helm)
	kind get clusters | grep -qx modelyard || kind create cluster --name modelyard --wait 120s
	$(MAKE) images load install E2E_BUILD="docker build" E2E_LOAD="kind load docker-image --name modelyard"
	@echo 'Next: kubectl apply -f examples/cluster/'
	@echo '  or: make e2e E2E_LOAD="kind load docker-image --name modelyard"'

kind-down: ## Remove it
	kind delete cluster --name modelyard

cluster-up: ## Make a cluster with ../shared/cluster (no Docker; needs root) and install Modelyard in it
	$(CLUSTER) up --gpus 4
	$(MAKE) images load E2E_BUILD="$(CLUSTER) build" E2E_LOAD="$(CLUSTER) load"
	$(CLUSTER) exec -- $(MAKE) install
	@echo 'Next, in your shell:'
	@$(CLUSTER) env
	@echo 'export E2E_BUILD="$(CLUSTER) build" E2E_LOAD="$(CLUSTER) load"'

cluster-down: ## Remove it; its images stay
	$(CLUSTER) down

# ---------------------------------------------------------------- figures

bench-quickstart: .venv/dev.stamp ## Quick start: seconds to the answer and memory, with an empty model cache and a full one
	$(BIN)/python benchmarks/quickstart.py

bench-gateway: .venv/dev.stamp ## Gateway: requests per second and added latency, beside vllm-router
	$(BIN)/python benchmarks/gateway.py

bench-runtime: .venv/dev.stamp ## Runtime: tokens per second and time to first token, beside `transformers serve`
	$(BIN)/python benchmarks/runtime.py

bench-embeddings: .venv/dev.stamp ## Embeddings: texts per second, beside sentence-transformers and infinity
	$(BIN)/python benchmarks/embeddings.py

bench-transcription: .venv/dev.stamp ## Speech to text: word error and added time, beside bare faster-whisper
	$(BIN)/python benchmarks/transcription.py

bench-engine: .venv/dev.stamp ## Engine: time to first token beside a prompt of 2,000 tokens; what guessing gains
	$(BIN)/python benchmarks/ttft.py
	$(BIN)/python benchmarks/speculation.py
	$(BIN)/python benchmarks/pages.py

bench-json-schema: .venv/dev.stamp ## Structured output: valid answers to 240 schemas, and what a mask costs
	$(BIN)/python benchmarks/json_schema.py

bench-operator: .venv/dev.stamp ## Operator: 1,000 models on a control plane
	$(BIN)/python benchmarks/operator_scale.py

clean: ## Remove .venv, caches and build outputs
	rm -rf .venv dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
