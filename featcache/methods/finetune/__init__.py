"""Fine-tuning: a backbone and a linear head trained on labelled videos, from pixels."""
