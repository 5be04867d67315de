"""The config tree: every key that a user can set, with its type, default and meaning."""
