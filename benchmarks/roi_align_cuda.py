"""RoIAlign's CUDA kernels on a GPU, against torchvision.ops.roi_align: parity, time, share of the memory's bandwidth.

    python benchmarks/roi_align_cuda.py --json cuda.json

It needs a GPU, CUDA's nvcc, torch and torchvision, and no TensorFlow: the launchers are called through ctypes. Both
sides alternate; a ratio below 1 means that ours is faster. torchvision reads (B, C, H, W), each in its own layout.
torchvision has no bfloat16: its side of that computes the same numbers in float32. The exit code is 1 where a result
differs by more than 1e-4 of the largest value (16 bits: 2e-2).
"""

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from op_cases import levels_of, made_up_boxes

SOURCES = Path(__file__).parents[1] / "kmaskrcnn" / "kernels"
NUMBERS = {"float32": 0, "bfloat16": 1, "float16": 2}
CASES = {  # sizes of the levels, strides, regions, pool size
    "one level": ([(200, 304)], [4.0], 1000, 7),
    "pyramid": ([(200, 304), (100, 152), (50, 76), (25, 38)], [4.0, 8.0, 16.0, 32.0], 1000, 7),
    "masks": ([(200, 304), (100, 152), (50, 76), (25, 38)], [4.0, 8.0, 16.0, 32.0], 200, 14),
}
SAMPLING, BATCH, CHANNELS = 2, 2, 256


class Call(ctypes.Structure):
    """`KmaskrcnnRoiAlign` of roi_align_cuda.h."""

    _fields_ = [
        ("cells", ctypes.POINTER(ctypes.c_void_p)),
        ("heights", ctypes.POINTER(ctypes.c_int32)),
        ("widths", ctypes.POINTER(ctypes.c_int32)),
        ("strides", ctypes.POINTER(ctypes.c_float)),
        *((name, ctypes.c_int32) for name in ("levels", "batch", "channels")),
        *((name, ctypes.c_void_p) for name in ("boxes", "images", "level_indices")),
        *((name, ctypes.c_int32) for name in ("count", "pool_size", "sampling_ratio")),
        *((name, ctypes.c_int32) for name in ("aligned", "number")),
        ("pooled", ctypes.c_void_p),
    ]


def make_call(maps, strides, regions, pooled, number, *, sampling=SAMPLING, aligned=True):
    """Describe a launch.

    Args:
        maps: list of (address, (B, H, W, C)), read forward and written backward.
        strides: pixels a cell of each.
        regions: addresses of boxes, images and level indices.
        pooled: (address, (N, P, P, C)).
        number: "float32", "bfloat16" or "float16".
    """
    count = len(maps)
    return Call(
        (ctypes.c_void_p * count)(*(address for address, _ in maps)),
        (ctypes.c_int32 * count)(*(shape[1] for _, shape in maps)),
        (ctypes.c_int32 * count)(*(shape[2] for _, shape in maps)),
        (ctypes.c_float * count)(*strides),
        count,
        maps[0][1][0],
        maps[0][1][3],
        *regions,
        *pooled[1][:2],
        sampling,
        aligned,
        NUMBERS[number],
        pooled[0],
    )


def open_launchers(path):
    """The compiled launchers, forward and backward: functions of a `Call` and a stream that return an error code."""
    library = ctypes.CDLL(str(path))
    launchers = library.kmaskrcnn_roi_align_forward, library.kmaskrcnn_roi_align_backward
    for launcher in launchers:
        launcher.argtypes = [ctypes.POINTER(Call), ctypes.c_void_p]
    return launchers


def compile_launchers(folder):
    """Compile them for this machine's GPU."""
    path = Path(folder, "roi_align.so")
    command = ["nvcc", "-O3", "-std=c++17", "-arch=native", "-Xcompiler=-fPIC", "-shared"]
    subprocess.run([*command, str(SOURCES / "roi_align_cuda.cu"), "-o", str(path)], check=True)
    return open_launchers(path)


class Case:
    """One size and number format, ours and torchvision's."""

    def __init__(self, launchers, name, number):
        import torch

        self.launchers, self.number = launchers, number
        sizes, self.strides, count, self.pool = CASES[name]
        dtype, boxes = getattr(torch, number), made_up_boxes(count)
        their_dtype = torch.float32 if number == "bfloat16" else dtype
        levels = levels_of(boxes) - 2 if len(sizes) > 1 else np.zeros(count, "int32")
        generator = torch.Generator("cuda").manual_seed(0)
        options = {"generator": generator, "device": "cuda"}
        self.maps = [torch.randn(BATCH, *size, CHANNELS, **options).to(dtype) for size in sizes]
        self.upstream = torch.randn(count, self.pool, self.pool, CHANNELS, **options).to(dtype)
        # torchvision takes boxes of its maps' number format: both get what that leaves of them.
        self.boxes = torch.from_numpy(boxes).cuda().to(their_dtype).float()
        self.images = torch.arange(count, dtype=torch.int32, device="cuda") % BATCH
        self.levels = torch.from_numpy(levels).cuda()
        self.gradients = [torch.empty_like(x) for x in self.maps]
        self.pooled = torch.empty_like(self.upstream)
        # What torchvision is given: a list of regions for each level, made beforehand.
        turned = [x.to(their_dtype).permute(0, 3, 1, 2).contiguous() for x in self.maps]
        self.theirs = [x.requires_grad_() for x in turned]
        self.places = [torch.nonzero(self.levels == i)[:, 0] for i in range(len(sizes))]
        regions = torch.cat([self.images[:, None].float(), self.boxes], 1).to(their_dtype)
        self.regions = [regions[here] for here in self.places]
        up = self.upstream.to(their_dtype).permute(0, 3, 1, 2).contiguous()
        self.their_upstream = [up[here] for here in self.places]

    def _launch(self, launcher, maps, pooled):
        import torch

        regions = [x.data_ptr() for x in (self.boxes, self.images, self.levels)]
        maps = [(x.data_ptr(), tuple(x.shape)) for x in maps]
        pooled = pooled.data_ptr(), tuple(pooled.shape)
        call = make_call(maps, self.strides, regions, pooled, self.number)
        error = launcher(ctypes.byref(call), torch.cuda.current_stream().cuda_stream)
        if error:
            raise RuntimeError(f"the launch failed with CUDA's error {error}")

    def forward(self):
        self._launch(self.launchers[0], self.maps, self.pooled)

    def backward(self):
        self._launch(self.launchers[1], self.gradients, self.upstream)

    def their_forward(self):
        from torchvision.ops import roi_align

        self.their_pooled = [
            roi_align(x, regions, self.pool, 1 / stride, SAMPLING, True)
            for x, regions, stride in zip(self.theirs, self.regions, self.strides)
        ]

    def their_backward(self):
        """Alone: after a forward pass whose graph is kept."""
        import torch

        self.their_gradients = torch.autograd.grad(
            self.their_pooled, self.theirs, self.their_upstream, retain_graph=True
        )

    def differences(self):
        """The largest difference forward and backward, as a share of the largest value."""
        self.forward(), self.their_forward(), self.backward(), self.their_backward()
        pairs = [
            (self.pooled[here], theirs.permute(0, 2, 3, 1))
            for here, theirs in zip(self.places, self.their_pooled)
        ]
        gradients = [
            (x, y.permute(0, 2, 3, 1)) for x, y in zip(self.gradients, self.their_gradients)
        ]
        return [max(map(_difference, each)) for each in (pairs, gradients)]

    def least_bytes(self):
        """What must travel: the regions' bins once; backward the maps once more, forward the cells that are read."""
        bins = self.pooled.numel() * self.pooled.element_size()
        maps = sum(x.numel() * x.element_size() for x in self.maps)
        self.upstream, kept = self.upstream.abs() + 1, self.upstream
        self.backward()  # a cell that is read has a gradient
        read = sum((x != 0).sum().item() * x.element_size() for x in self.gradients)
        self.upstream = kept
        return bins + read, bins + maps


def _difference(pair):
    ours, theirs = (x.detach().float() for x in pair)
    if not ours.numel():
        return 0.0
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1.0))


def milliseconds(work):
    """The GPU's time for `work`."""
    import torch

    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def alternate(ours, theirs, pairs):
    """Median milliseconds of both, and the median of their ratios, each pair measured back to back."""
    times = [(milliseconds(ours), milliseconds(theirs)) for _ in range(pairs + 5)][5:]
    ratio = statistics.median(a / b for a, b in times)
    return *(statistics.median(side) for side in zip(*times)), ratio


def bytes_per_second():
    """The memory's bandwidth, by a copy of 1 GB, read and written."""
    import torch

    source = torch.zeros(2**28, device="cuda")
    copy = torch.empty_like(source)
    times = [milliseconds(lambda: copy.copy_(source)) for _ in range(20)]
    return 2 * source.numel() * 4 / (statistics.median(times) / 1000)


def measure(launchers, name, number, pairs, bandwidth):
    """One row a direction."""
    case = Case(launchers, name, number)
    differences, least = case.differences(), case.least_bytes()
    directions = {
        "forward": (case.forward, case.their_forward),
        "backward": (case.backward, case.their_backward),
    }
    for (direction, sides), difference, floor in zip(directions.items(), differences, least):
        ours, theirs, ratio = alternate(*sides, pairs)
        yield {
            "case": name,
            "number": number,
            "direction": direction,
            "difference": difference,
            "ours_ms": ours,
            "torchvision_ms": theirs,
            "ratio_median": ratio,
            "share_of_bandwidth": floor / (ours / 1000) / bandwidth,
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        sys.exit("torch sees no GPU: nothing was measured")
    rows, bandwidth = [], bytes_per_second()
    with tempfile.TemporaryDirectory() as folder:
        launchers = compile_launchers(folder)
        for name in CASES:
            for number in NUMBERS:
                rows += measure(launchers, name, number, options.pairs, bandwidth)
    device = torch.cuda.get_device_name()
    result = {"device": device, "bytes_per_second": bandwidth, "rows": rows}
    sys.stdout.write(json.dumps(result, indent=2) + "\n")
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=2))
    # torchvision adds gradients up in float16.
    allowed = {"float32": 1e-4, "bfloat16": 2e-2, "float16": 2e-2}
    sys.exit(int(any(row["difference"] > allowed[row["number"]] for row in rows)))


if __name__ == "__main__":
    main()
