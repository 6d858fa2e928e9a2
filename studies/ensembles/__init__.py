"""Facts of a study's run divided among several models with a router. `make study-knowledge`."""
