"""Meta-learning: the inner loop, the outer loop, the table of algorithms, and the engines that execute them."""
