"""One typed tree of settings, to and from literal YAML."""
