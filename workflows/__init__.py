"""What a person or a job runs: one module per verb, and the recipes."""
