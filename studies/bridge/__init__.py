"""Does the text predict the class means of trained models? `make bridge`, docs/results/bridge.md"""
