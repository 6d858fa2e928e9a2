"""The published experiment on two small sets of contexts. `make study-ntp`; docs/results/ntp.md."""
