# make demo and make test do all the set-up they need. Two cores, no GPU are enough.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup demo test test-all lint pretrained bench bench-gpu bench-scaling bench-quality bench-molecule bench-molecule-calls docs clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip uninstall -qq --yes genflow  # as this project's distribution was called before
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/genflow run examples/hypergrid.toml --out runs/demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy genflow plugins

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow'

test-all: lint
	$(BIN)/python -m pytest

# the generators that ship, from nothing: about an hour each, on one core each
PRETRAINED := plugins/genflow_hypergrid/pretrained
pretrained:
	$(MAKE) -j2 pretrained-default pretrained-separable pretrained-narrow pretrained-molecule

pretrained-molecule: PRETRAINED := plugins/genflow_molecule/pretrained
pretrained-%: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/genflow train-ldm --config $(PRETRAINED)/$*.toml --out runs/pretrained/$*
	OMP_NUM_THREADS=1 $(BIN)/genflow export runs/pretrained/$* --config $(PRETRAINED)/$*.toml --out $(PRETRAINED)/$*

# side-by-side speed, half an hour: what one would use instead runs in environments of its own
PEERS := .venv-peers
bench: setup $(PEERS)/torchgfn/.installed $(PEERS)/gfnx/.installed
	$(BIN)/python benchmarks/speed.py --peers $(PEERS) --out benchmarks/results

# all sides on one GPU, some ten minutes; its CPU form is in the tests
bench-gpu: setup $(PEERS)/torchgfn/.installed $(PEERS)/gfnx-cuda/.installed
	$(BIN)/python benchmarks/gpu.py --device cuda --peers $(PEERS) --out benchmarks/results/gpu.json

$(PEERS)/%/.installed: benchmarks/peers/%.txt
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --requirement $<
	touch $@

# workers: what they gain here, half an hour, and a thousand of them simulated, half a minute
bench-scaling: setup
	$(BIN)/python benchmarks/scaling.py --out benchmarks/results
	$(BIN)/python benchmarks/simulate.py --out benchmarks/results

# side-by-side quality, hours: what torchgfn reaches in 1 to 600 seconds, one conditional GFlowNet, and what each part adds
RECIPE := $(PRETRAINED)/default.toml
STRUCTURES := A B C D 'A*' 'B*' 'C*' 'D*' 'E*' 'F*' 'G*' 'H*'
bench-quality: pretrained-default
	$(BIN)/python benchmarks/sgd.py --out runs/sgd $(foreach s,$(STRUCTURES),--structure $(s))
	$(BIN)/python benchmarks/conditional.py --structures $(RECIPE) --variant coordinates --out runs/conditional/coordinates.json $(foreach s,$(STRUCTURES),--test $(s))
	$(BIN)/python benchmarks/conditional.py --structures $(RECIPE) --variant padded --out runs/conditional/padded.json $(foreach s,$(STRUCTURES),--test $(s))
	$(BIN)/python benchmarks/ablation.py --recipe $(RECIPE) --zoo runs/pretrained/default/zoo --out runs/ablation

# molecules, half an hour each: the paper's Table 3, training from generated and from random starts, and rewards never seen
bench-molecule: setup
	OMP_NUM_THREADS=1 $(BIN)/genflow reproduce table3 --scale paper --out runs/table3
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/molecule_rewards.py --each 1 --out runs/rewards

# molecules under a budget of reward calls: GuacaMol's tasks by PMO's protocol, half an hour, and other contenders, two hours
bench-molecule-calls: setup
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/molecule_pmo.py --out runs/pmo --results benchmarks/results/molecule_pmo.json
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/molecule_calls.py --out runs/calls --results benchmarks/results/molecule_calls.json

# the pictures of the pages, from what ships, from the committed results and from small runs, and the site in build/site
docs: setup
	$(BIN)/python docs/result.py
	$(BIN)/python docs/bounds.py
	$(BIN)/python docs/paper.py
	$(BIN)/python docs/explore.py
	$(BIN)/python docs/method.py
	$(BIN)/python docs/build_site.py

clean:
	rm -rf .venv .venv-peers runs build dist *.egg-info
