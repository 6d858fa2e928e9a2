"""The guide to measuring while training: its examples run, one after another."""

import re
import shlex
from pathlib import Path

import torch
import transformers

from tightframe import cli
from tightframe.corpus.shards import TokenShards
from tightframe.report import figures

GUIDE = Path(__file__).parent.parent / "docs" / "guide" / "while-training.md"


def small_model(vocab_size):
    config = transformers.GPT2Config(
        vocab_size=vocab_size, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


def test_the_examples_of_the_guide_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("draw_all", "draw_trajectories"):  # figures are slow and have their own tests
        monkeypatch.setattr(figures, name, lambda *_, **__: None)
    text = "\n\n".join(f"The cat {i % 7} saw dog {i % 5} and ran home again ." for i in range(300))
    (tmp_path / "text.txt").write_text(text)
    cli.main(
        [
            "corpus",
            "build",
            "text.txt",
            "--out",
            "tokens/text",
            "--vocab-size",
            "280",
            "--block",
            "32",
        ]
    )
    tokens = TokenShards.open("tokens/text")
    rows, _ = tokens.split("train").rows(range(40))
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", GUIDE.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert [kind for kind, _ in blocks] == ["python", "python", "python", "sh", "sh"]
    model = small_model(280)
    given = {
        "model": model,
        "dataset": [{"input_ids": row, "labels": row} for row in rows],
        "batches": rows.split(8),
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
    }
    given["quiet"] = {"use_cpu": True, "disable_tqdm": True, "logging_strategy": "no"}
    given["quiet"] |= {"save_strategy": "no", "dataloader_pin_memory": False}
    for kind, block in blocks:
        if kind == "python":
            exec(block.replace('report_to="none"', 'report_to="none", **quiet'), dict(given))
        else:
            words = shlex.split(block)
            cli.main([word for word in words[1:] if word != "tightframe"])

    def steps(run):
        files = (tmp_path / "runs" / run / "results").glob("probe-train-*.jsonl")
        return sorted(int(file.name.split("-")[2]) for file in files)

    assert steps("gpt2") == [0, 2, 4, 6]
    assert steps("mine") == [0, 2, 4]
    assert steps("ours") == steps("typed")
    assert steps("ours")[:2] == [0, 5]
    page = (tmp_path / "runs" / "ours" / "report" / "index.html").read_text()
    assert "While training" in page
