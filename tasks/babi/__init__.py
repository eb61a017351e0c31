"""Question answering over bAbI stories, read word by word."""
