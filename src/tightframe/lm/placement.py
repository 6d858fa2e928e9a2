"""Options of loading a model, and the device that each of its modules is put on."""

import dataclasses
import importlib.util
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from tightframe.errors import UserError

# Python takes a map as it is; the command line its text, or a file.
if TYPE_CHECKING:
    DeviceMap: TypeAlias = str | Path | Mapping[str, str | int]
else:
    DeviceMap = Annotated[Any, str]

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
_PLACE = re.compile(r"cpu|disk|cuda(:\d+)?|\d+")
_EXPECTED = 'expected auto, or devices by module as JSON or a file: {"model.layers.0": "cuda:0"}'


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """Place of a model, what of it may be read, and the devices that it is put on.

    Args:
        subfolder: Folder of the model inside the folder or the repository that is named.
        trust_remote_code: Run Python code that comes with the model.
        allow_bin: Read pickled weights (pytorch_model.bin) where a model has no safetensors.
        device: Device of the model: auto (a GPU where there is one), cpu, cuda:0.
        device_map: For a model that is larger than a device: auto, or the devices of its modules
            (cuda:0, cpu, disk) by name, as JSON or as a file that holds it.
    """

    subfolder: str | None = None
    trust_remote_code: bool = False
    allow_bin: bool = False
    device: str = "auto"
    device_map: DeviceMap | None = None

    def __post_init__(self) -> None:
        if not _DEVICE.fullmatch(self.device):
            raise UserError(f"device is '{self.device}'; expected auto, cpu, cuda or cuda:0")
        if self.device_map is not None and self.device != "auto":
            raise UserError("--device and --device-map: give one of them")


def read_device_map(given: DeviceMap) -> str | dict[str, str | int]:
    """Return a map of modules to devices as accelerate takes it; refuse what is none.

    Args:
        given: "auto", a map, its JSON, or a file with it.
    """
    if importlib.util.find_spec("accelerate") is None:
        raise UserError(
            "--device-map: needs the package accelerate; run `pip install 'tightframe[hf]'`"
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "--device-map: each process of torchrun would take all devices; run one process, or "
            "leave the map out"
        )
    if given == "auto":
        return "auto"
    content: Any = given
    if isinstance(given, str) and given.lstrip().startswith("{"):
        try:
            content = json.loads(given)
        except ValueError as error:
            raise UserError(f"--device-map: not JSON ({error}); {_EXPECTED}") from None
    elif not isinstance(given, Mapping):
        if not Path(given).is_file():
            raise UserError(f"--device-map: {given}: no such file; {_EXPECTED}")
        from tightframe.formats import read_json  # imports pydantic

        content = read_json(Path(given))
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"--device-map: maps no module; {_EXPECTED}")
    for module, place in content.items():
        if not isinstance(module, str) or not _PLACE.fullmatch(str(place)):
            raise UserError(
                f"--device-map: {module!r} is put on {place!r}; expected cuda:0, cpu or disk"
            )
    return {module: int(p) if str(p).isdecimal() else p for module, p in content.items()}
