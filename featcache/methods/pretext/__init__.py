"""Pretext tasks: a backbone trained on questions whose answers are known without labels."""
