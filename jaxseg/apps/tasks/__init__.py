"""What a run of each kind trains with, and what it starts from."""
