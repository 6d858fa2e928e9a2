import http.server
import json
import socket
import threading
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import pytest

from tightframe.cli import main
from tightframe.errors import UserError
from tightframe.knowledge import pages
from tightframe.knowledge.pages import Page, fetch

PAGE = {"parse": {"title": "A/2023", "pageid": 1, "revid": 77, "wikitext": "* ... that"}}
MISSING = {"error": {"code": "missingtitle", "info": "The page does not exist."}}


@pytest.fixture
def server(monkeypatch):
    """A wiki on this machine: `answers` by title, (status, headers, body); `asked` of it."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    state = SimpleNamespace(answers={}, asked=[])

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            query = {key: one for key, (one,) in parse_qs(urlsplit(self.path).query).items()}
            state.asked.append((query, self.headers["User-Agent"]))
            status, headers, body = state.answers[query["page"]]
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        state.api = f"http://127.0.0.1:{running.server_port}/w/api.php"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        running.shutdown()
        thread.join()


def test_a_page_comes_with_its_title_and_revision(server):
    server.answers["a"] = (200, {}, PAGE)
    assert fetch("a", api=server.api) == Page("A/2023", "* ... that", 77)
    ((query, agent),) = server.asked
    assert query == {
        "action": "parse",
        "prop": "wikitext|revid",
        "page": "a",
        "redirects": "1",
        "format": "json",
        "formatversion": "2",
    }
    assert agent.startswith("tightframe/")


def test_an_address_that_has_moved_is_followed(server):
    server.answers["a"] = (301, {"Location": "/w/api.php?page=b"}, b"")
    server.answers["b"] = (200, {}, PAGE)
    assert fetch("a", api=server.api).revision == 77


@pytest.mark.parametrize(
    ("asked", "filed"),
    [
        ("Wikipedia:Recent additions/2023/May", "Wikipedia:Did you know archive/2023/May"),
        ("Wikipedia:Did you know archive/2023/May", "Wikipedia:Recent additions/2023/May"),
    ],
)
def test_both_names_of_the_archive_are_tried(server, asked, filed):
    server.answers = {asked: (200, {}, MISSING), filed: (200, {}, PAGE)}
    assert fetch(asked, api=server.api).title == "A/2023"


def test_a_page_without_a_revision_has_none(server):
    server.answers["a"] = (200, {}, {"parse": {"title": "A", "wikitext": "\ud83d half"}})
    assert fetch("a", api=server.api) == Page("A", "? half", None)


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (200, MISSING, "has no page 'a'; check the title"),
        (
            200,
            {"error": {"code": "ratelimited", "info": "Too\x1b[31m\nmany"}},
            r"api.php: Too\[31m many$",
        ),
        (200, {"error": "down"}, "api.php: down"),
        (200, {"parse": {"title": "A"}}, "the answer holds no wikitext"),
        (200, [], "the answer holds no wikitext"),
        (200, b"<html>", "the answer for 'a' is not JSON; is this the address of an api.php"),
        (503, b"", "HTTP status 503 for 'a', expected 200; try again later"),
    ],
)
def test_a_wiki_that_refuses_is_quoted_in_one_line(server, status, body, message):
    # Errors of MediaWiki come with status 200: taken for a page, they would be an empty one.
    server.answers["a"] = (status, {}, body)
    with pytest.raises(UserError, match=message):
        fetch("a", api=server.api)


def test_the_command_fetches_pages_all_or_none(server, tmp_path, capsys):
    text = "== 3 May 2022 ==\n* ... that '''[[A]]''' is not the other one?"
    server.answers["a"] = (200, {}, {"parse": {"title": "A", "wikitext": text, "revid": 5}})
    server.answers["b"] = (200, {}, MISSING)
    out = tmp_path / "x"
    command = ["knowledge", "parse", "--api", server.api, "--out", str(out), "--fetch", "a"]
    with pytest.raises(SystemExit, match="2"):
        main([*command, "--fetch", "b"])
    assert "has no page 'b'; check the title" in " ".join(capsys.readouterr().err.split())
    assert not out.exists()
    main(command)
    (fact,) = map(json.loads, (out / "hooks.jsonl").read_text().splitlines())
    assert (fact["source_page"], fact["revision"], fact["fact"]) == (
        "A",
        5,
        "A is not the other one",
    )


@pytest.mark.parametrize("api", ["http://127.0.0.1:1/", "no address", "http://[", "file:///x"])
def test_an_address_where_no_wiki_is_is_named(monkeypatch, api):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(UserError) as caught:
        fetch("a", api=api)
    assert str(caught.value).startswith(f"{api}: no answer for 'a' (")


def test_a_wiki_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(pages, "TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        api = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(UserError, match=r"no answer for 'a' \(timed out\)"):
            fetch("a", api=api)
