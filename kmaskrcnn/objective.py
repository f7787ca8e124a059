"""What training minimises: the losses that a configuration asks for, by name, from what the train graph returns."""

from kmaskrcnn import losses
from kmaskrcnn.config import MaskRCNNConfig


def loss_names(config: MaskRCNNConfig) -> list:
    """The names of the losses that a configuration has."""
    names = ["rpn_class_loss", "rpn_box_loss"]
    for stage in config.box_stages:
        names += [f"box_class_loss{stage}", f"box_loss{stage}"]
    if config.with_mask:
        names += ["mask_loss"] + ["mask_point_loss"] * (config.mask_head == "point_rend")
    return names + ["keypoint_loss"] * config.with_keypoints


def loss_values(outputs, config: MaskRCNNConfig) -> dict:
    """The losses by name, each a scalar; their sum is the loss (Mask R-CNN, section 3).

    Args:
        outputs: what `MaskRCNN` returns for inputs with ground truth.
        config: of the model.
    """
    drawn = outputs["rpn_targets"]
    parts = {
        "rpn_class_loss": losses.rpn_class_loss(
            outputs["rpn_logits"], drawn["indices"], drawn["labels"]
        ),
        "rpn_box_loss": losses.rpn_box_loss(
            outputs["rpn_deltas"], **drawn, beta=config.smooth_l1_beta
        ),
    }
    for stage, head in config.box_stages.items():
        logits, labels = outputs[f"class_logits{stage}"], outputs[f"region_labels{stage}"]
        parts[f"box_class_loss{stage}"] = losses.box_class_loss(logits, labels)
        parts[f"box_loss{stage}"] = config.box_loss_weight * _box_loss(outputs, stage, head)
    if config.with_mask:
        loss = (
            losses.mask_loss
            if config.mask_activation == "sigmoid"
            else losses.multinomial_mask_loss
        )
        of_mask = (outputs[name] for name in ("mask_logits", "mask_labels", "mask_targets"))
        parts["mask_loss"] = loss(*of_mask, config.num_classes)
    if "mask_point_loss" in loss_names(config):
        names = ("mask_point_logits", "mask_labels", "mask_point_targets")
        of_points = (outputs[name] for name in names)
        parts["mask_point_loss"] = losses.mask_loss(*of_points, config.num_classes)
    if config.with_keypoints:
        parts["keypoint_loss"] = losses.keypoint_loss(
            outputs["keypoint_logits"],
            outputs["keypoint_labels"],
            outputs["keypoint_cells"],
            config.num_classes,
        )
    return parts


def _box_loss(outputs, stage, head):
    """Of one box head: `head` is its configuration, and its outputs' names end in `stage`."""
    names = ("box_deltas", "region_labels", "region_deltas", "region_rois")
    *deltas, rois = (outputs[f"{name}{stage}"] for name in names)
    if head.box_loss in ("smooth_l1", "l1"):
        beta = head.smooth_l1_beta if head.box_loss == "smooth_l1" else 0.0
        return losses.box_loss(*deltas, beta, head.num_classes)
    return losses.box_overlap_loss(
        *deltas, rois, head.box_variance, head.box_loss, head.num_classes
    )
