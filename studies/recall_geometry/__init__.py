"""Does the geometry of an injected fact tell whether it is recalled? `make study-knowledge`."""
