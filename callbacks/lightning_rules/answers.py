"""What the network answers while it runs, and what would have been right."""
