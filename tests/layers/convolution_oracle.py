"""Convolution by loops in float64, and random statistics for batch norms."""

import numpy as np


def convolve(image, kernel, strides=1, dilation=1):
    """Convolves `(H, W, C)` with `(k, k, C / groups, F)`, zero padding (k - 1) // 2 * dilation."""
    height, width, channels = image.shape
    k, _, size, filters = kernel.shape
    groups = channels // size
    pad = (k - 1) // 2 * dilation
    padded = np.pad(image, [(pad, pad), (pad, pad), (0, 0)])
    output = np.zeros((-(-height // strides), -(-width // strides), filters))
    for group in range(groups):
        taken = slice(group * size, (group + 1) * size)
        made = slice(group * filters // groups, (group + 1) * filters // groups)
        for y, x, i, j in np.ndindex(*output.shape[:2], k, k):
            cell = padded[y * strides + i * dilation, x * strides + j * dilation, taken]
            output[y, x, made] += cell @ kernel[i, j, :, made]
    return output


def randomise_norm(norm, generator):
    """Gives a batch norm statistics that a wrong formula cannot survive."""
    shape = norm.gamma.shape
    norm.gamma.assign(generator.uniform(-1.5, 1.5, shape))
    norm.beta.assign(generator.uniform(-1, 1, shape))
    norm.moving_mean.assign(generator.uniform(-1, 1, shape))
    norm.moving_variance.assign(generator.uniform(0.2, 2, shape))
