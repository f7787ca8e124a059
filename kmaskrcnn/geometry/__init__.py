"""Boxes, anchors, suppression and masks: pure functions of tensors or arrays, no layers."""
