"""What a server counts, for Prometheus."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)
PICTURES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """The numbers of one server, in a registry of its own.

    Attributes:
        requests: predict requests by the `status` of their answer.
        seconds: from a predict request's first byte to its answer.
        in_progress: predict requests without an answer yet.
        pictures: encoded pictures by their `result`, `"found"` or `"refused"`.
        batches: pictures in one call of the network.
    """

    def __init__(self):
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "kmaskrcnn_requests", "Answers to predict requests", ["status"], registry=registry
        )
        self.seconds = Histogram(
            "kmaskrcnn_request_seconds",
            "From a predict request to its answer",
            buckets=SECONDS,
            registry=registry,
        )
        self.in_progress = Gauge(
            "kmaskrcnn_requests_in_progress", "Predict requests without answer", registry=registry
        )
        self.pictures = Counter(
            "kmaskrcnn_pictures", "Encoded pictures", ["result"], registry=registry
        )
        self.batches = Histogram(
            "kmaskrcnn_batch_pictures",
            "Pictures in one call of the network",
            buckets=PICTURES,
            registry=registry,
        )

    def text(self):
        """bytes in Prometheus's text format."""
        return generate_latest(self.registry)
