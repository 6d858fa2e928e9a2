from pathlib import Path

import pytest

from tightframe import cli
from tightframe.analysis.published import model_names, n_parameters
from tightframe.errors import UserError
from tightframe.jobs import sweep
from tightframe.jobs.estimates import estimate
from tightframe.lm.options import TransformerConfig
from tightframe.lm.transformer import Transformer
from tightframe.settings import read_toml
from tiny_tokens import write_tokens

STUDY = Path(__file__).parent.parent / "configs" / "linguistic-collapse.toml"


@pytest.mark.parametrize(
    "changes", [{}, {"tied": False}, {"attention_bias": True}, {"depth": 3, "width": 4}]
)
def test_parameters_are_those_of_the_model(changes):
    sizes = {"vocab_size": 11, "width": 8, "depth": 2, "heads": 2, "positions": 5}
    config = TransformerConfig(**sizes | changes)
    assert config.n_parameters == Transformer(config).n_parameters


@pytest.fixture
def published(tmp_path, monkeypatch):
    """The published study on tokens of its vocabulary and rows, but few of them."""
    monkeypatch.chdir(tmp_path)
    write_tokens(tmp_path / "tokens" / "tinystories", vocab_size=50_257, block=2_048, train=160)
    return STUDY


def test_the_published_study_is_170_runs_of_230_checkpoints(published):
    runs = sweep.plan(published, sizes=False)
    cost = estimate([run.plan for run in runs], Path(), tflops=100.0)
    assert (cost.runs, cost.checkpoints) == (170, 230) == (len(runs), len(model_names()))
    assert (cost.least_parameters, cost.most_parameters) == (
        n_parameters(1, 64),
        n_parameters(12, 1024),
    )
    # 80 runs of one epoch, 30 of three, 60 of ten.
    labels = cost.tokens / (80 + 30 * 3 + 60 * 10)
    assert 0 < labels < 160 * 2_047
    assert labels == round(labels)
    decays = [read_toml(run.plan)["weight_decay"] for run in runs]
    assert (decays.count(0.1), decays.count(5e-4)) == (60, 110)


def test_the_cost_of_one_run_by_hand(tmp_path, capsys):
    write_tokens(tmp_path / "tokens", vocab_size=23, block=9, train=22, val=5, length=9)
    file = tmp_path / "one.toml"
    file.write_text(
        f'out = "{tmp_path}"\n[base]\ntokens = "{tmp_path}/tokens"\nwidth = 8\ndepth = 2\n'
        "heads = 2\nepochs = 2\ncheckpoints = [1]\n"
    )
    (run,) = sweep.plan(file)
    cost = estimate([run.plan], tmp_path, tflops=2.0)
    val = sum(int(length) - 1 for length in _val_lengths(tmp_path / "tokens"))
    assert cost.tokens == 2 * 22 * 8
    per_token = 6 * (12 * 2 * 64 + 23 * 8) + 6 * 2 * 8 * 9
    assert cost.flops == pytest.approx(per_token * (2 * 176 + 2 * (176 + val) / 3))
    assert cost.gpu_hours == pytest.approx(cost.flops / 2e12 / 3600)
    size = cost.most_parameters
    assert (cost.disk, cost.moments) == (2 * 4 * size + 12 * size, 2 * 8 * 23 * 8)
    cli.main(["sweep", "plan", str(file)])
    assert "1 runs, 2 checkpoints" in capsys.readouterr().out


def _val_lengths(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "val-00000.safetensors")["lengths"]


def test_a_lacking_tokenizer_or_shard_and_a_small_disk_are_refused(tmp_path):
    write_tokens(tmp_path / "tokens")
    file = tmp_path / "one.toml"
    file.write_text(f'out = "{tmp_path}"\n[base]\ntokens = "{tmp_path}/tokens"\nheads = 2\n')
    plans = [run.plan for run in sweep.plan(file)]
    cost = estimate(plans, tmp_path, tflops=1.0)
    with pytest.raises(UserError, match=r"the checkpoints take .* GB, but 0 GB are free"):
        type(cost)(**vars(cost) | {"free": 0}).check_disk(tmp_path)
    (tmp_path / "tokens" / "val-00000.safetensors").unlink()
    with pytest.raises(UserError, match=r"val-00000\.safetensors: no such file"):
        estimate(plans, tmp_path, tflops=1.0)
    (tmp_path / "tokens" / "tokenizer.json").write_text("[]")
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        estimate(plans, tmp_path, tflops=1.0)
