"""The pilot by which the strengths of design.toml were chosen: one seed that the study has not.

    python -m studies.laboratory.pilot tokens/laboratory-emma FOLDER

prints, for each regularizer and strength, the validation loss and the measures that should move.
"""

import sys
from pathlib import Path
from typing import Any

from tightframe.geometry.options import MeasureOptions
from tightframe.geometry.study import measure_model
from tightframe.lm.checkpoints import load_checkpoint
from tightframe.lm.options import TrainOptions
from tightframe.lm.regularizers import mean_log_kernel
from tightframe.lm.training import train

SEED = 100
MEASURES = ("gnc2_log_kernel_mean_unc", "nc1_cdnv_rom_db", "nc3_cos_mean")
TENS, SMALL = (0.1, 1.0, 10.0), (1e-4, 1e-3, 1e-2)
STRENGTHS = {"dispersion": TENS, "class_dispersion": TENS, "cdnv": SMALL, "duality": TENS}


def main(tokens: str, out: str) -> None:
    """Train and measure a model per strength, and one without a regularizer."""
    grid: list[tuple[Any, Any]] = [(one, x) for one, xs in STRENGTHS.items() for x in xs]
    for name, strength in [(None, None), *grid]:
        settings = TrainOptions(
            tokens=Path(tokens),
            out=Path(out) / f"{name}-{strength}",
            width=64,
            depth=1,
            epochs=1.0,
            batch=8,
            precision="fp32",
            threads=1,
            seed=SEED,
            order_seed=SEED,
            regularizer=name,
            strength=strength,
        )
        run = train(settings)
        options = MeasureOptions(measures=MEASURES, min_count=20, groups=1, skip_special=False)
        found = measure_model(run.path, options)
        rows = load_checkpoint(run.checkpoint(run.steps[-1])).classifier.detach()
        values = [f"{measure} {found[measure].value:.4f}" for measure in MEASURES]
        kernel = f"kernel of rows {float(mean_log_kernel(rows)):.4f}"
        loss = f"loss {run.log[-1]['val_loss']:.4f}"
        print(name, strength, loss, kernel, *values, sep="\t", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
