"""What happens in a run, as events, and the logs that show them."""
