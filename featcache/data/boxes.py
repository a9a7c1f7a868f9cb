"""boxes."""
