"""File formats: a schema says what a file of ours may hold, and is checked when the file is read.

A schema is a pydantic type, taken strictly: neither "1" nor `true` is a number, 1.0 is no integer.
A mistake is one line with the file, the field, what was found, what was expected and what to do.
Tensors lie in safetensors files, with JSON facts and a digest of both; JSON and TOML may carry a
fingerprint of themselves.
"""

import contextlib
import dataclasses
import fnmatch
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Generic, NoReturn, TypeVar

import pydantic

from tightframe.errors import UserError
from tightframe.files import (
    check_file,
    disk_error,
    fingerprint,
    read_text,
    sha256,
    whole_file,
    write_text,
)

F = TypeVar("F")

Count = Annotated[int, pydantic.Field(ge=0)]
Positive = Annotated[int, pydantic.Field(ge=1)]
Sha256 = Annotated[str, pydantic.Field(pattern="^[0-9a-f]{64}$")]
# A name in the same folder, never a way out of it.
FileName = Annotated[str, pydantic.Field(pattern=r"^[^/\\\x00]*[^./\\\x00][^/\\\x00]*$")]


class Record(pydantic.BaseModel):
    """An object of a file: the fields of a subclass, and no others."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


REMEDY = "it is damaged, make it again"


def check(
    schema: Any, value: Any, *, source: Path | str, remedy: str = REMEDY, what: str = ""
) -> Any:
    """Return plain `value` as the pydantic type `schema`, or refuse its first mistake in one line.

    Args:
        schema: Any type that pydantic knows.
        value: Strings, numbers, lists and dictionaries, as JSON and TOML give them.
        source: The file, and perhaps the line; the message begins with it.
        remedy: What the reader can do about it; the message ends with it.
        what: What a field is called in the message, e.g. "setting".
    """
    try:
        if odd := _odd_number(value):
            reason = f"{_field(odd[0], what)} is {odd[1]}"
        else:
            # As JSON: of Python's values, pydantic wants tuples and paths to be so already.
            return _adapter(schema).validate_json(json.dumps(value, default=str), strict=True)
    except RecursionError:
        reason = "nested too deep"
    except pydantic.ValidationError as error:
        reason = _first(error, what)
    raise UserError(f"{source}: {reason}" + (f"; {remedy}" if remedy else ""))


def parse_json(text: str, schema: Any, *, source: Path | str, remedy: str = REMEDY) -> Any:
    """Return JSON `text` as the pydantic type `schema`; `Any` takes all that Python reads."""
    hooks: dict[str, Any] = {"object_pairs_hook": _unique, "parse_constant": _no_number}
    try:
        value = json.loads(text, **({} if schema is Any else hooks))
    except RecursionError:
        raise UserError(f"{source}: not JSON (nested too deep); {remedy}") from None
    except ValueError as error:
        reason = "a number of thousands of digits" if "int_max_str" in str(error) else error
        raise UserError(f"{source}: not JSON ({reason}); {remedy}") from None
    return value if schema is Any else check(schema, value, source=source, remedy=remedy)


def read_json(path: Path, schema: Any = Any, *, remedy: str = REMEDY) -> Any:
    """Return the content of a JSON file as the pydantic type `schema`; `Any` for foreign files."""
    return parse_json(read_text(path).removeprefix("\ufeff"), schema, source=path, remedy=remedy)


def write_signed(path: Path, content: Mapping[str, Any], *, besides: Sequence[str] = ()) -> str:
    """Write a JSON object with the fingerprint of its fields, all but those of `besides`.

    Returns:
        The fingerprint.
    """
    signature = _signature(content, besides)
    signed = dict(content) | {"fingerprint": signature}
    write_text(path, json.dumps(signed, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return signature


def read_signed(
    path: Path, schema: Any, *, besides: Sequence[str] = (), remedy: str = REMEDY
) -> Any:
    """Return what `write_signed` wrote as the pydantic type `schema`, which has the fingerprint."""
    text = read_text(path)
    value = parse_json(text, schema, source=path, remedy=remedy)
    content = json.loads(text)
    if content["fingerprint"] != _signature(content, besides):
        raise UserError(f"{path}: damaged or changed since it was written; {remedy}")
    return value


class _Content(Record):
    """The description that a file of tensors carries."""

    kind: str
    revision: int
    version: str
    facts: Any
    tensors: str  # their digest
    fingerprint: str  # of the fields above


@dataclasses.dataclass(frozen=True)
class TensorFormat(Generic[F]):
    """A kind of file: tensors, facts about them as JSON, and the digest of both, in safetensors."""

    kind: str  # what such a file holds, in words, e.g. "a prediction"
    facts: Any  # the pydantic type of the facts, F
    # Names, or patterns of names, with type and axes: {"logits": "float64 V M"}. A letter is one
    # size in the whole file, "*G" any number of axes, "..." any shape; "count" is int64 from 0 up;
    # " | None" marks what may be missing.
    tensors: Mapping[str, str]
    remedy: str = REMEDY  # what to do about a damaged file
    revision: int = 1  # of the kind: another one means something else by the same fields

    def write(self, path: Path, tensors: Mapping[str, Any], facts: Any) -> None:
        """Write tensors or arrays whole or not at all; equal content gives equal bytes."""
        import safetensors.torch

        plain = _plain(tensors)
        content = {
            "kind": self.kind,
            "revision": self.revision,
            "version": version("tightframe"),
            "facts": facts,
            "tensors": _digest(plain),
        }
        content["fingerprint"] = _signature(content)
        # One entry: safetensors writes several in any order.
        metadata = {"tightframe": json.dumps(content, sort_keys=True, allow_nan=False)}
        with whole_file(path) as temporary:
            try:
                safetensors.torch.save_file(plain, temporary, metadata)
            except safetensors.SafetensorError as error:
                raise disk_error(error) from None

    def read(self, path: Path) -> tuple[dict[str, Any], F]:
        """Return the tensors and facts of a file; anything else than `write` wrote is refused."""
        with _open(path, self.remedy) as file:
            content, facts = self._content(path, file)
            # Copies: mapped memory is aligned otherwise, which can change last bits of products.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        check_layout(path, tensors, self.tensors, remedy=self.remedy)
        if content.tensors != _digest(tensors):
            raise UserError(f"{path}: damaged or changed since it was written; {self.remedy}")
        return tensors, facts

    def read_facts(self, path: Path) -> F:
        """Return the facts of a file without reading its tensors."""
        with _open(path, self.remedy) as file:
            return self._content(path, file)[1]

    def _content(self, path: Path, file: Any) -> tuple[_Content, F]:
        content = _content(path, file, self.remedy)
        kind = content.kind if content else "something else"
        if content is None or kind != self.kind:
            raise UserError(f"{path}: holds {kind!a}, expected {self.kind}; {self.remedy}")
        if content.revision != self.revision:
            raise UserError(
                f"{path}: revision {content.revision} of {kind} (tightframe "
                f"{content.version!a}), expected {self.revision}; {self.remedy}"
            )
        facts: F = check(self.facts, content.facts, source=path, remedy=self.remedy)
        return content, facts


def check_layout(
    path: Path, tensors: Mapping[str, Any], layout: Mapping[str, str], *, remedy: str = REMEDY
) -> None:
    """Refuse tensors of other names, types or shapes than a `TensorFormat` would have them."""
    layouts = {name: axes.removesuffix(" | None") for name, axes in layout.items()}
    for name, axes in layout.items():
        if "*" not in name and axes == layouts[name] and name not in tensors:
            raise UserError(f"{path}: has no tensor '{name}'; {remedy}")
    sizes: dict[str, Any] = {}
    for name, tensor in tensors.items():
        pattern = next((p for p in layouts if fnmatch.fnmatchcase(name, p)), None)
        if pattern is None:
            raise UserError(f"{path}: holds an unknown tensor {name!a}; {remedy}")
        dtype, *expected = layouts[pattern].split()
        found = str(tensor.dtype).removeprefix("torch.")
        if dtype == "count" and found == "int64" and not (tensor < 0).any():
            dtype = found
        if not fnmatch.fnmatchcase(found, dtype) or not _fits(tuple(tensor.shape), expected, sizes):
            known = ", ".join(f"{axis} = {size}" for axis, size in sizes.items())
            raise UserError(
                f"{path}: tensor {name!a} is {found} {list(tensor.shape)}, expected "
                f"{layouts[pattern]}{known and f' with {known}'}; {remedy}"
            )


def kind_of(path: Path) -> str:
    """Return which kind of `TensorFormat` a file says that it holds."""
    with _open(path, REMEDY, framework="numpy") as file:  # which does not import torch
        content = _content(path, file, REMEDY)
    return content.kind if content else "something else"


def check_digest(path: Path, digest: str, *, remedy: str = REMEDY) -> None:
    """Refuse a file that is not the one whose SHA-256 another file lists."""
    check_file(path, remedy)
    if sha256(path) != digest:
        raise UserError(f"{path}: damaged or changed since it was written; {remedy}")


def write_listed(path: Path, tensors: Mapping[str, Any]) -> str:
    """Write a plain file of tensors or arrays, whose SHA-256 a manifest will list.

    Returns:
        The SHA-256. The path is that of a folder in the making: `whole_folder` names its errors.
    """
    import safetensors.torch

    # Bytes through Python: a full disk is then an OSError.
    path.write_bytes(safetensors.torch.save(_plain(tensors), metadata={"format": "pt"}))
    return sha256(path)


def read_listed(path: Path, digest: str | None = None, *, remedy: str = REMEDY) -> dict[str, Any]:
    """Return the tensors of a plain file, mapped from it; a manifest lists its SHA-256."""
    if digest is not None:
        check_digest(path, digest, remedy=remedy)
    with _open(path, remedy) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@contextlib.contextmanager
def _open(path: Path, remedy: str, *, framework: str = "pt") -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    check_file(path, remedy.removeprefix("remove it, and "))
    try:
        with safe_open(path, framework=framework) as file:
            yield file
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error}); {remedy}") from None


def _content(path: Path, file: Any, remedy: str) -> _Content | None:
    """Read what a file says of itself; None if it is none of ours."""
    text = (file.metadata() or {}).get("tightframe")
    if text is None:
        return None
    content: _Content = parse_json(text, _Content, source=path, remedy=remedy)
    if content.fingerprint != _signature(dict(content)):
        raise UserError(f"{path}: damaged or changed since it was written; {remedy}")
    return content


def _plain(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return contiguous tensors on the CPU."""
    import torch

    return {name: torch.as_tensor(x).detach().cpu().contiguous() for name, x in tensors.items()}


def _digest(tensors: Mapping[str, Any]) -> str:
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _fits(shape: tuple[int, ...], axes: list[str], sizes: dict[str, Any]) -> bool:
    """Return whether a shape has these axes; sizes that were not known yet are noted."""
    if axes == ["..."]:
        return True
    if axes and axes[0].startswith("*"):
        n_leading = len(shape) - len(axes) + 1
        if n_leading < 0 or sizes.setdefault(axes[0], shape[:n_leading]) != shape[:n_leading]:
            return False
        shape, axes = shape[n_leading:], axes[1:]
    sizes |= {axis: int(axis) for axis in axes if axis.isdecimal()}
    return len(shape) == len(axes) and all(
        sizes.setdefault(axis, size) == size for axis, size in zip(axes, shape, strict=True)
    )


def _signature(content: Mapping[str, Any], besides: Sequence[str] = ()) -> str:
    left_out = ("fingerprint", *besides)
    return fingerprint({name: value for name, value in content.items() if name not in left_out})


@cache
def _adapter(schema: Any) -> Any:
    return pydantic.TypeAdapter(schema)


def _first(error: pydantic.ValidationError, what: str) -> str:
    """Describe the first of a schema's complaints: field, what was found, what was expected."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    field = _field(name, what)
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] in ("missing", "missing_argument"):
        return f"{field} is missing"
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{field} is unknown"
    if first["type"] == "value_error" and not name:
        return message
    found = ascii(first["input"])
    found = found if len(found) <= 60 else found[:57] + "..."
    return f"{field} is {found}: {message.replace('Input should be', 'expected')}"


def _field(name: str, what: str) -> str:
    return f"{what} '{name}'" if what else name or "the content"


def _odd_number(value: Any, place: tuple[str, ...] = ()) -> tuple[str, str] | None:
    """Find a number that no schema takes, not finite or beyond 64 bits; return place and kind."""
    if isinstance(value, float) and not math.isfinite(value):
        return ".".join(place), f"{value}: expected a finite number"
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return ".".join(place), "an integer of more than 64 bits: expected a smaller one"
    if isinstance(value, dict | list | tuple):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        odd = (_odd_number(part, (*place, str(name))) for name, part in parts)
        return next((found for found in odd if found), None)
    return None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {twice!a} occurs twice")
    return content


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
