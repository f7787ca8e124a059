"""COCO's run-length encoding (RLE) of masks.

    mask     `(height, width)` bool
    runs     lengths of background, object, background, ... in pixels, down the columns
    text     each run a number of 5 bits a character, from the fourth on its difference to the last but one

What thousands of masks need is reckoned for many at once: NumPy's calls cost more than such short runs.
"""

import numpy as np

MOST_CHARACTERS = 7  # of a number: 35 bits


def windows_to_rles(windows, image_size):
    """Encode windows of a picture that is empty elsewhere, each a mask of its own.

    Args:
        windows: iterable of `(window, top, left)`: a `(height, width)` bool array, of one pixel at least,
            and the picture's row and column of its first pixel. One is held at a time.
        image_size: `(height, width)` of the picture.

    Returns:
        A list of COCO's RLEs of the whole picture, `{"size": [height, width], "counts": str}`, ready for
        json.
    """
    height, width = map(int, image_size)
    changes = [_changes(*window, height) for window in windows]
    if not changes:
        return []
    # All masks one after another, as if they were one: each ends where the next begins.
    ends = height * width * np.arange(1, len(changes) + 1)
    lengths = np.array([len(places) + 1 for places in changes])
    firsts = np.repeat(ends - height * width, lengths - 1)
    lasts = np.cumsum(lengths) - 1
    places = np.empty(lengths.sum(), np.int64)
    is_change = np.ones(len(places), bool)
    is_change[lasts] = False
    places[is_change] = np.concatenate(changes) + firsts
    places[lasts] = ends
    runs = np.diff(places, prepend=0)
    # An object in the last pixel is its mask's last run: no background follows.
    kept = is_change | (runs > 0)
    texts = compress(runs[kept], lengths - ~kept[lasts])
    return [{"size": [height, width], "counts": text} for text in texts]


def _changes(window, top, left, height):
    """The picture's pixels, counted down the columns, at which a run of the window starts or has ended."""
    # Columns framed by background: along them, every change of value starts a run or ends one.
    columns = np.zeros((window.shape[1], window.shape[0] + 2), bool)
    columns[:, 1:-1] = window.T
    values = columns.ravel()
    column, row = np.divmod(np.flatnonzero(values[1:] != values[:-1]), window.shape[0] + 2)
    changes = (column + left) * height + row + top
    # A run to the picture's lower edge goes on at the top of the next column: no change there.
    joined = np.flatnonzero(changes[1:] == changes[:-1])
    return np.delete(changes, [joined, joined + 1]) if joined.size else changes


def compress(runs, lengths):
    """Runs of several masks as COCO's texts.

    Args:
        runs: `(R,)` int64, the runs of all masks, one mask after another.
        lengths: `(N,)` int, how many of them each mask has.

    Returns:
        A list of N str.
    """
    numbers, place = runs.copy(), _places(lengths)
    later = np.flatnonzero(place > 2)
    numbers[later] -= runs[later - 2]
    # A number of n characters has 5n bits, of which the highest is its sign.
    magnitude = np.where(numbers < 0, ~numbers, numbers)
    characters = 1 + sum(magnitude >> (5 * n - 1) > 0 for n in range(1, MOST_CHARACTERS))
    digit = _places(characters)
    more = digit < np.repeat(characters - 1, characters)
    codes = (np.repeat(numbers, characters) >> (5 * digit)) & 0x1F | (more << 5)
    text = (codes + 48).astype(np.uint8).tobytes().decode("ascii")
    ends = np.concatenate([[0], np.cumsum(characters)])[np.cumsum(lengths)]
    return [text[start:end] for start, end in zip([0, *ends[:-1].tolist()], ends.tolist())]


def decompress(texts):
    """The runs of several masks.

    Args:
        texts: N `bytes`, COCO's texts.

    Returns:
        `(runs, lengths)`: `(R,)` int64, the runs of all masks one after another, and `(N,)` int, how many
        of them each mask has.

    Raises:
        ValueError: a text is cut off or has characters or numbers that the format does not know.
    """
    sizes = np.array([len(text) for text in texts], int)
    codes = np.frombuffer(b"".join(texts), np.uint8).astype(np.int64) - 48
    more = (codes & 0x20) != 0
    ends = np.cumsum(sizes)
    cut_off = more[ends[sizes > 0] - 1].any()
    if cut_off or (codes.size and (codes.min() < 0 or codes.max() > 63)):
        raise ValueError("compressed RLE counts are cut off or have characters outside '0' to 'o'")
    last = np.flatnonzero(~more)
    characters = np.diff(last, prepend=-1)
    if characters.size and characters.max() > MOST_CHARACTERS:
        raise ValueError("compressed RLE counts hold a number of more than 7 characters")
    if not characters.size:
        return np.zeros(0, np.int64), np.zeros(len(texts), int)
    runs = np.add.reduceat((codes & 0x1F) << (5 * _places(characters)), last - characters + 1)
    runs -= np.where(codes[last] & 0x10, np.int64(1) << (5 * characters), 0)
    lengths = np.diff(np.searchsorted(last, ends), prepend=0)
    return _add_differences(runs, lengths), lengths


def _add_differences(numbers, lengths):
    """Each mask's numbers from its fourth on are differences to the last but one."""
    place = _places(lengths)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    for parity in (0, 1):
        series = (place % 2 == parity) & (place > 0)
        sums = np.cumsum(np.where(series, numbers, 0))
        # A mask's first number belongs to neither series: there the sum is that of the masks before.
        numbers[series] = (sums - sums[starts])[series]
    return numbers


def _places(lengths):
    """0, 1, 2, ... for each length, one after another."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
