"""Which pictures share a batch: those of like shape, so that little of it is padding."""

import numpy as np

POOL_BATCHES = 32  # batches among which pictures find their like; more pad less and mix less


def plan_batches(shapes, batch_size, generator=None, drop_remainder=False):
    """Cuts one epoch into batches of pictures whose padded shapes are alike.

    With a generator the pictures are shuffled, cut into pools of 32 batches, sorted by shape inside
    each pool, and each pool's batches are shuffled: batches change from epoch to epoch. Without one
    all pictures are sorted by shape, equal shapes staying in the order given.

    Args:
        shapes: `(N, 2)` ints, each picture's padded height and width.
        batch_size: int.
        generator: `numpy.random.Generator` or `None`.
        drop_remainder: bool, leave out the one batch that is not full.

    Returns:
        List of int64 arrays of `batch_size` indices, one of fewer where N is no multiple. Every
        index stands in exactly one of them, those of a dropped remainder excepted.
    """
    shapes = np.asarray(shapes).reshape(-1, 2)
    count = len(shapes)
    order = np.arange(count) if generator is None else generator.permutation(count)
    pool = count if generator is None else POOL_BATCHES * batch_size
    batches = []
    for start in range(0, count, max(pool, 1)):
        part = order[start : start + pool]
        part = part[np.lexsort((shapes[part, 1], shapes[part, 0]))]
        cut = [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
        if generator is not None:
            cut = [cut[i] for i in generator.permutation(len(cut))]
        batches += cut
    return [batch for batch in batches if len(batch) == batch_size or not drop_remainder]
