"""The batcher joins what waits together, and keeps errors apart; large requests of pixels go in parts."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

for module in ("orjson", "prometheus_client"):
    pytest.importorskip(module, reason="needs the extra [serve]: make test-optional")

from kmaskrcnn.serving.batching import Batcher  # noqa: E402
from kmaskrcnn.serving.limits import Limits  # noqa: E402
from kmaskrcnn.serving.protocol import PredictRequest  # noqa: E402
from kmaskrcnn.serving.service import Service  # noqa: E402


def gather(items, run, max_batch=4, wait=0.01, cancel=()):
    """Submit items at once; `{item: result or error}` of those that were not cancelled."""

    async def main():
        batcher = Batcher(run, max_batch, wait)
        tasks = {item: asyncio.create_task(batcher.submit(item)) for item in items}
        await asyncio.sleep(0)
        for item in cancel:
            tasks.pop(item).cancel()
        worker = asyncio.create_task(batcher.work())
        results = await asyncio.wait_for(
            asyncio.gather(*tasks.values(), return_exceptions=True), timeout=10
        )
        assert not worker.done()
        worker.cancel()
        return dict(zip(tasks, results))

    return asyncio.run(main())


def test_each_gets_its_own_result_in_full_batches():
    seen = []

    async def square(batch):
        seen.append(list(batch))
        return [item**2 for item in batch]

    assert gather(range(10), square) == {item: item**2 for item in range(10)}
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_those_who_come_within_the_wait_join():
    seen = []

    async def run(batch):
        seen.append(list(batch))
        return batch

    async def main():
        batcher = Batcher(run, 8, 0.2)
        worker = asyncio.create_task(batcher.work())
        first = asyncio.create_task(batcher.submit("a"))
        await asyncio.sleep(0.02)
        await asyncio.gather(first, batcher.submit("b"))
        worker.cancel()

    asyncio.run(main())
    assert seen == [["a", "b"]]


def test_one_error_is_not_the_others():
    async def divide(batch):
        return [6 // item for item in batch]

    found = gather([1, 0, 3], divide)
    assert found[1] == 6 and found[3] == 2 and isinstance(found[0], ZeroDivisionError)


def test_a_wrong_count_of_results_is_an_error_of_all():
    async def lose(batch):
        return []

    assert isinstance(gather([1], lose)[1], ValueError)


def test_who_has_gone_is_not_worked_on():
    seen = []

    async def run(batch):
        seen.extend(batch)
        return batch

    assert gather([1, 2, 3], run, cancel=[2]) == {1: 1, 3: 3}
    assert seen == [1, 3]


@pytest.mark.parametrize("count, sizes", [(1, [1]), (4, [4]), (9, [4, 4, 1]), (0, [0])])
def test_pixels_of_one_request_come_in_parts_and_go_as_one(count, sizes):
    seen = []

    def run(signature, inputs):
        seen.append(len(inputs["images"]))
        numbers = inputs["images"][:, 0, 0, 0]
        texts = np.array([b"odd\0" if number % 2 else b"" for number in numbers], object)
        return {"numbers": numbers, "masks": np.tile(numbers[:, None], (1, 2)), "errors": texts}

    async def main():
        config = {"in_channels": 3, "with_mask": True}
        service = Service(SimpleNamespace(config=config, run=run), Limits(max_batch=4), None)
        images = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(3, axis=3)
        return await service.predict(PredictRequest("serving_default", {"images": images}, False))

    outputs = asyncio.run(main())
    assert seen == sizes
    assert outputs["numbers"].tolist() == list(range(count)) and outputs["masks"].shape == (
        count,
        2,
    )
    assert outputs["errors"].tolist() == ([b"", b"odd\0"] * 5)[:count]
