"""A server that speaks OpenAI's protocol and knows nothing: its answers depend on what is asked and on the seed."""

import json
import threading
import zlib
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class SaysJson(BaseHTTPRequestHandler):
    def say(self, said, status=200):
        body = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Handler(SaysJson):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        number = zlib.crc32(json.dumps([asked.get("messages") or asked["prompt"], asked["seed"]]).encode())
        text = f"<think>{number % 7} or {number % 5}? </think>It is \\boxed{{{number % 3}}}."
        of_a_chat = {"message": {"role": "assistant", "content": text}}
        choice = {"index": 0, "finish_reason": "stop", "text": f"{number % 3}}}"} | (
            of_a_chat if "messages" in asked else {}
        )
        said = {"id": "x", "object": "x", "created": 0, "model": asked["model"], "choices": [choice]}
        said["usage"] = {"prompt_tokens": 9, "completion_tokens": 9 + number % 9, "total_tokens": 30}
        self.say(said)


@contextmanager
def served(handler=Handler):
    """The server's address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
