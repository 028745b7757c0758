"""A program that writes into the board in a person's name, once the person said so: OAuth 2 from the other side.

    python -m examples.board_program "Hello from a program"

It never sees a password. It knows where the board is (BASE_URL) and how it is registered there, and nothing else.
"""

import base64
import hashlib
import json
import os
import secrets
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit
from urllib.request import Request, urlopen

BOARD = os.environ.get("BASE_URL", "http://127.0.0.1:8080")
CLIENT = "program"
ADDRESS = ("127.0.0.1", 8765)
REDIRECT = "http://127.0.0.1:8765/"


def main(text: str) -> None:
    """Ask, write, and give back what was given."""
    # Who reads the answer on its way cannot use it: the code is worth nothing without the verifier (RFC 7636).
    verifier, state = secrets.token_urlsafe(32), secrets.token_urlsafe(16)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    question = {
        "response_type": "code", "client_id": CLIENT, "redirect_uri": REDIRECT, "state": state, "scope": "entries",
        "code_challenge": challenge, "code_challenge_method": "S256",
    }  # fmt: skip
    with HTTPServer(ADDRESS, Answer) as server:
        print(f"Open in your browser: {BOARD}/oauth/authorize?{urlencode(question)}", flush=True)
        server.handle_request()
    if Answer.said.get("state") != state or "code" not in Answer.said:
        raise SystemExit(f"Not allowed: {Answer.said.get('error', 'that was no answer to this question')}")
    code = {"grant_type": "authorization_code", "code": Answer.said["code"], "redirect_uri": REDIRECT}
    tokens = post("/oauth/token", urlencode({**code, "client_id": CLIENT, "code_verifier": verifier}))
    try:
        entry = post("/api/v1/entries", json.dumps({"text": text}), tokens["access_token"])
        print(f"Written: {entry['id']}")
    finally:
        post("/oauth/revoke", urlencode({"token": tokens["refresh_token"], "client_id": CLIENT}))


class Answer(BaseHTTPRequestHandler):
    """Where the board sends the person's browser with the answer."""

    said: dict[str, str]

    def do_GET(self) -> None:
        """Take it down."""
        Answer.said = dict(parse_qsl(urlsplit(self.path).query))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"Back to the program.")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class calls it so
        """Nothing: the line would hold the code."""


def post(path: str, body: str, token: str = "") -> Any:
    """Post a form, or JSON with a token; the answer. What is refused raises."""
    headers = {"authorization": f"Bearer {token}", "content-type": "application/json"} if token else {}
    with urlopen(Request(BOARD + path, body.encode(), headers), timeout=30) as answer:
        return json.loads(answer.read() or b"null")


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "Hello from a program")
