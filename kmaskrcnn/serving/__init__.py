"""From a trained model to its use on pictures."""
