"""The published study's settings by name: they supply what isn't given.

AdamW over the upsampled facts once, linear decay without warm-up, no weight decay, bfloat16.

Source: Zhang et al. (2025), arXiv:2505.12306, and its code (GitHub zhang-yu-wei/WikiDYK).
"""

from types import MappingProxyType
from typing import Any

from tightframe.errors import UserError, nearest

_COMMON = {
    "exposures": 1000,
    "schedule": "linear",
    "warmup": 0.0,
    "final_rate": 0.0,
    "weight_decay": 0.0,
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "clip": 1.0,
    "seed": 42,
    "precision": "bf16",
}
_T5 = {**_COMMON, "objective": "sp", "batch": 128, "lora": False}
_CLM = {**_COMMON, "batch": 256, "lora": False}
_CLM_LORA = {**_CLM, "lora": True, "learning_rate": 2e-4}

# `batch` is what an optimizer step sees on all devices together; `lora`: rank 32, alpha 16.
PRESETS = MappingProxyType(
    {
        "paper-t5-base": {**_T5, "learning_rate": 3e-4},
        "paper-t5-large": {**_T5, "learning_rate": 1e-4},
        "paper-clm-ntp": {**_CLM, "objective": "ntp", "learning_rate": 2e-5},
        "paper-clm-ntp-lora": {**_CLM_LORA, "objective": "ntp"},
        "paper-clm-sp": {**_CLM, "objective": "sp", "learning_rate": 2e-6},
        "paper-clm-sp-1b": {**_CLM, "objective": "sp", "learning_rate": 2e-5},
        "paper-clm-sp-lora": {**_CLM_LORA, "objective": "sp"},
        "paper-clm-qa": {**_CLM, "objective": "qa", "learning_rate": 2e-5},
        "paper-clm-qa-lora": {**_CLM_LORA, "objective": "qa"},
        "paper-roberta-large": {
            **_COMMON,
            "objective": "mlm",
            "batch": 512,
            "learning_rate": 1e-5,
            "lora": False,
        },
        # One model a cluster; published with 64 rows on each of 2 to 4 devices.
        "paper-cluster-t5-base": {**_T5, "learning_rate": 3e-4},
        "paper-cluster-t5-large": {**_T5, "learning_rate": 1e-4},
    }
)


def preset(name: str) -> dict[str, Any]:
    """A new dictionary each time, so that no run can change another's settings."""
    if name not in PRESETS:
        raise UserError(
            f"unknown preset '{name}'{nearest(name, PRESETS)}; expected one of {', '.join(PRESETS)}"
        )
    return dict(PRESETS[name])
