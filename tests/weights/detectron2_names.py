"""Names and shapes of Detectron2's Mask R-CNNs, as its published `.pkl` files hold them."""

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class Names:
    """Args: kind: `"fpn"`, `"c4"` or `"dc5"`; depth; groups, width: of the 3x3 convolutions; units: of dense layers."""

    def __init__(self, kind="fpn", depth=50, groups=1, width=64, units=1024):
        self.kind, self.depth, self.groups, self.width = kind, depth, groups, width
        self.shapes = {}
        self.trunk("backbone.bottom_up" if kind == "fpn" else "backbone")
        channels = {"fpn": 256, "c4": 1024, "dc5": 2048}[kind]
        anchors = 3 if kind == "fpn" else 15
        head = "proposal_generator.rpn_head"
        self.conv(f"{head}.conv", channels, channels, 3, norm=False)
        self.conv(f"{head}.objectness_logits", anchors, channels, 1, norm=False)
        self.conv(f"{head}.anchor_deltas", 4 * anchors, channels, 1, norm=False)
        if kind != "c4":
            self.dense("box_head.fc1", units, channels * 49)
            self.dense("box_head.fc2", units, units)
        self.dense("box_predictor.cls_score", 81, 2048 if kind == "c4" else units)
        self.dense("box_predictor.bbox_pred", 320, 2048 if kind == "c4" else units)
        self.mask_head(2048 if kind == "c4" else channels, 0 if kind == "c4" else 4)

    def conv(self, name, out, given, kernel, norm=True):
        self.shapes[f"{name}.weight"] = (out, given, kernel, kernel)
        parts = ("weight", "bias", "running_mean", "running_var") if norm else ()
        self.shapes.update({f"{name}.norm.{part}": (out,) for part in parts})
        if not norm:
            self.shapes[f"{name}.bias"] = (out,)

    def dense(self, name, out, given):
        self.shapes |= {
            f"roi_heads.{name}.weight": (out, given),
            f"roi_heads.{name}.bias": (out,),
        }

    def trunk(self, prefix):
        self.conv(f"{prefix}.stem.conv1", 64, 3, 7)
        given = 64
        for stage, blocks in zip((2, 3, 4, 5), BLOCKS[self.depth]):
            of_regions = self.kind == "c4" and stage == 5
            name = "roi_heads.res5" if of_regions else f"{prefix}.res{stage}"
            given = self.stage(name, stage, blocks, given)
            if self.kind == "fpn":
                self.conv(f"backbone.fpn_lateral{stage}", 256, given, 1, norm=False)
                self.conv(f"backbone.fpn_output{stage}", 256, 256, 3, norm=False)

    def stage(self, name, stage, blocks, given):
        out, width = 64 * 2**stage, self.groups * self.width * 2 ** (stage - 2)
        for block in range(blocks):
            if block == 0:
                self.conv(f"{name}.{block}.shortcut", out, given, 1)
            self.conv(f"{name}.{block}.conv1", width, given, 1)
            self.conv(f"{name}.{block}.conv2", width, width // self.groups, 3)
            self.conv(f"{name}.{block}.conv3", out, width, 1)
            given = out
        return given

    def mask_head(self, channels, convs):
        for i in range(convs):
            self.conv(f"roi_heads.mask_head.mask_fcn{i + 1}", 256, channels, 3, norm=False)
            channels = 256
        self.shapes["roi_heads.mask_head.deconv.weight"] = (channels, 256, 2, 2)
        self.shapes["roi_heads.mask_head.deconv.bias"] = (256,)
        self.conv("roi_heads.mask_head.predictor", 80, 256, 1, norm=False)
