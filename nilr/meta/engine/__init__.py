"""How a batch of episodes is executed: one contract, several executions."""
