"""What a model is trained and tested for: losses, and predictions for the metrics."""
