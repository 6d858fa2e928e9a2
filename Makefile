# Both `make demo` and `make test` work as the first command in a fresh clone; the second call
# finds .venv and takes no set-up time.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

# One thread a test process: two torch processes with two threads each fight over two cores.
export OMP_NUM_THREADS ?= 1
WORKERS ?= $(shell env -u OMP_NUM_THREADS nproc 2>/dev/null || echo 1)

.PHONY: demo bridge study-ntp study-cpu laboratory study-smollm2 study-knowledge study-knowledge-long study-reversal test test-slow test-slurm check lint types layers fix house golden golden-check docs real-model release-check bench bench-ntp clean

demo: $(INSTALLED)
	$(BIN)/tightframe demo

# After `make demo`: what its text predicts of its models' class means, against what they have.
bridge: $(INSTALLED)
	$(BIN)/python -m studies.bridge.run sweeps/demo --tokens tokens/demo --out sweeps/demo/bridge

test: $(INSTALLED)
	$(BIN)/pytest -n $(WORKERS) -m 'not slow and not slurm and not whole'
	TIGHTFRAME_UNCHECKED=1 $(BIN)/pytest -n $(WORKERS) -m 'whole and not slow and not slurm'

test-slow: $(INSTALLED)
	$(BIN)/pytest -n $(WORKERS) -m '(slow or whole) and not slurm' --timeout=1800

# A sweep on a Slurm of one node, this machine; as root it installs Debian's packages. Skipped elsewhere.
test-slurm: $(INSTALLED)
	$(BIN)/pytest -m slurm tests/test_slurm_node.py --timeout=600

check: lint types layers test

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

layers: $(INSTALLED)
	$(BIN)/lint-imports

# The size and shape of the package.
house: $(INSTALLED)
	$(BIN)/python tools/house.py

# Before a redesign `make golden` in its first commit's tree; after each step `make golden-check`.
golden: $(INSTALLED)
	$(BIN)/python tools/golden.py record golden.json

golden-check: $(INSTALLED)
	$(BIN)/python tools/golden.py check golden.json

# The site of the documentation, in site/; a broken link or docstring fails.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	$(BIN)/python tools/site_pages.py > llms.txt

fix: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)
	OMP_NUM_THREADS=$(WORKERS) $(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/threads.py
	$(BIN)/python benchmarks/parts.py
	$(BIN)/python benchmarks/callback.py --threads 1
	$(BIN)/python benchmarks/engine.py $(if $(REFERENCE),--reference $(REFERENCE))

bench-ntp: $(INSTALLED)
	$(BIN)/python benchmarks/ntp.py

# The published experiment on two small sets; about a quarter of an hour of one core.
study-ntp: $(INSTALLED)
	$(BIN)/python -m studies.small_sets.run configs/ntp-*.toml --report docs/results/ntp

# Does geometry say anything about loss beyond shape, length and weight decay? Sixty small models of
# Emma (in TIGHTFRAME_DATA); about twenty minutes of one core. Interrupted, it resumes.
study-cpu: TIGHTFRAME_DATA ?= data
study-cpu: $(INSTALLED)
	test -d tokens/emma || $(BIN)/tightframe corpus build $(TIGHTFRAME_DATA)/austen/emma.txt --out tokens/emma --vocab-size 1024 --block 64
	$(BIN)/tightframe sweep run configs/cpu-study.toml --workers 1
	rm -rf sweeps/cpu-study/shapes sweeps/cpu-study/seeds
	$(BIN)/tightframe relate sweeps/cpu-study/runs/width* --rule configs/cpu-study-shapes.toml --out sweeps/cpu-study/shapes
	$(BIN)/tightframe relate sweeps/cpu-study/runs/seed* --rule configs/cpu-study-seeds.toml --out sweeps/cpu-study/seeds
	for part in shapes seeds; do mkdir -p docs/results/cpu-study/$$part; \
		cp sweeps/cpu-study/$$part/relation.* sweeps/cpu-study/$$part/scatter.png docs/results/cpu-study/$$part; done

# Does the loss follow when the geometry is pushed? 120 tiny models; about a quarter of an hour of one
# core. Interrupted, it resumes. Reads austen/emma.txt in TIGHTFRAME_DATA.
laboratory: TIGHTFRAME_DATA ?= data
laboratory: $(INSTALLED)
	test -d tokens/laboratory-emma || $(BIN)/tightframe corpus build $(TIGHTFRAME_DATA)/austen/emma.txt --out tokens/laboratory-emma --vocab-size 512 --block 64 --max-tokens 150000
	test -d tokens/laboratory-stories || $(BIN)/tightframe corpus build stories --out tokens/laboratory-stories --tokens 80000 --block 128
	$(BIN)/python -m studies.laboratory.run
	$(BIN)/python -m studies.laboratory.run --collect docs/results/laboratory --judge docs/results/laboratory

# Do models that read both ways remember facts better, and does the geometry of a fact tell whether it
# is recalled? About half an hour on two cores; interrupted, it goes on. The long one asks at 1,000
# facts. Both read wikidyk/dev.jsonl in TIGHTFRAME_DATA.
study-knowledge: STUDY := knowledge/study
study-knowledge: CONFIG := configs/knowledge-study.toml
study-knowledge: ENSEMBLES := yes
study-knowledge-long: STUDY := knowledge/study-long
study-knowledge-long: CONFIG := configs/knowledge-study-long.toml
study-knowledge-long: LOCALITY := --no-locality
study-knowledge-long: knowledge/directions.jsonl
study-knowledge-long: DATA := --data knowledge/directions.jsonl
study-knowledge study-knowledge-long: $(INSTALLED)
	$(BIN)/tightframe knowledge study $(CONFIG) $(DATA) --out $(STUDY)
	$(BIN)/python -m studies.recall_geometry.run $(STUDY) $(LOCALITY)
	$(if $(ENSEMBLES),$(BIN)/python -m studies.ensembles.run $(STUDY))
	$(BIN)/tightframe report $(STUDY)
	$(BIN)/python -m studies.injection.publish $(STUDY) docs/results/knowledge

knowledge/directions.jsonl: TIGHTFRAME_DATA ?= data
knowledge/directions.jsonl: | $(INSTALLED)
	$(BIN)/tightframe knowledge questions $(TIGHTFRAME_DATA)/wikidyk/dev.jsonl --types forward backward --out $@

# Which condition answers backward what it was taught forward? 400 planted facts; about 40 minutes on
# two cores. Interrupted, it resumes.
study-reversal: $(INSTALLED)
	test -f knowledge/planted.jsonl || $(BIN)/tightframe knowledge plant --n 400 --out knowledge/planted.jsonl
	$(BIN)/tightframe knowledge study configs/knowledge-study-reversal.toml --data knowledge/planted.jsonl --out knowledge/study-reversal

# A pretrained model, layer by layer, beside random weights: after `make real-model`, on
# austen/persuasion.txt in TIGHTFRAME_DATA; about half an hour on two cores. Interrupted, it resumes.
study-smollm2: TIGHTFRAME_DATA ?= data
study-smollm2: MEASURE = $(BIN)/tightframe measure models/smollm2-135m --text $(TIGHTFRAME_DATA)/austen/persuasion.txt \
	--max-tokens 60000 --context 256 --layers all --labels next,current --groups 10 --min-count 20
study-smollm2: $(INSTALLED)
	$(MEASURE)
	$(MEASURE) --random-weights 0
	$(BIN)/tightframe report runs/smollm2-135m
	$(BIN)/python -m studies.smollm2.run models/smollm2-135m runs/smollm2-135m docs/results/smollm2

# SmolLM2-135M as a folder of safetensors; says so where it can't be had.
real-model: $(INSTALLED)
	$(BIN)/python tools/real_model.py models/smollm2-135m

# A wheel is built and installed in two empty environments, without extras and with [hf]; both are
# used away from the checkout.
release-check: $(INSTALLED)
	rm -rf dist
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .
	set -e; unset PYTHONPATH; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	wheel=$$(ls "$$PWD"/dist/tightframe-*.whl); pins="$$PWD/constraints/ci.txt"; cd "$$folder"; \
	for extra in "" "[hf]"; do \
		$(PYTHON) -m venv --clear env; \
		env/bin/pip install --quiet -c "$$pins" "$$wheel$$extra"; \
		env/bin/pip check; \
		env/bin/tightframe demo --help >/dev/null; \
		env/bin/tightframe corpus build stories --out tokens$$extra --tokens 5000 --block 128; \
		env/bin/python -c "import tightframe as tf; tf.ClassMoments(3, 2)"; \
		echo "installed and used: $$(basename "$$wheel")$$extra"; \
	done; \
	env/bin/python -c "import peft, transformers, tightframe as tf; tf.load_model"

clean:
	rm -rf .venv

$(INSTALLED): pyproject.toml constraints/ci.txt
	@$(PYTHON) -c 'import sys; sys.exit("tightframe needs Python 3.11 or newer, found %d.%d; run: make PYTHON=python3.11" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints/ci.txt -e '.[hf,dev]'
	touch $(INSTALLED)
