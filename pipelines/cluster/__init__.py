"""Work on a Ray cluster: workers that are as the driver is, and what they do shared out among them."""
