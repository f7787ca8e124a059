"""From a predict request to its outputs: items are checked, joined with others', and given back to who sent them.

    predict_jpeg      each picture by itself -> Batcher -> one call for the pictures of several requests
    serving_default   a call for every `max_batch` pictures of a request, one after another
    other signatures  one call a request

One thread runs the network: a call keeps all cores busy by itself.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from kmaskrcnn.serving.batching import Batcher
from kmaskrcnn.serving.limits import check_pixels, stored_size
from kmaskrcnn.serving.protocol import DEFAULT_SIGNATURE, RequestError

JOINED = "predict_jpeg"
PASTED = ("predict_single", "predict_single_jpeg")
WARM_UP = np.zeros((1, 64, 64, 3), np.uint8)


class Service:
    """Predictions of one model.

    Args:
        model: a `ServedModel`.
        limits: `Limits`.
        metrics: `Metrics`.
    """

    def __init__(self, model, limits, metrics):
        self.model, self.limits, self.metrics = model, limits, metrics
        self.executor = ThreadPoolExecutor(1, "network")
        self.batcher = Batcher(self._detect, limits.max_batch, limits.batch_wait_ms / 1000)

    async def work(self):
        """Serve until cancelled; the first call, which is slow, is made before anyone waits for it."""
        await self._call(DEFAULT_SIGNATURE, {"images": WARM_UP[..., : self._channels()]})
        await self.batcher.work()

    async def predict(self, request):
        """The outputs of a `PredictRequest`, a dict of arrays.

        Raises:
            RequestError: status 400, beyond a limit, or none of its pictures is one; some bad ones among good ones
                are no error, they say in `errors` what is wrong.
        """
        for array in request.inputs.values():
            if request.is_row or array.ndim in (1, 4):
                self._check_count(len(array))
        if request.signature == JOINED and request.inputs["encoded"].size:
            outputs = await self._predict_files(request.inputs["encoded"])
        else:
            self._check_picture(request)
            outputs = await self._predict_arrays(request)
        return _refuse_if_all_failed(outputs)

    def _channels(self):
        return self.model.config["in_channels"]

    def _check_count(self, count):
        if count > self.limits.max_instances:
            raise RequestError(
                400, f"{count} instances, more than the limit of {self.limits.max_instances}"
            )

    async def _predict_files(self, files):
        errors = [check_pixels(data, self.limits.max_pixels) for data in files]
        # An empty file gets the row of a bad one, without work.
        items = [b"" if error else data for data, error in zip(files, errors)]
        rows = await asyncio.gather(*map(self.batcher.submit, items))
        outputs = {name: _stack([row[name] for row in rows]) for name in rows[0]}
        texts = [error.encode() or text for error, text in zip(errors, outputs["errors"])]
        outputs["errors"] = np.array(texts, object)
        refused = sum(map(bool, texts))
        self.metrics.pictures.labels("refused").inc(refused)
        self.metrics.pictures.labels("found").inc(len(texts) - refused)
        return outputs

    async def _predict_arrays(self, request):
        """In parts of `max_batch` pictures: a network of all that a request may hold takes all memory."""
        if request.signature != DEFAULT_SIGNATURE:
            return await self._call(request.signature, request.inputs)
        images, most = request.inputs["images"], self.limits.max_batch
        parts = [
            await self._call(request.signature, {"images": images[start : start + most]})
            for start in range(0, max(1, len(images)), most)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _check_picture(self, request):
        """What `predict_single` pastes may be no larger than the largest picture."""
        for array in request.inputs.values():
            is_file = array.dtype == object
            size = stored_size(array.item()) if is_file and array.ndim == 0 else array.shape[-3:-1]
            cells, most = int(np.prod(size)), self.limits.max_pixels
            if request.signature in PASTED and self.model.config["with_mask"]:
                most //= self.model.config["max_detections"]
            if len(size) == 2 and cells > most:
                raise RequestError(
                    400,
                    f"the picture has {size[1]} x {size[0]} pixels, more than this signature's limit of {most}",
                )

    async def _detect(self, items):
        self.metrics.batches.observe(len(items))
        outputs = await self._call(JOINED, {"encoded": np.array(items, object)})
        return [
            {name: values[row] for name, values in outputs.items()} for row in range(len(items))
        ]

    async def _call(self, signature, inputs):
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.executor, self.model.run, signature, inputs)


def _stack(values):
    """One array of rows; NumPy would cut strings of bytes at their zeros."""
    return np.array(values, object) if isinstance(values[0], bytes) else np.stack(values)


def _refuse_if_all_failed(outputs):
    errors = outputs.get("errors", outputs.get("error", np.array(())))
    texts = [text.decode("utf-8", "replace") for text in np.atleast_1d(errors)]
    if texts and all(texts):
        raise RequestError(400, "; ".join(sorted(set(texts))))
    return outputs
