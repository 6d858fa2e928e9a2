"""Facts, questions and outputs: what the lines of this study's files hold, read and checked."""
