import json
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from tokenizers import processors

from tightframe.corpus import hub
from tightframe.corpus import tokenizer as tokenizers
from tightframe.corpus.special_tokens import beginning_of_sequence, end_of_text
from tightframe.errors import UserError

WORDS = ["the", "dog", "<bos>", "<done>"]


@pytest.fixture
def folder(tmp_path):
    tokenizers.save(_made(), tmp_path / "tokenizer.json")
    return tmp_path


def _made(template=None):
    """Words, and two tokens that no usual name gives away."""
    made = tokenizers.word_level(WORDS)
    made.add_special_tokens(["<bos>", "<done>"])
    if template:
        made.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("<bos>", 2), ("<done>", 3)]
        )
    return made


def _write(folder, **files):
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": {"eos_token": "<done>"}},
        {"tokenizer_config": {"eos_token": {"content": "<done>", "__type": "AddedToken"}}},
        {"tokenizer_config": {"eos_token": None}, "special_tokens_map": {"eos_token": "<done>"}},
        {"config": {"eos_token_id": 3}},
        {"config": {"eos_token_id": [3, 0]}},
        # A token that the tokenizer doesn't know is none.
        {"tokenizer_config": {"eos_token": "<eot>"}, "config": {"eos_token_id": 3}},
    ],
)
def test_the_end_of_text_is_what_the_models_files_say(folder, files):
    _write(folder, **files)
    for source in (folder, str(folder), folder / "tokenizer.json"):
        assert end_of_text(source, _made()) == 3


def test_usual_names_need_no_files():
    made = tokenizers.word_level(["a", "</s>"])
    assert end_of_text("nowhere/at-all", made) == 1


@pytest.mark.parametrize(
    "files", [{}, {"config": {"eos_token_id": 99}}, {"config": {"eos_token_id": True}, "x": []}]
)
def test_without_a_known_end_of_text_there_is_none(folder, files):
    _write(folder, **files)
    assert end_of_text(folder, _made()) is None


@pytest.mark.parametrize(
    ("template", "expected"),
    [(None, None), ("<bos> $A", 2), ("<bos> $A <done>", 2), ("$A <done>", None)],
)
def test_what_the_tokenizer_puts_before_a_text_begins_a_sequence(folder, template, expected):
    assert beginning_of_sequence(folder, _made(template)) == expected


@pytest.mark.parametrize("template", [None, "<bos> $A"])
def test_the_configuration_decides_where_it_says(folder, template):
    _write(folder, tokenizer_config={"add_bos_token": True, "bos_token": "<bos>"})
    assert beginning_of_sequence(folder, _made(template)) == 2
    _write(folder, tokenizer_config={"add_bos_token": False, "bos_token": "<bos>"})
    assert beginning_of_sequence(folder, _made(template)) is None
    # To add a token that nobody named is to add none.
    _write(folder, tokenizer_config={"add_bos_token": True})
    assert beginning_of_sequence(folder, _made(template)) is None


def test_several_tokens_before_a_text_are_refused(folder):
    with pytest.raises(UserError) as caught:
        beginning_of_sequence(folder, _made("<bos> <done> $A"))
    assert str(caught.value) == (
        f"{folder}: its tokenizer begins a text with several tokens (<bos> <done>), expected one; "
        "use bos='never'"
    )


def test_a_damaged_file_beside_the_tokenizer_is_named(folder):
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer_config\.json: not JSON"):
        beginning_of_sequence(folder, _made())


class _Hub:
    """Stands in for the hub: files of one model."""

    def __init__(self, folder, error=EntryNotFoundError):
        self.folder, self.error, self.asked = folder, error, []

    def download(self, name, file, *, local_files_only):
        self.asked.append((name, file))
        if not (self.folder / file).exists():
            raise self.error("404: no such file\nin a long tale")
        return str(self.folder / file)


def test_files_of_a_model_on_the_hub_are_asked_for_one_by_one(tmp_path, monkeypatch):
    model = _Hub(tmp_path)
    monkeypatch.setattr(hub, "unreachable", lambda: False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", model.download)
    _write(tmp_path, config={"eos_token_id": 3})
    assert end_of_text("someone/model", _made()) == 3
    files = ["tokenizer_config.json", "special_tokens_map.json", "config.json"]
    assert model.asked == [("someone/model", file) for file in files]
    assert beginning_of_sequence("someone/model", _made("<bos> $A")) == 2


@pytest.mark.parametrize("error", [LocalEntryNotFoundError, ConnectionError])
@pytest.mark.parametrize("silent", [True, False])
def test_a_hub_that_was_not_reached_is_not_taken_for_a_no(tmp_path, monkeypatch, error, silent):
    monkeypatch.setattr(hub, "unreachable", lambda: silent)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", _Hub(tmp_path, error).download)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError) as caught:
        end_of_text("someone/model", _made())
    why = "does not answer" if silent else f"did not give it ({error.__name__}: 404: no such file)"
    assert str(caught.value) == (f"someone/model/tokenizer_config.json: the Hugging Face hub {why}")


def test_what_was_fetched_before_needs_no_hub(tmp_path, monkeypatch):
    # A cache as the hub's client leaves it: one file that it was given, and two that are not there.
    cached = tmp_path / "models--someone--model"
    revision = "a" * 40
    for folder in ("refs", f"snapshots/{revision}", f".no_exist/{revision}"):
        (cached / folder).mkdir(parents=True)
    (cached / "refs" / "main").write_text(revision)
    _write(cached / "snapshots" / revision, config={"eos_token_id": 3})
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        (cached / ".no_exist" / revision / file).touch()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "unreachable", lambda: True)
    assert end_of_text("someone/model", _made()) == 3
    assert beginning_of_sequence("someone/model", _made("<bos> $A")) == 2


@pytest.mark.parametrize("silent", [True, False])
def test_a_data_set_whose_revision_is_not_told_is_one_line(monkeypatch, silent):
    def gone(self, name):
        raise ConnectionError("no route to host\nand a long tale")

    monkeypatch.setattr(hub, "unreachable", lambda: silent)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", gone)
    why = "does not answer" if silent else "did not give it (ConnectionError: no route to host)"
    with pytest.raises(UserError) as caught:
        hub.data_set_revision("someone/set")
    assert str(caught.value) == f"hf:someone/set: the Hugging Face hub {why}"


def test_the_revision_of_a_data_set_is_its_commit(monkeypatch):
    told = {"someone/set": SimpleNamespace(sha="abc")}
    monkeypatch.setattr(hub, "unreachable", lambda: False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda self, name: told[name])
    assert hub.data_set_revision("someone/set") == "abc"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.data_set_revision("someone/set") is None
