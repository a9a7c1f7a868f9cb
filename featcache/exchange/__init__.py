"""Features that others made into a store, and a store out to the formats that others read. No torch."""
