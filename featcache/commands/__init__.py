"""The commands of `featcache`, as functions of settings."""
