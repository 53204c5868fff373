#!/usr/bin/python3
"""A second service: counts in the background, and knows where its sibling is."""

import itertools
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

started = time.time()
beats = 0
visits = itertools.count(1)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        content = {"status": "ok"} if self.path == "/healthz" else {
            "service": "worker",
            "visits": next(visits),
            "beats": beats,
            "up_seconds": round(time.time() - started, 1),
            "api": os.environ.get("KENNEL_URL_API", ""),
            "commit": os.environ.get("COMMIT_HASH", ""),
        }
        body = json.dumps(content).encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


def work():
    global beats
    while True:
        time.sleep(1)
        beats += 1


threading.Thread(target=work, daemon=True).start()
print("hello-worker is up", flush=True)
ThreadingHTTPServer((os.environ.get("HOST", "127.0.0.1"), int(os.environ["PORT"])), Handler).serve_forever()
