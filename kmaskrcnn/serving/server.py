"""`kmaskrcnn serve`: a SavedModel behind TensorFlow Serving's REST protocol, on Starlette and Uvicorn.

GET  /v1/models/NAME[/versions/N]             the model's state
GET  /v1/models/NAME[/versions/N]/metadata    its signatures
POST /v1/models/NAME[/versions/N]:predict     see protocol.py
GET  /healthz, /readyz, /metrics              for who watches over it
"""

import asyncio
import contextlib
import logging
import signal
import time

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route

from kmaskrcnn.serving import protocol
from kmaskrcnn.serving.limits import Limits, Places, read_body
from kmaskrcnn.serving.metrics import Metrics
from kmaskrcnn.serving.protocol import RequestError
from kmaskrcnn.serving.served_model import ServedModel
from kmaskrcnn.serving.service import Service

logger = logging.getLogger(__name__)

CLIENT_CLOSED_REQUEST = 499
GRACE = 5.0  # seconds, beyond a request's own time, until a stop is no longer graceful


class Server:
    """The routes of one model.

    Args:
        model: a `ServedModel`.
        limits: `Limits`.

    Attributes:
        metrics: `Metrics`.
        accepted, answered: predict requests that got a place, and those of them that got an answer.
    """

    def __init__(self, model, limits):
        self.model, self.limits, self.metrics = model, limits, Metrics()
        self.places = Places(limits.concurrency)
        self.service = Service(model, limits, self.metrics)
        self.worker = None
        self.accepted = self.answered = 0

    def app(self):
        """The ASGI application."""
        routes = [
            Route("/healthz", self.health),
            Route("/readyz", self.health),
            Route("/metrics", self.count),
        ]
        for base in ("/v1/models/{name}", "/v1/models/{name}/versions/{version:int}"):
            routes += [
                Route(f"{base}/metadata", self.describe),
                Route(f"{base}:predict", self.predict, methods=["POST"]),
                Route(base, self.status),
            ]
        handlers = {HTTPException: _no_route, RequestError: _refuse, Exception: _fail}
        return Starlette(routes=routes, lifespan=self._work, exception_handlers=handlers)

    @contextlib.asynccontextmanager
    async def _work(self, app):
        self.worker = asyncio.create_task(self.service.work())
        yield
        self.worker.cancel()
        logger.info("stopped: %d requests accepted, %d answered", self.accepted, self.answered)

    async def health(self, request):
        """Whether predictions can be made: the model is loaded before the port is opened."""
        if self.worker.done():
            raise RequestError(503, "The worker has stopped")
        return Response("ok\n", media_type="text/plain")

    async def count(self, request):
        """Numbers for Prometheus."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def status(self, request):
        """The model's state."""
        self._check_name(request)
        return _json(protocol.status_answer(self.model.version))

    async def describe(self, request):
        """The model's signatures."""
        self._check_name(request)
        definitions = self.model.signature_definitions()
        return _json(protocol.metadata_answer(self.model.name, self.model.version, definitions))

    async def predict(self, request):
        """Objects in pictures."""
        start = time.perf_counter()
        try:
            self._check_name(request)
            with self.places.one(), self.metrics.in_progress.track_inprogress():
                self.accepted += 1
                response = await self._answer(request, start)
                self.answered += 1
        except RequestError as error:
            response = _refuse(request, error)
        self.metrics.requests.labels(response.status_code).inc()
        self.metrics.seconds.observe(time.perf_counter() - start)
        return response

    async def _answer(self, request, start):
        """The answer to a request that has a place; an error is an answer, too."""
        try:
            body = await read_body(request, self.limits.max_body_bytes, self.limits.timeout)
            left = self.limits.timeout - (time.perf_counter() - start)
            return _json(await asyncio.wait_for(self._outputs(body), left))
        except RequestError as error:
            return _refuse(request, error)
        except asyncio.TimeoutError:
            message = f"No answer within {self.limits.timeout} seconds"
            return _json(protocol.error_answer(message), 504)
        except ClientDisconnect:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        except Exception as error:  # of the network; the server goes on
            return _fail(request, error)

    async def _outputs(self, body):
        # Large json takes long: others are served meanwhile.
        call = await asyncio.to_thread(protocol.parse_predict, body, self.model.inputs)
        outputs = await self.service.predict(call)
        return await asyncio.to_thread(protocol.predict_answer, outputs, call.is_row)

    def _check_name(self, request):
        name, version = request.path_params["name"], request.path_params.get("version")
        if ":" in name:  # a verb that there is not, or not with this method
            raise HTTPException(404)
        if name != self.model.name or version not in (None, self.model.version):
            wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise RequestError(404, f"Servable not found for request: {wanted}")


def serve(path, host="127.0.0.1", port=8501, name=None, limits=Limits()):
    """Serve a model until SIGTERM or Ctrl-C; requests that were accepted by then are answered.

    Args:
        path: of a SavedModel, see `served_model.find_version`.
        host: address to listen on; the default is reached from this machine alone.
        port: 0 takes a free one.
        name: of the model in the paths; by default its folder's.
        limits: `Limits`.

    Raises:
        ValueError: the folder holds no SavedModel of this package.
    """
    server = Server(ServedModel(path, name), limits)
    # Uvicorn answers what it has accepted and then raises the signal once more: here it has been obeyed.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    runner = uvicorn.Server(
        uvicorn.Config(
            server.app(),
            host=host,
            port=port,
            access_log=False,
            log_config=None,
            server_header=False,
            timeout_graceful_shutdown=int(limits.timeout + GRACE),
        )
    )
    logger.info("%s version %d from %s", server.model.name, server.model.version, path)
    runner.run()


def _json(body, status=200, headers=None):
    return Response(body, status, headers, media_type="application/json")


def _refuse(request, error):
    headers = {"Retry-After": "1"} if error.status == 503 else None
    return _json(protocol.error_answer(str(error)), error.status, headers)


def _no_route(request, error):
    """As TensorFlow Serving answers a path that it does not know."""
    status = 400 if request.url.path.startswith("/v1") else error.status_code
    message = f"Malformed request: {request.method} {request.url.path}"
    return _json(protocol.error_answer(message), status)


def _fail(request, error):
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _json(protocol.error_answer(f"Internal error: {type(error).__name__}"), 500)
