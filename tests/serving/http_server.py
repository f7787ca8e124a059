"""A server in a thread of the test, and the requests that a client makes of it."""

import base64
import contextlib
import http.client
import json
import threading
import time

import uvicorn


@contextlib.contextmanager
def running(app):
    """The port on which an ASGI application is served while the block runs."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the server did not start")
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


def ask(port, path, body=None, headers=None):
    """`(status, document)` of one request; a POST if there is a body: bytes, a document, or chunks of bytes."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        if isinstance(body, (dict, list)):
            body = json.dumps(body).encode()
        connection.request("GET" if body is None else "POST", path, body, headers or {})
        answer = connection.getresponse()
        text = answer.read()
        is_json = answer.getheader("content-type", "").startswith("application/json")
        return answer.status, json.loads(text) if is_json else text.decode()
    finally:
        connection.close()


def b64(data):
    """Bytes as the protocol's json."""
    return {"b64": base64.b64encode(data).decode()}
