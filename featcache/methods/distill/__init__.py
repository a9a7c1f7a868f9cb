"""Distillation: several students learn from the labels of videos and from the logits of several teachers."""
