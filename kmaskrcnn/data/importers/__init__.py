"""Other formats than COCO's: each file reads one of them, and all end in the same records."""
