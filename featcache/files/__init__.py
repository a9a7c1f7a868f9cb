"""Files that other processes may read at any time: publishing, sealing and locking."""
