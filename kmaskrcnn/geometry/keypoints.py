"""Keypoints: from pixels to the cells of a region's heatmap and back, and in a mirror.

keypoints  (..., K, 3)     x, y in continuous pixels (pixel i's centre is i + 0.5) and visibility; 0: not labelled
cells      (N, K)          y * m + x of the heatmap's cell, -1 where there is none
heatmaps   (N, m, m, K)    logits over a region's m x m cells
"""

from keras import ops

# Positions a side at which a heatmap is evaluated around its best cell: all of a region of up to so many pixels.
WINDOW = 64
# Of a longer side no more than so many, 24 a cell: finer than any person can label.
MOST_POSITIONS = 24 * 56
# Positions a side of the tiles in which a whole heatmap is evaluated: 17 of them take a megabyte.
TILE = 128
# Not infinity: a chooser that multiplies by 0 and 1, as in ONNX, would make NaN of it.
LOWEST = -3e38


def encode_keypoints(keypoints, rois, heatmap_size):
    """The cell of its region's heatmap that each keypoint falls into.

    Args:
        keypoints: `(N, K, 3)` float32.
        rois: `(N, 4)` xyxy pixels.
        heatmap_size: m.

    Returns:
        `(N, K)` int32; -1 where the keypoint is not labelled or lies outside the region. A point on the region's right
        or lower edge belongs to the last cell.

    Reference:
        [Mask R-CNN](https://arxiv.org/abs/1703.06870), section 5
    """
    corner, sides = rois[:, None, :2], rois[:, None, 2:] - rois[:, None, :2]
    points, exists = keypoints[..., :2], ops.all(sides > 0, axis=-1)
    scale = heatmap_size / ops.where(sides > 0, sides, 1.0)  # before the product, as in Detectron
    places = ops.floor((points - corner) * scale)
    places = ops.where(points == rois[:, None, 2:], heatmap_size - 1.0, places)
    inside = ops.all((places >= 0) & (places < heatmap_size), axis=-1) & exists
    x, y = places[..., 0], places[..., 1]
    visible = inside & (keypoints[..., 2] > 0)
    return ops.cast(ops.where(visible, y * heatmap_size + x, -1.0), "int32")


def decode_keypoints(heatmaps, rois):
    """Each heatmap's highest point, found between its cells.

    A map is enlarged by bicubic interpolation to its region's size in pixels, and the centre of the highest pixel is
    the keypoint, as in Detectron and torchvision. Only a window around the best cell is enlarged: of a flat map, such
    as an untrained network's, another peak may be the highest (`decode_keypoints_everywhere`).

    Args:
        heatmaps: `(N, m, m, K)` float32 logits.
        rois: `(N, 4)` xyxy pixels; sides under a pixel count as one.

    Returns:
        `points (N, K, 2)` x and y in pixels, and `peaks (N, K)`, the logit there.

    Reference:
        [Mask R-CNN](https://arxiv.org/abs/1703.06870), section 5
    """
    size, count = heatmaps.shape[1], heatmaps.shape[3]
    maps = ops.transpose(heatmaps, (0, 3, 1, 2))  # (N, K, m, m)
    _, best = _greatest(ops.reshape(maps, (-1, count, size * size)))
    padded = _with_border(maps)
    y, rows = _window(best // size, rois[:, 1], rois[:, 3], size)
    x, columns = _window(best % size, rois[:, 0], rois[:, 2], size)
    fine = ops.matmul(ops.matmul(rows, padded), ops.swapaxes(columns, 2, 3))
    fine = ops.reshape(fine, (-1, count, WINDOW * WINDOW))
    peaks, highest = _greatest(fine)
    highest = highest[..., None]
    points = [
        ops.take_along_axis(x, highest % WINDOW, axis=2),
        ops.take_along_axis(y, highest // WINDOW, axis=2),
    ]
    return ops.concatenate(points, axis=2), peaks


def decode_keypoints_everywhere(heatmaps, rois):
    """As `decode_keypoints`, by the highest of all the enlarged map's pixels, as torchvision finds it.

    Maps are enlarged one region and one tile at a time, so memory does not grow with regions or their sizes.

    Args:
        heatmaps: `(N, m, m, K)` float32 logits.
        rois: `(N, 4)` xyxy pixels; sides under a pixel count as one.

    Returns:
        `points (N, K, 2)` x and y in pixels, and `peaks (N, K)`, the logit there.
    """
    size, count = heatmaps.shape[1], heatmaps.shape[3]
    maps = _with_border(ops.transpose(heatmaps, (0, 3, 1, 2)))
    sides = ops.maximum(rois[:, 2:] - rois[:, :2], 1.0)
    numbers = ops.cast(ops.ceil(sides), "int32")  # (N, 2) positions along x and y
    tiles = (numbers + TILE - 1) // TILE
    regions = ops.shape(rois)[0]

    def one_tile(n, tile, places, peaks):
        first = ops.stack([tile % tiles[n, 0], tile // tiles[n, 0]]) * TILE
        x, y = (ops.minimum(first[i] + ops.arange(TILE), numbers[n, i] - 1) for i in range(2))
        fine = _enlarge(maps[n], y, x, numbers[n], size)
        peak, highest = _greatest(ops.reshape(fine, (count, TILE * TILE)))
        place = ops.stack([ops.take(x, highest % TILE), ops.take(y, highest // TILE)], axis=1)
        # The first maximum counts, as in torchvision.
        better = (ops.arange(regions) == n)[:, None] & (peak[None] > peaks)  # (N, K)
        places = ops.where(better[..., None], place[None], places)
        is_last = tile + 1 == tiles[n, 0] * tiles[n, 1]
        following = ops.where(is_last, n + 1, n), ops.where(is_last, 0, tile + 1)
        return *following, places, ops.where(better, peak[None], peaks)

    nothing = ops.zeros((regions, count, 2), "int32"), ops.full((regions, count), LOWEST)
    start = ops.convert_to_tensor(0, "int32"), ops.convert_to_tensor(0, "int32")
    *_, places, peaks = ops.while_loop(lambda n, *_: n < regions, one_tile, (*start, *nothing))
    step = (sides / ops.cast(numbers, "float32"))[:, None]
    return rois[:, None, :2] + (ops.cast(places, "float32") + 0.5) * step, peaks


def _enlarge(padded, y, x, numbers, size):
    """Values of one region's maps `(K, m + 4, m + 4)` at positions y and x of T each: `(K, T, T)`.

    Sums of four taps and no matrix product, which a GPU may round to ten bits.
    """
    for axis, index in ((1, y), (2, x)):
        number = ops.cast(numbers[2 - axis], "float32")
        place = (ops.cast(index, "float32") + 0.5) * (size / number) - 0.5
        low = ops.floor(place)
        padded = sum(
            ops.take(padded, ops.cast(low, "int32") + 2 + tap, axis=axis)
            * ops.reshape(
                _cubic(ops.abs(place - low - tap)), (1, -1, 1) if axis == 1 else (1, 1, -1)
            )
            for tap in (-1, 0, 1, 2)
        )
    return padded


def _greatest(values):
    """The greatest along the last axis, and where it first is; of `ops.argmax` Keras makes bits, unknown to ONNX."""
    greatest, place = ops.top_k(values, 1)
    return greatest[..., 0], place[..., 0]


def _with_border(maps):
    """`(N, K, m, m)` with two cells of repeated border, or one tap of the interpolation would fall off."""
    maps = ops.concatenate([maps[:, :, :1]] * 2 + [maps] + [maps[:, :, -1:]] * 2, axis=2)
    return ops.concatenate([maps[..., :1]] * 2 + [maps] + [maps[..., -1:]] * 2, axis=3)


def _window(best, start, end, size):
    """Along one axis, the positions around the best cell and what each takes from the padded map's cells.

    Args:
        best: `(N, K)` int32 cell.
        start, end: `(N,)` of the regions, pixels.
        size: m.

    Returns:
        Positions `(N, K, WINDOW)` in pixels, and weights `(N, K, WINDOW, m + 4)`.
    """
    length = ops.maximum(end - start, 1.0)[:, None]
    number = ops.clip(ops.ceil(length), 1.0, MOST_POSITIONS)  # positions along the whole side
    centre = (ops.cast(best, "float32") + 0.5) * number / size
    first = ops.clip(ops.floor(centre) - WINDOW // 2, 0.0, ops.maximum(number - WINDOW, 0.0))
    index = first[..., None] + ops.arange(WINDOW, dtype="float32")
    # A short side has fewer positions than the window: the last one is repeated, the first maximum counts.
    middle = ops.minimum(index, number[..., None] - 1.0) + 0.5
    place = middle * size / number[..., None] - 0.5 + 2.0  # within the padded map
    distance = ops.abs(place[..., None] - ops.arange(size + 4, dtype="float32"))
    return start[:, None, None] + middle * (length / number)[..., None], _cubic(distance)


def _cubic(distance):
    """Cubic convolution (Keys, 1981) with a = -0.75, as OpenCV and PyTorch have it."""
    a = -0.75
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return ops.where(distance <= 1, near, ops.where(distance < 2, far, 0.0))


def mirror_order(count, flip_pairs):
    """Which of `count` keypoints stands in each one's place in a mirror: a list of int."""
    order = list(range(count))
    for left, right in flip_pairs:
        order[left], order[right] = right, left
    return order


def flip_keypoints(keypoints, width, flip_pairs=()):
    """Keypoints of a mirrored picture: a left hand becomes a right hand.

    Args:
        keypoints: `(..., K, 3)` NumPy array.
        width: of the picture, pixels.
        flip_pairs: pairs of keypoints, such as left and right eye, that a mirror swaps.

    Returns:
        `(..., K, 3)`; keypoints that are not labelled stay zeros.
    """
    flipped = keypoints[..., mirror_order(keypoints.shape[-2], flip_pairs), :].copy()
    labelled = flipped[..., 2] > 0
    flipped[..., 0][labelled] = width - flipped[..., 0][labelled]
    return flipped
