import json

from example_results import write_sweep
from tightframe.jobs import demo, sweep


def test_the_demo_plans_twelve_models_and_ends_in_a_page(tmp_path, monkeypatch):
    # Everything but the training itself, which is `make demo`.
    monkeypatch.setattr(demo, "CORPUS_TOKENS", 4000)
    planned = []

    def made_up(file, *, say):
        planned.extend(sweep.plan(file))
        folder = planned[0].run.parent.parent
        write_sweep(folder)
        return folder

    monkeypatch.setattr(sweep, "run", made_up)
    said = []
    page = demo.run_demo(tmp_path, say=said.append)
    assert len(planned) >= 12
    assert page == tmp_path / "sweeps" / "demo" / "report" / "index.html"
    assert page.stat().st_size > 10_000
    manifest = json.loads((tmp_path / "tokens" / "demo" / "manifest.json").read_text())
    floor = manifest["entropy_floor"]["mean_conditional_entropy"]
    assert said[-1] == f"no model can do better than {floor:.3f} nats per token"
    # A second call takes what is there.
    said.clear()
    demo.run_demo(tmp_path, say=said.append)
    assert not any("writing" in line for line in said)
