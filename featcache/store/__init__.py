"""The store on disk: plan, commit, shard encoders, reader, verification. See docs/store-format.md."""
