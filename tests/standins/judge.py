"""Stands in for a judge of conversations: an OpenAI-compatible endpoint on this machine. Its grades are no opinions.

In a test it replies what the test wants. By hand it grades by a hash of the conversation, and prints its address:

    python tests/standins/judge.py
"""

import hashlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

Messages = list[dict[str, str]]
Answer = str | tuple[int, dict[str, str], str]
"""The judge's reply; or a status, headers and the body as it is."""


def grade_by_hash(messages: Messages) -> str:
    """A grade from 1 to 10 that depends on what is graded and on nothing else."""
    text = json.dumps(messages, sort_keys=True)
    return f"A stand-in has no opinion.\nGRADE: {hashlib.sha256(text.encode()).digest()[0] % 10 + 1}"


class JudgeServer:
    """The endpoint at `url`, while the ``with`` block lasts. `requests` holds what came: path, headers, body.

    Args:
        answer: gives the answer to a request's messages; called by one request at a time.
        port: 0 takes a free one.
    """

    def __init__(self, answer: Callable[[Messages], Answer] = grade_by_hash, port: int = 0) -> None:
        self.requests: list[dict[str, Any]] = []
        lock, requests = threading.Lock(), self.requests

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    requests.append({"path": self.path, "headers": dict(self.headers), "body": body})
                    answered = answer(body["messages"])
                if isinstance(answered, str):
                    message = {"role": "assistant", "content": answered}
                    answered = (200, {}, json.dumps({"choices": [{"index": 0, "message": message}]}))
                status, headers, text = answered
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(text.encode()))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


if __name__ == "__main__":
    with JudgeServer() as judge:
        print(judge.url, flush=True)
        threading.Event().wait()
