#!/usr/bin/python3
"""A small HTTP API. Ends what it is answering before it ends itself.

GET /api/health          200, or 503 when the package was built with a file BROKEN
GET /stream?seconds=N    a line every tenth of a second, for N seconds
GET anything else        who answers: version, commit, pid
"""

import json
import os
import signal
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

SHARE = Path(__file__).resolve().parent.parent / "share"
VERSION = (SHARE / "VERSION").read_text().strip()
BROKEN = (SHARE / "BROKEN").exists()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        url = urlsplit(self.path)
        if url.path == "/api/health":
            self.answer(503 if BROKEN else 200, {"status": "broken" if BROKEN else "ok"})
        elif url.path == "/stream":
            self.stream(min(float(parse_qs(url.query).get("seconds", ["5"])[0]), 600))
        else:
            self.answer(200, {
                "service": "api",
                "version": VERSION,
                "commit": os.environ.get("COMMIT_HASH", ""),
                "pid": os.getpid(),
                "path": url.path,
            })

    def answer(self, status, content):
        body = json.dumps(content).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.close_when_stopping()
        self.end_headers()
        self.wfile.write(body)

    def stream(self, seconds):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.close_when_stopping()
        self.end_headers()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            line = f"{os.getpid()} {end - time.monotonic():.1f} s left\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            time.sleep(0.1)
        self.wfile.write(b"0\r\n\r\n")

    def close_when_stopping(self):
        if self.server.stopping:
            self.send_header("Connection", "close")

    def log_message(self, format, *args):
        if self.path != "/api/health":
            print(f"{self.command} {self.path} {args[1] if len(args) > 1 else ''}", flush=True)


class Server(ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for the answers that are being given
    request_queue_size = 1024

    def __init__(self, address):
        super().__init__(address, Handler)
        self.stopping = False
        self.connections = set()

    def process_request(self, request, client_address):
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        self.connections.discard(request)
        super().shutdown_request(request)

    def stop(self):
        self.stopping = True
        self.shutdown()
        for connection in list(self.connections):
            try:
                connection.shutdown(socket.SHUT_RD)  # one that waits for another request ends; an answer goes on
            except OSError:
                pass


def main():
    server = Server((os.environ.get("HOST", "127.0.0.1"), int(os.environ["PORT"])))
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.stop).start())
    print(f"hello-api {VERSION} listens on {server.server_address[0]}:{server.server_port}", flush=True)
    server.serve_forever(poll_interval=0.1)
    server.server_close()
    print("stopped", flush=True)


main()
