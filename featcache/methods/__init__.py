"""Methods: objectives that the training loop runs, one folder per method."""
