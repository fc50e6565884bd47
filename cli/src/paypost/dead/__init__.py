"""Dead letters: what a consumer gave up on, as it was, with the story of why."""
