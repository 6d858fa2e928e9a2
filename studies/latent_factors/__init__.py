"""Do concepts find the latent factors of the text? docs/results/concepts.md."""
