"""Files: atomic publication, hashing, locks; the only module that renames."""
