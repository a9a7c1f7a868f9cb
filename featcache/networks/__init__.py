"""Networks as plain ``nn.Module`` classes."""
