"""Many models and a router: facts in clusters, and whose scope a question falls into."""
