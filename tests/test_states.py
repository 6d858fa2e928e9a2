"""Passes that are killed, shared between processes, or made in pieces end with the same states."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from tightframe.corpus.shards import TokenShards
from tightframe.errors import UserError
from tightframe.geometry import passes, states
from tightframe.geometry.labels import LabelledBlocks, LabelSpec
from tightframe.geometry.moments import ClassMoments
from tightframe.geometry.options import MeasureOptions
from tightframe.geometry.states import merge_states
from tightframe.geometry.study import measure_part
from tightframe.lm.checkpoints import save_checkpoint
from tightframe.lm.load import load_model
from tightframe.lm.options import TransformerConfig
from tightframe.lm.transformer import Transformer
from tightframe.results import read_rows
from tiny_runs import measure_path
from tiny_tokens import write_tokens

VOCAB, BLOCK, BLOCKS = 23, 9, 400

COMMAND = """
import json, sys
from tightframe.geometry import measure, states
states.SAVE_EVERY = 0.0
print("ready", flush=True)
asked = json.loads(sys.argv[1])
measure(asked.pop("model"), **asked)
"""


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens") / "x"
    return write_tokens(path, vocab_size=VOCAB, block=BLOCK, train=BLOCKS)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    config = TransformerConfig(vocab_size=VOCAB, width=8, depth=2, heads=2, positions=BLOCK)
    folder = tmp_path_factory.mktemp("model") / "tiny"
    save_checkpoint(Transformer(config, seed=1, name="tiny"), folder)
    return folder


def options(model, tokens, out, **values):
    asked = {"model": str(model), "tokens": str(tokens), "out": str(out), "layers": "all"}
    asked |= {"batch_tokens": 4 * BLOCK, "groups": 1, "min_count": 1}  # a hundred batches
    asked |= {"skip_positions": 0, "skip_special": False}
    return asked | {"measures": ["nc1_cdnv", "nc1_pinv", "nc4_rate"], **values}


def part_of(asked, part, **values):
    asked = asked | values
    return measure_part(asked.pop("model"), part, MeasureOptions(**asked))


def start(asked, *launcher):
    command = launcher or (sys.executable, "-c", COMMAND)
    return subprocess.Popen(
        [*command, json.dumps(asked)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def files_of(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "states").glob("*.safet*"))}


def counted(split, groups):
    bounds = split.groups(groups) if groups > 1 else None
    return LabelledBlocks(split, LabelSpec(), bounds).label_counts_by_group()


def values_of(path):
    rows = read_rows(path)[1]
    return {(row.layer, row.metric): row.value for row in rows}


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_pass_gives_the_same_state_bit_for_bit(model, tokens, tmp_path, kills):
    killed = options(model, tokens, tmp_path / "killed")
    moments = 0
    for _ in range(kills):
        with start(killed) as process:
            process.stdout.readline()
            until = time.monotonic() + 60  # on a busy machine the first batch may take long
            while not moments and time.monotonic() < until:
                moments += any((tmp_path / "killed" / "states").glob("step-0-layer-*"))
                time.sleep(0.01)
            time.sleep(random.uniform(0.05, 0.4))
            process.send_signal(signal.SIGKILL)
        moments += any((tmp_path / "killed" / "states").glob("step-0-layer-*.safetensors"))
    assert moments  # at least one was killed when it had written something
    last = start(killed)
    said = last.communicate(timeout=120)[1]
    assert last.returncode == 0, said
    whole = start(options(model, tokens, tmp_path / "whole"))
    said = whole.communicate(timeout=120)[1]
    assert whole.returncode == 0, said
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")
    assert len(files_of(tmp_path / "whole")) == 8  # layers 0, 1, prenorm and 2, of both splits
    assert not list(tmp_path.rglob("*.part"))


def test_a_pass_goes_on_from_each_writing(model, tokens, tmp_path, monkeypatch):
    monkeypatch.setattr(states, "SAVE_EVERY", 0.0)
    asked = options(model, tokens, tmp_path / "x", measures=["nc1_cdnv"], layers="last")
    seen = []

    class Killed(Exception):
        pass

    def stop(stage, share, tokens, detail=""):
        if stage == "training split":
            seen.append(tokens // BLOCK)
            if len(seen) == 1:
                raise Killed

    with pytest.raises(Killed):
        measure_path(**asked, shown=stop)
    # Killed before the first writing, and then after all.
    measure_path(**asked, shown=stop)
    assert seen[-1] == BLOCKS
    before = files_of(tmp_path / "x")
    other = {**asked, "measures": ["nc1_quotient"]}
    measure_path(**other, shown=stop)  # from the states alone
    assert files_of(tmp_path / "x") == before


@pytest.mark.parametrize("n", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_of_torchrun_give_what_one_gives(model, tokens, tmp_path, n):
    torchrun = (sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={n}")
    script = tmp_path / "script.py"
    script.write_text(COMMAND)
    free = ("--master-port", str(random.randint(20_000, 60_000)), str(script))
    shared = start(options(model, tokens, tmp_path / "shared", groups=3), *torchrun, *free)
    said = shared.communicate(timeout=150)[1]
    assert shared.returncode == 0, said
    one = measure_path(**options(model, tokens, tmp_path / "one", groups=3))
    (path,) = (tmp_path / "shared" / "results").glob("*.jsonl")
    expected = values_of(one)
    for key, value in values_of(path).items():
        assert value == pytest.approx(expected[key], rel=1e-10), key
    assert_same_states(tmp_path / "shared", tmp_path / "one")


def assert_same_states(one, other, tolerance=1e-10):
    files = {path.name for path in (one / "states").glob("*.safetensors")}
    assert files == {path.name for path in (other / "states").glob("*.safetensors")}
    for name in sorted(files - {name for name in files if "-val-" in name}):
        a, b = (ClassMoments.load(folder / "states" / name) for folder in (one, other))
        assert torch.equal(a.counts, b.counts)
        torch.testing.assert_close(a.means, b.means, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(a.within_ss, b.within_ss, rtol=tolerance, atol=tolerance)
        assert a.ledger.spans == b.ledger.spans


def test_pieces_made_apart_are_merged_and_measured(model, tokens, tmp_path):
    asked = options(model, tokens, tmp_path / "x")
    pieces = [part_of(asked, f"{i}/3") for i in (3, 1, 2)]
    for layer in zip(*pieces, strict=True):
        path, state = merge_states(layer)
        assert state.ledger.spans == [(0, BLOCKS)]
        assert path.exists()
    whole = measure_path(**options(model, tokens, tmp_path / "whole"))
    passes = []
    found = measure_path(**asked, shown=lambda stage, *_: passes.append(stage))
    assert "training split" not in passes
    expected = values_of(whole)
    for key, value in values_of(found).items():
        assert value == pytest.approx(expected[key], rel=1e-10)
    assert_same_states(tmp_path / "x", tmp_path / "whole")


def test_what_is_missing_of_the_pieces_is_measured(model, tokens, tmp_path):
    asked = options(model, tokens, tmp_path / "x", layers="last")
    part_of(asked, "2/3")
    measure_path(**asked)
    measure_path(**options(model, tokens, tmp_path / "whole", layers="last"))
    assert_same_states(tmp_path / "x", tmp_path / "whole")


def test_pieces_that_overlap_or_are_of_another_model_are_refused(model, tokens, tmp_path):
    asked = options(model, tokens, tmp_path / "x", layers="last")
    (one,) = part_of(asked, "1/2")
    (same,) = part_of(asked, "1/3")
    with pytest.raises(UserError, match=r"part-1-of-3.*blocks 0 to 131 are in both states"):
        merge_states([one, same])
    twin = part_of(asked, "2/2", random_weights=1)
    with pytest.raises(UserError, match="don't belong together: model is 'tiny' here"):
        merge_states([one, *twin], tmp_path / "out.safetensors")
    with pytest.raises(UserError, match="not parts of one state by their names"):
        merge_states([one, *twin])
    assert not (tmp_path / "out.safetensors").exists()


def test_a_state_of_other_weights_is_refused(model, tokens, tmp_path):
    asked = options(model, tokens, tmp_path / "x", layers="last")
    measure_path(**asked)
    (path,) = (p for p in (tmp_path / "x" / "states").glob("*.safetensors") if "val" not in p.name)
    state = ClassMoments.load(path)
    state.provenance["weights"] = "others"
    state.save(path)
    with pytest.raises(UserError, match="is of another weights"):
        measure_path(**{**asked, "measures": ["nc1_cdnv_std", "nc1_pinv_tok"]})


def test_memory_that_is_not_there_is_refused_before_it_is_taken(
    model, tokens, tmp_path, monkeypatch
):
    asked = options(model, tokens, tmp_path / "x", groups=5)

    def advice(free):
        monkeypatch.setattr(passes, "free_memory", lambda device: free)
        with pytest.raises(UserError, match=r"^4 layers in 5 groups: .* GB are free; ") as error:
            measure_path(**asked)
        assert not list((tmp_path / "x").rglob("*.safetensors"))
        return str(error.value).rpartition("; ")[2]

    # A batch of 36 positions of 8 float32 numbers, 3 layers kept and 24 times as much at work. A
    # row has 8 + 4 numbers of 8 bytes; two layers of a scatter, of 2 * 8 * 8.
    forward = 4 * 36 * 8 * (3 + 24)
    split = TokenShards.open(tokens).split("train")
    rows = {n: int((counted(split, n) > 0).sum()) for n in (1, 2, 4)}
    needed = {n: forward + 4 * (8 * 12 * rows[n] + 8 * 2 * 8 * 8) for n in rows}
    assert advice(needed[4]) == "--groups 4 fits"
    assert advice(needed[4] - 1) == advice(needed[2]) == "--groups 2 fits"
    assert advice(needed[1]) == "--groups 1 fits"
    assert advice(needed[1] - 1) == "--layers last fits"
    assert advice(1000).startswith("neither fewer groups nor fewer layers fit, so try")


def test_a_random_twin_has_results_of_its_own(model, tokens, tmp_path):
    asked = options(model, tokens, tmp_path / "x", layers="last")
    own, twin = measure_path(**asked), measure_path(**asked, random_weights=3)
    assert twin.parent.parent == tmp_path / "x" / "random-3"
    assert read_rows(twin)[0].run == "tiny-random"
    assert values_of(own) != values_of(twin)
    assert load_model(model).name == "tiny"
