"""One module per figure: what it needs, how it is drawn, and its sentence and table."""
