"""A hub on this machine: models with files by commit, and whatever may go wrong with them."""

import contextlib
import hashlib
import http.server
import json
import re
import threading

import huggingface_hub


class FakeHub(http.server.ThreadingHTTPServer):
    """A hub with one model.

    Attributes:
        files: Content of each file by commit and name.
        refs: Commit of each branch.
        asked: Every path that was requested, in order; "HEAD PATH" where no body was.
        refused: (status, headers) by part of a path, which are answered instead.
        once: The same, each for one request.
        cut: Parts of paths of files of which half is sent, whatever is tried.
    """

    daemon_threads = True

    def __init__(self, name, files, refs, *, delay=0.0):
        super().__init__(("127.0.0.1", 0), Handler)
        self.name, self.files, self.refs, self.delay = name, files, refs, delay
        self.asked, self.refused, self.once, self.cut = [], {}, {}, set()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, revision):
        return self.refs.get(revision, revision)


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        hub, path = self.server, self.path.partition("?")[0]
        hub.asked.append(path if body else f"HEAD {path}")
        if hub.delay and body and "/resolve/" in path:
            threading.Event().wait(hub.delay)
        for part in [part for part in hub.once if part in path]:
            return self.give(*hub.once.pop(part), b"{}", body)
        for part, answer in hub.refused.items():
            if part in path:
                return self.give(*answer, b"{}", body)
        if path == f"/api/models/{hub.name}/refs":
            branches = [
                {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit}
                for name, commit in hub.refs.items()
            ]
            content = {"branches": branches, "converts": [], "tags": []}
            return self.give(200, {}, json.dumps(content).encode(), body)
        found = re.fullmatch(f"/api/models/{hub.name}/(revision|tree)/([^/?]+)", path)
        if found:
            commit = hub.commit(found[2])
            if commit not in hub.files:
                return self.give(404, {"X-Error-Code": "RevisionNotFound"}, b"{}", body)
            content = self.listed(commit) if found[1] == "tree" else self.described(commit)
            return self.give(200, {}, json.dumps(content).encode(), body)
        found = re.fullmatch(f"/{hub.name}/resolve/(\\w+)/(.+)", path)
        content = hub.files.get(found[1], {}).get(found[2]) if found else None
        if content is None:
            return self.give(404, {"X-Error-Code": "EntryNotFound"}, b"", body)
        headers = {"ETag": f'"{digest(content)}"', "X-Repo-Commit": found[1]}
        return self.give(200, headers, content, body)

    def described(self, commit):
        siblings = [{"rfilename": name} for name in self.server.files[commit]]
        return {"id": self.server.name, "sha": commit, "siblings": siblings, "tags": []}

    def listed(self, commit):
        return [
            {"type": "file", "path": name, "size": len(content), "oid": digest(content)[:40]}
            | ({"lfs": lfs(content)} if name.endswith((".safetensors", ".bin")) else {})
            for name, content in self.server.files[commit].items()
        ]

    def give(self, status, headers, content, body):
        cut = status == 200 and any(part in self.path for part in self.server.cut)
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut and body:
            self.close_connection = True


def digest(content):
    return hashlib.sha256(content).hexdigest()


def lfs(content):
    return {"oid": digest(content), "size": len(content), "pointerSize": 134}


@contextlib.contextmanager
def serving(hub):
    """Serve a hub from a thread of this process."""
    with hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()


def use(hub, monkeypatch, cache):
    """Make the hub's client in this process ask this hub alone."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
