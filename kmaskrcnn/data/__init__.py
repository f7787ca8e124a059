"""Data: COCO records, their check, the tf.data pipeline, and a made-up dataset."""
