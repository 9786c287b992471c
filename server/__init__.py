"""KOMBIT's coordinator: it asks, checks what comes back, aggregates, and keeps the record."""
