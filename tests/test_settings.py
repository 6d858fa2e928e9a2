import pydantic
import pytest

from tightframe import settings
from tightframe.errors import UserError


@pydantic.dataclasses.dataclass(frozen=True)
class Example:
    width: int
    name: str = "x"
    rates: tuple[float, ...] = ()


def test_values_are_toml_and_bare_words_are_strings():
    assert settings.overrides(["width=3", "name=abc", "rates=[1, 2.5]"]) == {
        "width": 3,
        "name": "abc",
        "rates": [1, 2.5],
    }


def test_a_misspelt_setting_names_the_nearest_one():
    with pytest.raises(
        UserError, match=r"^tiny.toml: unknown setting 'widht'; did you mean 'width'"
    ):
        settings.resolve(Example, {"widht": 3}, source="tiny.toml")


def test_a_wrong_type_is_one_line_with_the_value():
    with pytest.raises(UserError, match=r"^x: setting 'width' is 'wide': .*integer"):
        settings.resolve(Example, {"width": "wide"}, source="x")


def test_a_missing_setting_is_named():
    with pytest.raises(UserError, match="'width' is missing"):
        settings.resolve(Example, {}, source="x")


def test_toml_gives_back_what_was_written(tmp_path):
    example = Example(width=3, rates=(0.5, 1.0))
    settings.write_toml(tmp_path / "a.toml", settings.as_dict(example))
    again = settings.resolve(Example, settings.read_toml(tmp_path / "a.toml"), source="a")
    assert again == example
