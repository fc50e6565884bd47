"""What is decided: whose word counts, what is planned, announced, asked for, and how it ends."""
