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


@pytest.mark.parametrize(
    ("value", "found"),
    [("true", "True"), ("300.4", "300.4"), ("3.0", "3.0"), ('"3"', "'3'")],
)
def test_a_value_of_another_type_is_not_converted(value, found):
    with pytest.raises(UserError, match=f"setting 'width' is {found}: expected a valid integer"):
        settings.resolve(Example, settings.overrides([f"width={value}"]), source="x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"width = {2**63}", "'width' is an integer of more than 64 bits"),
        ("width = " + "1" * 5000, "a number of thousands of digits"),
        ("width = " + "[" * 5000, "nested too deep"),
        ("width = 3\nrates = [nan]", "'rates.0' is nan: expected a finite number"),
    ],
)
def test_numbers_and_depths_that_no_setting_has_are_one_line(tmp_path, text, message):
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(UserError, match=message):
        settings.resolve(Example, settings.read_toml(tmp_path / "a.toml"), source="x")


def test_a_byte_order_mark_is_passed_over(tmp_path):
    (tmp_path / "a.toml").write_text("width = 3", encoding="utf-8-sig")
    assert settings.read_toml(tmp_path / "a.toml") == {"width": 3}


def test_a_written_file_that_was_changed_is_refused(tmp_path):
    settings.write_toml(tmp_path / "a.toml", {"width": 3, "name": "x"})
    text = (tmp_path / "a.toml").read_text()
    (tmp_path / "a.toml").write_text(text.replace("3", "4"))
    with pytest.raises(UserError, match="altered since it was written"):
        settings.read_toml(tmp_path / "a.toml")
