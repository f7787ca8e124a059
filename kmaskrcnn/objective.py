"""What training minimises: the losses that a configuration asks for, by name, from what the train graph returns."""

from kmaskrcnn import losses
from kmaskrcnn.config import MaskRCNNConfig

LOSSES = ("rpn_class_loss", "rpn_box_loss", "box_class_loss", "box_loss", "mask_loss")


def loss_names(config: MaskRCNNConfig) -> list:
    """The names of the losses that a configuration has."""
    names = [name for name in LOSSES if config.with_mask or name != "mask_loss"]
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
        "box_class_loss": losses.box_class_loss(outputs["class_logits"], outputs["region_labels"]),
        "box_loss": config.box_loss_weight * _box_loss(outputs, config),
    }
    if config.with_mask:
        loss = (
            losses.mask_loss
            if config.mask_activation == "sigmoid"
            else losses.multinomial_mask_loss
        )
        of_mask = (outputs[name] for name in ("mask_logits", "mask_labels", "mask_targets"))
        parts["mask_loss"] = loss(*of_mask, config.num_classes)
    if config.with_keypoints:
        parts["keypoint_loss"] = losses.keypoint_loss(
            outputs["keypoint_logits"],
            outputs["keypoint_labels"],
            outputs["keypoint_cells"],
            config.num_classes,
        )
    return parts


def _box_loss(outputs, config):
    deltas = outputs["box_deltas"], outputs["region_labels"], outputs["region_deltas"]
    if config.box_loss in ("smooth_l1", "l1"):
        beta = config.smooth_l1_beta if config.box_loss == "smooth_l1" else 0.0
        return losses.box_loss(*deltas, beta, config.num_classes)
    return losses.box_overlap_loss(
        *deltas, outputs["region_rois"], config.box_variance, config.box_loss, config.num_classes
    )
