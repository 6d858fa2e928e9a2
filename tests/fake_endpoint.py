"""A language model behind an OpenAI-compatible endpoint, on loopback; tests tell what it says."""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Endpoint:
    """Answers with what `say(number, body)` returns: (status, text, headers); counts from 1.

    In place of a text: bytes, or an iterator of bytes that are sent until the client hangs up.
    """

    def __init__(self, say, delay=lambda number: 0.0):
        self.say, self.delay = say, delay
        self.bodies, self.headers, self.answered = [], [], []
        self.at_work = self.most_at_work = 0
        self.lock = threading.Lock()

    @contextlib.contextmanager
    def running(self, monkeypatch, key="sk-test-0123456789"):
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *args):
                pass

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with endpoint.lock:
                    endpoint.bodies.append(body)
                    endpoint.headers.append((self.path, dict(self.headers)))
                    number = len(endpoint.bodies)
                    endpoint.at_work += 1
                    endpoint.most_at_work = max(endpoint.most_at_work, endpoint.at_work)
                time.sleep(endpoint.delay(number))
                status, text, headers = endpoint.say(number, body)
                with endpoint.lock:
                    endpoint.at_work -= 1
                    endpoint.answered.append(number)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if isinstance(text, str | bytes):
                    text = [text.encode() if isinstance(text, str) else text]
                    self.send_header("Content-Length", str(len(text[0])))
                else:
                    self.send_header("Connection", "close")
                self.end_headers()
                for part in text:
                    self.wfile.write(part)

        class Server(ThreadingHTTPServer):
            def handle_error(self, request, address):
                pass  # a client that stops at a refusal hangs up on requests under way

        server = Server(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        url = f"http://127.0.0.1:{server.server_port}/v1/"
        monkeypatch.setenv("TIGHTFRAME_LLM_BASE_URL", url)
        monkeypatch.setenv("TIGHTFRAME_LLM_MODEL", "fake-1")
        monkeypatch.setenv("TIGHTFRAME_LLM_KEY", key)
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def completion(content, finish="stop", **message):
    """The body of a reply that says `content`."""
    said = {"role": "assistant", "content": content} | message
    return json.dumps({"choices": [{"message": said, "finish_reason": finish}]})


def request(body):
    """What the user asked for, also where the model has been told since that it went wrong."""
    said = [turn["content"] for turn in body["messages"] if turn["role"] == "user"]
    return said[-2] if "Reply with the one JSON object" in said[-1] else said[-1]
