"""Schedules, callbacks and the trainer: from a recipe and two COCO datasets to a trained model."""
