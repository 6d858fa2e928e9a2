"""The page of the studies on injected facts. `make study-knowledge`; docs/results/knowledge.md."""
