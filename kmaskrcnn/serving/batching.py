"""Pictures of several requests in one call of the network."""

import asyncio


class Batcher:
    """Joins items that arrive at about the same time; each gets its own result or its own error.

    While a batch is worked on the next ones gather, so that a busy server's batches are full and an idle server's
    answers wait for `wait` at most. An item whose waiter has gone is not worked on.

    Args:
        run: coroutine function from a list of items to the list of their results.
        max_batch: items in one call of it.
        wait: seconds that an item waits for others.

    Example:
        ```python
        batcher = Batcher(detect, max_batch=8, wait=0.005)
        worker = asyncio.create_task(batcher.work())
        result = await batcher.submit(item)
        ```
    """

    def __init__(self, run, max_batch, wait):
        self.run, self.max_batch, self.wait = run, max_batch, wait
        self.waiting = asyncio.Queue()

    async def submit(self, item):
        """The result of one item; raises what its call raised."""
        future = asyncio.get_running_loop().create_future()
        self.waiting.put_nowait((item, future))
        return await future

    async def work(self):
        """Work on what is submitted, until cancelled."""
        while True:
            await self._run(await self._collect())

    async def _collect(self):
        batch = [await self.waiting.get()]
        if self.waiting.qsize() + 1 < self.max_batch:
            await asyncio.sleep(self.wait)
        while len(batch) < self.max_batch and not self.waiting.empty():
            batch.append(self.waiting.get_nowait())
        return batch

    async def _run(self, batch):
        batch = [(item, future) for item, future in batch if not future.done()]
        if not batch:
            return
        try:
            results = await self.run([item for item, _ in batch])
            answered = list(zip(batch, results, strict=True))
        except Exception as error:  # whatever it is, it belongs to those who wait for it
            await self._fail(batch, error)
            return
        for (_, future), result in answered:
            if not future.done():
                future.set_result(result)

    async def _fail(self, batch, error):
        """One item's error is not the others': each is tried alone."""
        if len(batch) > 1:
            for one in batch:
                await self._run([one])
        elif not batch[0][1].done():
            batch[0][1].set_exception(error)
