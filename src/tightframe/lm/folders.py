"""Whether a path or name can be a model, from names and files alone: torch is not imported."""

from pathlib import Path

from tightframe.errors import UserError
from tightframe.formats import read_json
from tightframe.lm.runs import Run


def check_model(path_or_name: str | Path) -> None:
    """Refuse at once what is neither a run, nor a model's folder, nor a name on the hub."""
    folder = Path(path_or_name).expanduser()
    if (folder / "config.toml").is_file():
        Run.open(folder).kept()
    elif folder.exists():
        _check_folder(folder)
    elif _no_name_on_the_hub(path_or_name, folder):
        raise UserError(
            f"{path_or_name}: no such folder; expected a run or a model{_within(folder.parent)}"
        )


def _check_folder(folder: Path) -> None:
    """Refuse a folder whose files describe no model."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(
            f"{folder}: neither a run (config.toml) nor a model (config.json)"
            f"{_within(folder) if folder.is_dir() else ''}"
        )
    if not isinstance(read_json(path), dict):
        raise UserError(f"{path}: describes no model; expected a JSON object")


def _no_name_on_the_hub(path_or_name: str | Path, folder: Path) -> bool:
    """Whether it can only be meant for a folder: a name on the hub is NAME or OWNER/NAME."""
    deep = len(folder.parts) > 2 or folder.is_absolute()
    dotted = str(path_or_name).startswith((".", "~"))
    return deep or dotted or (len(folder.parts) == 2 and folder.parent.is_dir())


def _within(folder: Path) -> str:
    """List the runs and models of a folder, for a message to a reader who took the wrong one."""
    found = [
        *folder.glob("*/config.toml"),
        *folder.glob("*/config.json"),
    ]
    names = sorted({path.parent.name for path in found})
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"; {folder} has {', '.join(names[:3])}{more}"
