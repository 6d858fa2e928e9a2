"""Write the list in docs/models.md: what works of every causal class of transformers, made tiny.

python tools/models_page.py               # all of them, some minutes of one core
python tools/models_page.py gpt2 llama    # prints their lines
"""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "models.md"


def main() -> None:
    """Write the list, or print the lines of the kinds that are named."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]
    import torch
    import transformers

    from causal_verdicts import CLASSES, SECTION, line, section

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    named = sys.argv[1:]
    lines = []
    for model_type in named or CLASSES:
        print(model_type, file=sys.stderr, flush=True)
        lines.append(line(model_type))
    if named:
        print("\n".join(lines))
    else:
        before = PAGE.read_text().partition(SECTION)[0]
        PAGE.write_text(before + section(lines))


if __name__ == "__main__":
    main()
