"""What is learned and asked."""
