"""The command that trains a model on facts."""

from pathlib import Path
from typing import Literal

from tightframe.commands.console import Assignments, Device, Flag, Json, done, say


def inject(
    data: Path,
    /,
    *,
    out: Path,
    arm: str | None = None,
    model: str | None = None,
    objective: Literal["ntp", "sp", "qa", "mlm"] | None = None,
    exposures: int | None = None,
    n_facts: int | None = None,
    preset: str | None = None,
    seed: int | None = None,
    device: Device | None = None,
    bf16: Flag = False,
    batch_tokens: int | None = None,
    set_: Assignments = None,
    strict: Flag = False,
    json: Json = False,
) -> None:
    """Train a model on facts; a killed run goes on when the same command is given again.

    Parameters
    ----------
    data
        Facts, in any format that `tightframe knowledge validate` takes.
    out
        The run directory.
    arm
        A network of ours, by how it reads and what it learns. clm_ntp: left to right, whole
        sentences; clm_sp: left to right, masked words; bilm_sp: the sentence both ways, masked
        words; bilm_mlm: the same, all words at once; bilm_ed: the same, an encoder and a decoder.
    model
        What to go on from: a run or checkpoint of ours (with an arm, or as it was), or a model of
        transformers, as a folder or a name on the hub.
    objective
        What is learnt: whole sentences (ntp), masked words (sp), answers to questions (qa), masked
        tokens (mlm); by default that of the arm, or what suits the model.
    exposures
        How often each fact is shown; 500, if no preset says otherwise.
    n_facts
        Only the first so many; 0: all of them, as by default.
    preset
        Published settings by name, e.g. paper-t5-large; explicit settings win.
    seed
        Of the weights, the masked words and the order.
    device
        Where to train.
    bf16
        Multiply in bfloat16, over float32 weights.
    batch_tokens
        Tokens in a step, padding included, instead of 16 lessons.
    set_
        Any other setting as key=value, e.g. --set width=384; may be given again. One that is not
        known is answered with all that are.
    strict
        Refuse facts with any fault.
    json
        Print one JSON object on standard output.
    """
    from tightframe.knowledge.benchmark import load_benchmark
    from tightframe.knowledge.clozes import MAX_SPAN
    from tightframe.knowledge.injection_runs import InjectOptions, check_injection
    from tightframe.settings import overrides, resolve

    given = {
        "arm": arm,
        "model": model,
        "objective": objective,
        "exposures": exposures,
        "n_facts": n_facts,
        "preset": preset,
        "seed": seed,
        "device": device,
        "precision": "bf16" if bf16 else None,
        "batch_tokens": batch_tokens,
    }
    values = {key: value for key, value in given.items() if value is not None}
    values |= {"data": data, "out": out} | overrides(set_ or [])
    settings = resolve(InjectOptions, values, source="knowledge inject")
    if settings.max_span > MAX_SPAN:
        say(f"max_span {settings.max_span}: longer than the {MAX_SPAN} words published")
    if strict:
        load_benchmark(settings.data, strict=True)
    check_injection(settings)
    from tightframe.knowledge.injection import inject as inject_facts

    run = inject_facts(settings)
    last = next(record for record in reversed(run.log) if record["kind"] == "train")
    facts = run.facts
    done(
        f"{run.path}: {facts['n_facts']:,} facts shown {settings.exposures:,} times, "
        f"{facts['n_parameters']:,} parameters, {last['tokens']:,} tokens learnt, final loss "
        f"{last['loss']:.4f} nats per token, {last['seconds']:,.0f} s; lessons {facts['stream']}",
        json,
        run=str(run.path),
        **facts | last | {"kind": "injection"},
    )
