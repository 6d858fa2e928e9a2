"""Pages of Wikipedia's "Did you know" to facts: lines of wikitext to sentences, or why not."""
