"""Training until memorized, equal budgets, planned sample sizes and Holm's correction."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from example_study import questions
from tightframe.knowledge.decisions import DecisionRule, decide, holm
from tightframe.knowledge.directions import plant
from tightframe.knowledge.injection_runs import InjectionRun
from tightframe.knowledge.intervals import OF_FACTS, OF_SEEDS, detectable, paired_p
from tightframe.knowledge.memorized import equal_budgets
from tightframe.knowledge.models import inject

TINY = {"width": 32, "vocab_size": 300, "positions": 60, "learning_rate": 4e-3, "warmup": 0.1}


def test_a_training_ends_once_it_has_memorized(tmp_path):
    facts = plant(2)
    settings = TINY | {"device": "cpu", "threads": 1, "batch": 4, "until": 100}
    run = inject(facts, out=tmp_path / "run", model="causal", repeats=400, **settings).run
    checks = [record for record in run.log if record["kind"] == "check"]
    steps = run.facts["steps"]
    assert steps == 200
    # Every tenth is a check; all but the last one found too little.
    assert [record["step"] for record in checks] == [20 * i for i in range(1, len(checks) + 1)]
    assert [record["ended"] for record in checks] == [*[False] * (len(checks) - 1), True]
    assert checks[-1]["memorized"] == 100 > checks[0]["memorized"]
    assert 1 < len(checks) < 10
    assert run.finished
    assert run.steps == [checks[-1]["step"]]
    assert not run.resume_folder.exists()
    before = run.log_path.read_bytes()
    again = inject(facts, out=tmp_path / "run", model="causal", repeats=400, **settings)
    assert again.run.log_path.read_bytes() == before


def test_a_training_that_never_memorizes_uses_its_budget(tmp_path):
    settings = TINY | {"device": "cpu", "threads": 1, "batch": 4, "until": 100}
    run = inject(plant(8), out=tmp_path / "run", model="causal_span", repeats=5, **settings).run
    checks = [record for record in run.log if record["kind"] == "check"]
    assert len(checks) == 10
    assert not any(record["ended"] for record in checks)
    assert run.steps == [run.facts["steps"]]
    assert InjectionRun.open(run.path).finished


def test_arms_are_compared_at_equal_facts_shown_and_at_equal_tokens():
    rows = [
        ("a", 0, 50, 100, 20.0),
        ("a", 0, 100, 200, 60.0),
        ("b", 0, 50, 400, 30.0),
        ("b", 0, 100, 800, 50.0),
        ("b", 0, 150, 1200, 90.0),
    ]
    checks = pd.DataFrame(rows, columns=["arm", "seed", "shown", "tokens", "memorized"])
    found = equal_budgets(checks.assign(n_facts=8), [("a", "b"), ("a", "c")])
    by = found.set_index("budget")
    # Both were shown 100 times; `a` read 200 tokens, before the first check of `b`.
    shown, tokens = by.loc["facts shown"], by.loc["target tokens"]
    assert (shown["at"], shown["first_memorized"], shown["second_memorized"]) == (100, 60, 50)
    assert (tokens["at"], tokens["first_memorized"], tokens["second_memorized"]) == (200, 60, 0)
    assert len(found) == 2
    assert equal_budgets(pd.DataFrame(), [("a", "b")]).empty


def test_the_detectable_difference_is_found_in_80_percent_of_studies():
    generator = np.random.default_rng(0)
    n, seeds = 200, 3
    d = detectable(n, seeds)
    spread = 100 * math.sqrt(OF_FACTS + OF_SEEDS / seeds)
    apart = d + spread * generator.normal(size=(4000, n))
    found = stats.ttest_1samp(apart, 0, axis=1).pvalue < 0.05
    # The standard error of a share of 0.8 over 4,000 is 0.006.
    assert np.mean(found) == pytest.approx(0.8, abs=0.02)
    assert detectable(n, seeds, comparisons=5) > d > detectable(1000, seeds)
    assert detectable(80, 3, comparisons=5) > 5 > detectable(1000, 3, comparisons=5)


def test_p_over_facts_is_that_of_the_paired_t_test():
    generator = np.random.default_rng(1)
    apart = generator.normal(0.2, 1, size=40)
    expected = stats.ttest_1samp(apart, 0).pvalue
    assert paired_p(apart, np.arange(40)) == pytest.approx(expected)
    assert paired_p(np.zeros(5), np.arange(5)) == 1
    assert math.isnan(paired_p(np.ones(1), np.zeros(1, int)))


def test_holm_corrects_the_smallest_p_most():
    # 0.01 * 3, then 0.02 * 2, then 0.9 * 1; the unknown counts as 1.
    assert holm([0.02, 0.01, 0.9]) == pytest.approx([0.04, 0.03, 0.9])
    assert holm([0.04, math.nan]) == pytest.approx([0.08, 1.0])
    assert holm([]) == []


def test_a_difference_that_holm_takes_away_is_inconclusive():
    rule = DecisionRule(first="a", second="b", forms=("forward", "backward"), margin=0.1)
    generator = np.random.default_rng(2)
    tables = []
    for form, gain in (("cloze_question", 0.2), ("forward", 40.0), ("backward", 0.0)):
        noise = 30 * generator.normal(size=100)
        noise -= noise.mean()
        # Of the first form d is 2.2 standard errors from 0: p = 0.03, and 0.06 over two.
        d = gain if gain != 0.2 else 2.2 * noise.std(ddof=1) / 10
        tables.append(questions({"a": 50 + noise + d, "b": np.full(100, 50.0)}, form=form))
    seen = questions({"a": np.full(100, 100.0), "b": np.full(100, 100.0)}, form="cloze_seen")
    found = {one.form: one for one in decide(pd.concat([*tables, seen]), rule)}
    assert found["forward"].verdict == "reproduced at 80"
    first = found["cloze_question"]
    assert first.low > 0
    assert first.p < 0.05 < first.holm
    assert first.verdict == "inconclusive at 80"
    assert "after Holm's correction over 3 forms" in first.note
    assert found["backward"].verdict == "inconclusive at 80"


def test_an_arm_that_fills_no_masks_has_memorized_what_it_continues():
    rule = DecisionRule(first="a", second="b", form="forward", forms=("backward",))
    full, part = np.full(40, 100.0), np.where(np.arange(40) < 30, 100.0, 0.0)
    table = [questions({"a": full, "b": part}, form="forward")]
    table += [
        questions({"a": full}, form="left_context"),
        questions({"b": part}, form="cloze_seen"),
    ]
    (found,) = decide(pd.concat(table), rule)
    assert found.trained == {"a": 100, "b": 75}
    assert found.verdict == "under-trained"
    assert "compared on what it took only" in found.note
