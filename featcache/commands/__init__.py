"""What `featcache` can be told to do, as functions of settings."""
