"""Hydra's configuration: a schema and groups of YAML that only pick combinations."""
