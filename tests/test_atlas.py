"""Series of models: audited and measured from a hub of this machine, and from folders."""

import json
import socket
from pathlib import Path

import pandas as pd
import pytest
import tokenizers
import torch
import transformers

import tightframe as tf
from fake_hub import FakeHub, serving, use
from tightframe import cli
from tiny_models import V, save

WORDS = ["<end>", *(f"w{i}" for i in range(V - 1))]
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
# Which weights a revision has, by seed, and in its order of training.
SERIES = {
    "step0": 0,
    "step1": 0,
    "step_60": 1,
    "checkpoint-400": 2,
    "step1000": 3,
    "step20000-tokens84B": 9,
    "step30000": 4,
    "step40000": 5,
    "step50000": 6,
    "step143000": 7,
    "step-480k-token-1007B": 9,
    "stage1-step-40000": 8,
    "stage2-ingredient3-step2000-tokens9B": 10,
}
REFS = {name: f"{place:040x}" for place, name in enumerate([*SERIES, "main", "dev"], start=1)}


def save_tokenizer(folder, words=WORDS):
    ids = {word: place for place, word in enumerate(words)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token=words[0]))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token=words[0], unk_token=words[0]
    ).save_pretrained(folder)


@pytest.fixture(scope="session")
def contents(tmp_path_factory):
    """Files of every revision by commit, with the damage that public series have."""
    folder = tmp_path_factory.mktemp("series")
    save_tokenizer(folder)
    tokenizer = {file.name: file.read_bytes() for file in folder.glob("*.json")}
    by_seed = {}
    for seed in range(11):
        model = save("gpt2", folder / str(seed), seed)
        whole = {file.name: file.read_bytes() for file in (folder / str(seed)).iterdir()}
        if seed in (8, 9):
            model.save_pretrained(folder / f"{seed}-sharded", max_shard_size="22KB")
            sharded = (folder / f"{seed}-sharded").iterdir()
            whole = {file.name: file.read_bytes() for file in sharded}
        by_seed[seed] = whole | tokenizer
    assert set(SHARDS) <= set(by_seed[9])
    files = {REFS[name]: dict(by_seed[seed]) for name, seed in SERIES.items()}
    files[REFS["main"]] = files[REFS["dev"]] = by_seed[9]
    of = {name: files[commit] for name, commit in REFS.items()}
    of["stage1-step-40000"][SHARDS[0]] = by_seed[9][SHARDS[0]]
    del of["step_60"]["model.safetensors"]
    pickled = of["checkpoint-400"]
    weights = transformers.GPT2LMHeadModel.from_pretrained(folder / "2").state_dict()
    torch.save(weights, folder / "pytorch_model.bin")
    del pickled["model.safetensors"]
    pickled["pytorch_model.bin"] = (folder / "pytorch_model.bin").read_bytes()
    of["step143000"]["config.json"] = b'{"model_type": "gpt2", "n_layer": "two"}'
    save_tokenizer(folder / "other", [WORDS[0], *WORDS[:0:-1]])
    other = {file.name: file.read_bytes() for file in (folder / "other").iterdir()}
    of["stage2-ingredient3-step2000-tokens9B"].update(other)
    return files


@pytest.fixture
def hub(contents, monkeypatch, tmp_path):
    """The hub, where one revision is gated, one refused for a second, and one cut short."""
    monkeypatch.chdir(tmp_path)
    connect = socket.socket.connect

    def only_here(self, address):
        assert address[0] == "127.0.0.1", f"another address is contacted: {address}"
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", only_here)
    with serving(FakeHub("tiny/series", contents, REFS)) as server:
        server.refused[f"/resolve/{REFS['step30000']}"] = 401, {"X-Error-Code": "GatedRepo"}
        server.once[f"/tree/{REFS['step40000']}"] = 429, {"Retry-After": "1"}
        server.cut.add(f"/resolve/{REFS['step50000']}/model.safetensors")
        use(server, monkeypatch, tmp_path / "cache")
        yield server


def run(command, capsys):
    """Exit status and what was printed on standard output and error."""
    capsys.readouterr()
    status = 0
    try:
        cli.main(command.split())
    except SystemExit as ended:
        status = ended.code
    return status, *capsys.readouterr()


def trees(hub):
    return [path for path in hub.asked if "/tree/" in path]


VERDICTS = {
    "step0": ("fine", "equal to step1"),
    "step1": ("fine", "equal to step0"),
    "step_60": ("weights missing", ""),
    "checkpoint-400": ("fine", ""),
    "step1000": ("fine", ""),
    "step20000-tokens84B": ("equal", "equal to main"),
    "step30000": ("fine", ""),
    "step40000": ("fine", ""),
    "step50000": ("fine", ""),
    "step143000": ("fine", "another config than most"),
    "step-480k-token-1007B": ("fine", "is main"),
    "stage1-step-40000": ("partly equal", f"{SHARDS[0]} of main"),
    "stage2-ingredient3-step2000-tokens9B": ("fine", "another tokenizer than most"),
}


def test_an_audit_finds_the_damage_by_one_request_per_revision(hub):
    made = tf.audit("tiny/series", tokens_per_step=1000)
    table = made.to_pandas()
    found = {row.revision: (row.verdict, row.notes) for row in table.itertuples()}
    assert found == VERDICTS
    assert list(table["revision"]) == list(SERIES)
    assert made.not_understood == ("dev", "main")
    tokens = dict(zip(table["revision"], table["tokens"], strict=True))
    assert tokens["step20000-tokens84B"] == 84 * 10**9
    assert tokens["checkpoint-400"] == 400_000
    assert dict(zip(table["revision"], table["format"], strict=True))["checkpoint-400"] == "bin"
    # One list of revisions, one list of files for each of them, and one more after the 429.
    assert [path for path in hub.asked if path.endswith("/refs")] == [
        "/api/models/tiny/series/refs"
    ]
    assert len(trees(hub)) == len(SERIES) + 2
    assert not [path for path in hub.asked if "/resolve/" in path]


def test_an_audit_asks_for_nothing_that_it_knows(hub, capsys):
    hub.refused[f"/tree/{REFS['step1000']}"] = 403, {}
    hub.once.clear()
    status, printed, said = run("atlas audit tiny/series --revisions step1*", capsys)
    assert status == 3
    assert "step1000" in said.splitlines()[-1]
    assert "not listed" in printed
    assert pd.read_parquet("atlas/series/audit.parquet")["revision"].tolist()[:2] == [
        "step1",
        "step1000",
    ]
    hub.refused.clear()
    hub.asked.clear()
    status, printed, _ = run("atlas audit tiny/series --json", capsys)
    assert status == 0
    verdicts = {one["revision"]: one["verdict"] for one in json.loads(printed)["revisions"]}
    assert verdicts == {name: verdict for name, (verdict, _) in VERDICTS.items()}
    known = {REFS[name] for name in ("main", "step1", "step143000")}
    assert {path.rpartition("/")[2] for path in trees(hub)} == {
        REFS[name] for name in SERIES
    } - known


def test_the_last_step_is_told_from_a_damaged_one_also_if_it_is_not_audited(hub):
    made = tf.audit("tiny/series", revisions="step2*")
    assert [(one.verdict, one.notes) for one in made.revisions] == [("equal", ("equal to main",))]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("tiny/series --revisions v*", "none of its 15 revisions"),
        ("tiny/nothing", "has no such model"),
        ("./nowhere", "is a folder or a path"),
        ("tiny/series/x y", "more arguments"),
        ("tiny//series", "no name on the hub"),
        ("tiny/series --tokens-per-step 0", "tokens-per-step"),
    ],
)
def test_an_audit_of_nothing_is_one_line(hub, capsys, command, said):
    hub.refused["/models/tiny/nothing/"] = 401, {"X-Error-Code": "RepoNotFound"}
    status, printed, line = run(f"atlas audit {command}", capsys)
    assert (status, printed) == (2, "")
    assert said in line.splitlines()[-1]
    assert not Path("atlas").exists()
