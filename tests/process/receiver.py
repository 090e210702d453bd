"""A receiver of webhooks on loopback: ``receiver.py PORT LOG SECRET``. It notes each event before it answers."""

from __future__ import annotations

import base64
import hmac
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

port, log, secret_file = int(sys.argv[1]), sys.argv[2], sys.argv[3]
notes = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        event_id, timestamp = self.headers["webhook-id"], self.headers["webhook-timestamp"]
        with open(secret_file) as file:
            key = base64.b64decode(file.read().strip().removeprefix("whsec_"))
        signed = f"{event_id}.{timestamp}.".encode() + body
        expected = "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
        if expected != self.headers["webhook-signature"]:
            self.send_error(401)
            return
        job = json.loads(body)["data"]
        series = job["series_id"] or job["job_id"]
        os.write(notes, f"{event_id} {job['job_id']} {series} {job['attempt']} {job['status']}\n".encode())
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    allow_reuse_address = True
    request_queue_size = 128


Server(("127.0.0.1", port), Receiver).serve_forever()
