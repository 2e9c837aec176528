"""How results look on a screen: one module per command, with one function `show(result, screen)`."""
