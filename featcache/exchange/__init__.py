"""Import of features that others have computed, and export of stores to other formats. No torch."""
