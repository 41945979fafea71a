"""The command `trimtab`: one module per command; each parses and prints, and decides nothing."""
