"""The municipality's agent: its own code, in front of its own data."""
