"""What injection trains and questions are put to: our networks and those of transformers."""
