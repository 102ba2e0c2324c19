"""TOML text to frozen models; every mistake at once, each with its place."""
