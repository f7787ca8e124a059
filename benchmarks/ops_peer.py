"""torchvision's operations, timed one call at a time for `ops.py`, which starts this in the peer's Python.

It reads a name a line from stdin and answers with the seconds of one call.
"""

import sys
import time

import torch
from op_cases import LEVELS, OPERATIONS, inputs_of, made_up_boxes
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import MultiScaleRoIAlign, nms, roi_align


def roi_align_call(operation):
    """RoIAlign, with its gradient if the operation says so."""
    given = inputs_of(operation)
    maps = [torch.from_numpy(x).permute(0, 3, 1, 2).contiguous() for x in given["features"]]
    maps = [x.requires_grad_(operation.gradient) for x in maps]
    upstream = torch.from_numpy(given["upstream"]).permute(0, 3, 1, 2).contiguous()
    boxes, images = torch.from_numpy(given["boxes"]), torch.from_numpy(given["images"])
    names = [str(i) for i in range(len(maps))]
    pyramid = MultiScaleRoIAlign(names, operation.pool, 2)
    pyramid.scales, pyramid.map_levels = None, None
    sizes = [(LEVELS[0][0] * 4, LEVELS[0][1] * 4)] * 2
    # MultiScaleRoIAlign wants a list of boxes for each image; the order does not change the time.
    split = [boxes[images == i] for i in range(2)]
    rois = torch.cat([images[:, None].float(), boxes], 1)

    def call():
        for x in maps:
            x.grad = None
        if len(maps) == 1:
            pooled = roi_align(maps[0], rois, operation.pool, 0.25, 2, True)
        else:
            pooled = pyramid(dict(zip(names, maps)), split, sizes)
        if operation.gradient:
            pooled.backward(upstream)

    return call


def nms_call(operation):
    boxes, scores = made_up_boxes(6000), torch.rand(
        6000, generator=torch.Generator().manual_seed(0)
    )
    boxes = torch.from_numpy(boxes)
    return lambda: nms(boxes, scores, 0.7)


def paste_call(operation):
    boxes = torch.from_numpy(made_up_boxes(100, seed=3))
    masks = torch.rand(100, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    return lambda: paste_masks_in_image(masks, boxes, (800, 1216)) >= 0.5


def main():
    torch.set_num_threads(int(sys.argv[1]))
    makers = {"roi_align": roi_align_call, "nms": nms_call, "paste": paste_call}
    calls = {}
    for line in sys.stdin:
        name = line.strip()
        if name not in calls:
            calls.clear()  # the maps of one case are 125 MB
            calls[name] = makers[OPERATIONS[name].kind](OPERATIONS[name])
        start = time.perf_counter()
        calls[name]()
        sys.stdout.write(f"{time.perf_counter() - start}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
