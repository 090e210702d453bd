"""Pure helpers for text: secrets taken out, JSON messages found, lines of a TOML file, durations and sizes."""
