"""Series of models: audited and measured from a hub of this machine, and from folders."""

import contextlib
import json
import os
import random
import re
import shlex
import signal
import socket
import threading
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import tokenizers
import torch
import transformers

import tightframe as tf
from fake_hub import FakeHub, serving, use
from tightframe import cli
from tightframe.analysis.sources import add_scores
from tightframe.jobs.series import spaced
from tightframe.lm.training import train
from tiny_models import V, save
from tiny_runs import tiny_settings
from tiny_tokens import write_tokens

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


MEASURED = "--text text.txt --context 12 --groups 1 --min-count 1 --measures nc1_cdnv_p2,nc4_rate"
OPTIONS = {"text": "text.txt", "context": 12, "groups": 1, "min_count": 1}
OPTIONS["measures"] = ["nc1_cdnv_p2", "nc4_rate"]
GOOD = ["step0", "step1", "checkpoint-400", "step1000", "step40000", "step-480k-token-1007B"]
GOOD += ["stage2-ingredient3-step2000-tokens9B"]
LEFT_OUT = {"step20000-tokens84B": "equal to main"}
LEFT_OUT |= {"stage1-step-40000": f"partly equal; {SHARDS[0]} of main"}
FAILED = {"step_60": "weights missing", "step30000": "gated", "step50000": "", "step143000": ""}


def write_text(path="text.txt"):
    rng = random.Random(0)
    lines = (" ".join(rng.choices(WORDS[1:9], k=12)) for _ in range(60))
    Path(path).write_text("\n\n".join(lines))


@pytest.fixture
def hub(contents, monkeypatch, tmp_path):
    """The hub, where one revision is gated, one refused for a second, and one cut short."""
    monkeypatch.chdir(tmp_path)
    connect = socket.socket.connect

    def only_here(self, address):
        assert address[0] == "127.0.0.1", f"another address is contacted: {address}"
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", only_here)
    write_text()
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


def work_of(series="atlas/series"):
    """Number of folders with weights, and bytes of all their files; they may change meanwhile."""
    total = 0
    folders = list(Path(series, ".work").glob("*"))
    for place, _, files in os.walk(Path(series, ".work")):
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                total += Path(place, file).stat().st_size
    return len(folders), total


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
    # A part of them is compared with all that is known, which stays in the file.
    hub.asked.clear()
    part = tf.audit("tiny/series", revisions="step0")
    assert [one.notes for one in part.revisions] == [("equal to step1",)]
    assert not trees(hub)
    assert len(pd.read_parquet(part.path)) == len(SERIES) + 1


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
        ("tiny/series --tokens-per-step 0", "tokens_per_step is 0"),
    ],
)
def test_an_audit_of_nothing_is_one_line(hub, capsys, command, said):
    hub.refused["/models/tiny/nothing/"] = 401, {"X-Error-Code": "RepoNotFound"}
    status, printed, line = run(f"atlas audit {command}", capsys)
    assert (status, printed) == (2, "")
    assert said in line.splitlines()[-1]
    assert not Path("atlas").exists()


def test_a_series_is_measured_within_the_disk_and_leaves_no_weights(hub, capsys):
    room = 2 * max(sum(len(x) + 4096 for x in files.values()) for files in hub.files.values())
    taken, stop = [], threading.Event()

    def sample():
        while not stop.wait(0.005):
            taken.append(work_of())

    watch = threading.Thread(target=sample)
    watch.start()
    budget = f"--allow-bin --max-disk {room / 1000}kB"
    status, printed, said = run(f"atlas run tiny/series {MEASURED} {budget} --json", capsys)
    stop.set()
    watch.join()
    made = json.loads(printed)
    assert status == 3, said
    assert made["measured"] == GOOD
    assert made["left_out"] == LEFT_OUT
    assert set(made["failed"]) == set(FAILED)
    for name, why in FAILED.items():
        assert why in made["failed"][name]
        assert name in said.splitlines()[-1]
    assert made["equal"] == [["step0", "step1"]]
    assert max(n for n, _ in taken) == 2
    assert max(n_bytes for _, n_bytes in taken) <= room
    assert not Path("atlas/series/.work").exists()
    left = {file.parent.parent.name for file in Path("atlas").rglob("*.safetensors")}
    assert left == {"tokens"}  # of both tokenizers
    rows = tf.gather(sorted(Path("atlas/series/results").glob("*.jsonl")))
    found = rows.drop_duplicates(["run", "step"]).set_index("model_revision")
    assert set(found.index) == set(GOOD)
    assert found.loc["step-480k-token-1007B", "model_trained_tokens"] == 1007 * 10**9
    assert found.loc["step1000", "model_commit"] == REFS["step1000"]
    assert found.loc["step1000", ["run", "step"]].tolist() == ["series", 1000]
    assert found.loc[GOOD[-1], ["run", "step"]].tolist() == ["series@stage2-ingredient3", 2000]
    # No file is downloaded twice, and none of a revision that is not measured.
    fetched = Counter(path for path in hub.asked if "/resolve/" in path and "HEAD" not in path)
    ended = {path for path in fetched if REFS["step50000"] in path}
    assert set(Counter(path for path in fetched.elements() if path not in ended).values()) == {1}
    assert not [path for path in fetched if REFS["step20000-tokens84B"] in path]
    # Once more: what is there is neither downloaded nor listed again, and what failed is tried.
    hub.asked.clear()
    hub.cut.clear()
    status, printed, _ = run(f"atlas run tiny/series {MEASURED} {budget} --json", capsys)
    again = json.loads(printed)
    assert (status, again["measured"], again["before"]) == (3, ["step50000"], GOOD)
    assert not trees(hub)
    tried = {path.split("/resolve/")[1][:40] for path in hub.asked if "/resolve/" in path}
    assert tried <= {REFS[name] for name in FAILED}


def killed(command, when):
    """Run a command in a process that is killed when `when` says so, or has ended before."""
    child = os.fork()  # which has all imports already
    if child == 0:
        with contextlib.suppress(BaseException):
            cli.main(command.split())
        os._exit(0)
    deadline = time.monotonic() + 100
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        assert time.monotonic() < deadline
        if when():
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return
        time.sleep(0.01)


def rows_of(folder):
    rows = tf.gather(sorted(Path(folder, "results").glob("*.jsonl")))
    return rows.sort_values(["run", "step", "split", "metric"], ignore_index=True)


FEW = f"atlas run tiny/series {MEASURED} --steps 0,1,1000,40000"


def test_a_series_that_is_killed_resumes_to_the_same_rows(hub, capsys):
    n_results = lambda: len(list(Path("atlas/series/results").glob("*.jsonl")))  # noqa: E731
    killed(FEW, lambda: n_results() == 2 and work_of()[0] > 0)
    assert 2 <= n_results() < 4
    assert work_of()[0] > 0
    status, printed, _ = run(f"{FEW} --json", capsys)
    made = json.loads(printed)
    assert status == 0
    assert len(made["before"]) in (1, 2)  # the second may have been killed before its record
    assert not Path("atlas/series/.work").exists()
    assert run(f"{FEW} --out whole", capsys)[0] == 0
    pd.testing.assert_frame_equal(rows_of("atlas/series"), rows_of("whole"))


@pytest.mark.slow
def test_a_series_that_is_killed_at_any_moment_resumes_to_the_same_rows(hub, capsys):
    start = time.monotonic()
    assert run(f"{FEW} --out whole", capsys)[0] == 0
    lasts = time.monotonic() - start
    rng = random.Random()
    for _ in range(5):
        moment = time.monotonic() + rng.uniform(0, lasts)
        killed(FEW, lambda moment=moment: time.monotonic() >= moment)
    assert run(FEW, capsys)[0] == 0
    assert not Path("atlas/series/.work").exists()
    pd.testing.assert_frame_equal(rows_of("atlas/series"), rows_of("whole"))


@pytest.mark.slow
def test_shares_of_a_series_are_all_of_it(hub, capsys):
    for part in ("1/2", "2/2"):
        assert run(f"{FEW} --part {part}", capsys)[0] == 0
    assert run(f"{FEW} --out whole", capsys)[0] == 0
    pd.testing.assert_frame_equal(rows_of("atlas/series"), rows_of("whole"))


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (f"tiny/series {MEASURED} --steps 3", "there is no step 3; there are 0, 1, 60"),
        (f"tiny/series {MEASURED} --steps 0 --every-log 3", "give one of them"),
        (f"tiny/series {MEASURED} --max-disk 3QB", "expected a size such as 30GB"),
        (f"tiny/series {MEASURED} --part 3/2", "expected I/N"),
        (f"tiny/series {MEASURED} --step 3", "is for one model of a series"),
        (f"tiny/series {MEASURED} --revisions v*", "none of its 15 revisions"),
        ("tiny/series", "say on which tokens"),
        ("tiny/series --text missing.txt", "missing.txt: no such file"),
        (f"./nowhere {MEASURED}", "no such folder"),
        (f". {MEASURED}", "expected runs, or models in folders"),
    ],
)
def test_a_series_that_cannot_be_measured_is_one_line(hub, capsys, command, said):
    status, printed, line = run(f"atlas run {command}", capsys)
    assert (status, printed) == (2, "")
    assert said in line.splitlines()[-1]
    assert not [path for path in hub.asked if "/resolve/" in path]


def test_weights_that_do_not_fit_are_not_downloaded(hub, capsys):
    command = f"atlas run tiny/series {MEASURED} --steps 0,1000 --max-disk 20kB"
    status, _, said = run(command, capsys)
    assert status == 3
    assert "2e-05 GB max_disk allows" in said
    assert not [path for path in hub.asked if "/resolve/" in path]


@pytest.fixture(scope="module")
def trainings(contents, tmp_path_factory):
    """Outputs of four trainings by a Trainer, with three checkpoints each, and what is no model."""
    folder = tmp_path_factory.mktemp("local") / "trainings"
    seeds = iter([0, 3, 4, 1, 5, 6, 7, 10, 8, 2, 9, 3])
    of_seed = {seed: contents[REFS[name]] for name, seed in SERIES.items()}
    for damaged in (1, 2, 7, 8, 10):
        of_seed[damaged] = contents[REFS["step1000"]]
    for training in range(4):
        for step in (0, 10, 100):
            place = folder / f"seed{training}" / f"checkpoint-{step}"
            place.mkdir(parents=True)
            for name, content in of_seed[next(seeds)].items():
                (place / name).write_bytes(content)
    (folder / "notes").mkdir()
    return folder


def content_of(folder):
    return {file: file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_a_local_series_is_measured_where_it_is(trainings, hub, capsys):
    before = content_of(trainings)
    command = f"atlas run {trainings} {MEASURED} --revisions seed0/* --tokens-per-step 4096 --json"
    status, printed, _ = run(command, capsys)
    assert status == 0
    assert json.loads(printed)["measured"] == [f"seed0/checkpoint-{step}" for step in (0, 10, 100)]
    assert content_of(trainings) == before
    assert not hub.asked
    rows = rows_of("atlas/trainings")
    assert set(rows["run"]) == {"seed0"}
    assert (rows["model_trained_tokens"] == rows["step"] * 4096).all()
    again = tf.atlas(trainings, revisions="seed0/*", tokens_per_step=4096, **OPTIONS)
    assert rows_of(again.path).equals(rows)


def test_the_examples_of_the_guide_run_and_print_what_it_shows(trainings, hub, capsys, monkeypatch):
    hub.refused.clear()
    hub.cut.clear()
    Path("trainings").symlink_to(trainings)
    write_text("novel.txt")
    guide = Path(__file__).parent.parent / "docs" / "guide" / "series.md"
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", guide.read_text(), flags=re.DOTALL | re.MULTILINE)
    # Drawing for print takes longer than all the rest, and has tests of its own.
    monkeypatch.setattr("tightframe.report.figures.draw_all", lambda *_: None)
    monkeypatch.setattr("tightframe.report.figures.draw_trajectories", lambda *_, **__: None)
    monkeypatch.setattr("tightframe.report.figures.draw_profile", lambda *_: None)
    printed, shown = list[str](), list[str]()
    for kind, block in blocks:
        if kind == "python":
            exec(block, {})
        elif kind == "sh":
            for line in block.splitlines():
                cli.main(shlex.split(line)[1:])
            printed += capsys.readouterr().out.splitlines()
        else:
            shown += block.splitlines()
    # Sizes of files are those of the installed libraries.
    without_sizes = [[re.sub(r"\S+ GB", "GB", x) for x in lines] for lines in (printed, shown)]
    assert [line for line in without_sizes[1] if line not in without_sizes[0]] == []
    assert "val_loss against 2 measures: 12 rows, 4 clusters" in "\n".join(printed)
    assert "series: 4 measured, 0 were so before" in "\n".join(printed)
    page = Path("atlas/trainings/report/index.html").read_text()
    assert "steps nc4_rate linear" in page
    assert "tightframe atlas run MODEL" in page


def test_the_checkpoints_of_a_run_are_a_series(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tokens = write_tokens(tmp_path / "tokens", train=120, val=30)
    train(tiny_settings(tokens, tmp_path / "runs" / "a", checkpoint_steps=(0, 4), epochs=1))
    measured = "--measures nc4_rate --groups 1 --min-count 1"
    status, printed, _ = run(f"atlas run runs {measured} --json", capsys)
    assert status == 0
    assert json.loads(printed)["measured"] == ["a@0", "a@4", "a@15"]
    assert rows_of("atlas/runs")["step"].unique().tolist() == [0, 4, 15]
    assert run(f"atlas run runs/a {measured} --steps 4 --out of_a", capsys)[0] == 0
    assert rows_of("of_a")["step"].unique().tolist() == [4]


@pytest.mark.parametrize(
    ("n", "chosen"), [(1, {512}), (2, {0, 512}), (4, {0, 1, 16, 512}), (99, {0, 1, 2, 4, 16, 512})]
)
def test_steps_are_spaced_evenly_in_their_logarithms(n, chosen):
    # Of 1 to 512, the middle of three in logarithms is 22.6, to which 16 is nearest.
    assert spaced([0, 1, 2, 4, 16, 512], n) == chosen


def test_scores_of_a_stage_find_its_revision():
    revision = "stage1-step1000-tokens5B"
    facts = {"run": ["series@stage1", "series"], "step": [1000, 2000], "val_loss": [3.0, 2.0]}
    table = pd.DataFrame(facts | {"model_revision": [revision, "step2000"]})
    scores = {"model": ["tiny/series"] * 2, "revision": ["step2000", revision], "acc": [0.2, 0.1]}
    assert add_scores(table, pd.DataFrame(scores)).table["acc"].tolist() == [0.1, 0.2]
