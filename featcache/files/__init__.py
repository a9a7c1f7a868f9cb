"""Files that others may read at any time: publishing, sealing and locking."""
